"""Files of `torch.save` as checkpoints, without ever running what is pickled in them."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conjoin.checkpoints.foreign import explain_foreign
from conjoin.checkpoints.memory import MemoryCheckpoint
from conjoin.checkpoints.unwrap import unwrap
from conjoin.deferred import torch
from conjoin.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TorchFile", "open_torch_file"]

# Before torch 1.6, files began with this number as a pickle of its own.
_LEGACY_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
_RESAVE = (
    "a file that needs its own classes is never unpickled here, since that can run any code; "
    "where it was made, save tensors only: torch.save(model.state_dict(), path)"
)


class TorchFile(MemoryCheckpoint):
    """The state dict of a file of `torch.save`; made by `open_torch_file`.

    A worker process is sent the path, not the tensors, and opens the file itself.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        path: Path,
        *,
        entry: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(tensors, source=str(path), metadata=metadata)
        self._path, self._chosen = path, entry

    @property
    def files(self) -> tuple[Path, ...]:
        return (self._path,)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._path, self._chosen)


def _reopen(path: Path, entry: str | None) -> TorchFile:
    return open_torch_file(path, entry=entry)


def open_torch_file(path: str | os.PathLike[str], *, entry: str | None = None) -> TorchFile:
    """Open a file of `torch.save`, by `torch.load(weights_only=True)`.

    The state dict is looked for inside the usual wrappings (see `unwrap`); what was removed is
    said in `metadata["conjoin.unwrapped"]`. In the zip format (since torch 1.6) data are mapped
    and read when a tensor is used; the older format is read whole.

    Args:
        path: of the file.
        entry: which key holds the weights, if several do, for instance "ema".

    Raises:
        CheckpointError: the file is damaged, holds no state dict, or would need to run code.
        InputError: `entry` does not fit.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "last.ckpt")
    ...     torch.save({"state_dict": {"fc.bias": torch.zeros(2)}, "epoch": 3}, path)
    ...     checkpoint = open_torch_file(path)
    >>> list(checkpoint), checkpoint.metadata["conjoin.unwrapped"]
    (['fc.bias'], "took the entry 'state_dict' and ignored 'epoch'")
    """
    path = Path(path)
    obj = _load(path)
    tensors, notes = unwrap(obj, entry=entry, source=str(path))
    metadata = {"conjoin.unwrapped": "; ".join(notes)} if notes else {}
    return TorchFile(tensors, path, entry=entry, metadata=metadata)


def _load(path: Path) -> object:
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    foreign = explain_foreign(head)
    if foreign is not None:
        raise CheckpointError(f"{path} is no file of torch.save: {foreign}")
    is_zip = head.startswith(b"PK")
    if is_zip:
        _check_archive(path)
    elif _LEGACY_MAGIC not in head:
        raise CheckpointError(
            f"{path} is no file of torch.save"
            + (": it is a pickle of another program; " + _RESAVE if head[:1] == b"\x80" else "")
        )
    try:
        # Only the zip format can be mapped, and only by its path; but newer torch believes a path
        # with this suffix, whatever the file holds.
        if is_zip and path.suffix != ".safetensors":
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can fail in any way that the unpickler can
        # torch names the class that it refuses in one of two phrases, both with this word.
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused is not None:
            raise CheckpointError(
                f"{path} cannot be opened safely: it contains {refused[1]}, not only tensors; "
                + _RESAVE
            ) from None
        raise CheckpointError(
            f"{path} cannot be opened as a file of torch.save: it is damaged, incomplete, or a "
            f"pickle of another kind ({_reason(error)}); {_RESAVE}"
        ) from error


def _reason(error: Exception) -> str:
    # torch puts advice around the reason; it advises to unpickle without safety, among others.
    advice = ("Weights only load failed", "Check the documentation", "(1)", "(2)", "Please file")
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith(advice)]
    return lines[0] if lines else type(error).__name__


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.rpartition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is a damaged or incomplete zip archive ({error}); copy or download it again"
        ) from error
    if "constants.pkl" in members:
        raise CheckpointError(
            f"{path} is a TorchScript archive, a program with weights in it; load it with "
            "torch.jit.load and save its state_dict()"
        )
    if "data.pkl" not in members:
        raise CheckpointError(
            f"{path} is a zip archive, but not of torch.save; unpack it, or save the model anew "
            "by torch.save(model.state_dict(), path)"
        )
