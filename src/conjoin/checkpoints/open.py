"""Opening whatever holds named tensors."""

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from conjoin.checkpoints.checkpoint import Checkpoint
from conjoin.checkpoints.foreign import explain_foreign
from conjoin.checkpoints.memory import MemoryCheckpoint
from conjoin.checkpoints.module import from_module
from conjoin.checkpoints.names import closest_name
from conjoin.checkpoints.safetensors_file import SafetensorsFile
from conjoin.checkpoints.torch_file import open_torch_file
from conjoin.errors import CheckpointError, InputError

__all__ = ["as_checkpoint", "open_checkpoint"]


def open_checkpoint(path: str | os.PathLike[str], *, entry: str | None = None) -> Checkpoint:
    """Open a safetensors file or a file of `torch.save`; its content decides, not its suffix.

    Args:
        path: of the file.
        entry: for torch files in which several entries hold weights: which one, for instance
            "ema".

    Raises:
        CheckpointError: the file is missing or cannot be read as named tensors.
        InputError: `entry` does not fit.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "model.pt")
    ...     torch.save({"fc.bias": torch.zeros(2)}, path)
    ...     list(open_checkpoint(path))
    ['fc.bias']
    """
    path = Path(path)
    head = _read_head(path)
    foreign = explain_foreign(head)
    if foreign is not None:
        raise CheckpointError(f"{path} is no checkpoint: {foreign}")
    if _begins_like_safetensors(head):
        if entry is not None:
            raise InputError(
                f"{path} is a safetensors file, which has no entries to choose from; "
                f"leave out entry={entry!r}"
            )
        return SafetensorsFile(path)
    if head.startswith((b"PK", b"\x80")):
        return open_torch_file(path, entry=entry)
    if path.suffix == ".safetensors":
        return SafetensorsFile(path)  # its error says what is wrong with the header
    raise CheckpointError(
        f"{path} is neither a safetensors file nor a file of torch.save; "
        f"it begins with {head[:8]!r}"
    )


def _begins_like_safetensors(head: bytes) -> bool:
    # Length of the JSON below 2**32, then the JSON, which official files begin with a brace.
    return head[4:9] == b"\0\0\0\0{"


def _read_head(path: Path) -> bytes:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; pass one file: {_listing(path)}")
    try:
        with path.open("rb") as file:
            return file.read(64)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {path}; {_files_near(path)}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error


def _files_near(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either"
    files = _files(path.parent)
    close = closest_name(path.name, files)
    return _listing(path.parent) if close is None else f"did you mean {path.parent / close}?"


def _listing(folder: Path) -> str:
    files = _files(folder)
    if not files:
        return f"{folder} has no files"
    shown = ", ".join(files[:5]) + (", ..." if len(files) > 5 else "")
    return f"{folder} has {shown}"


def _files(folder: Path) -> list[str]:
    try:
        return sorted(item.name for item in folder.iterdir() if item.is_file())
    except OSError:
        return []


def as_checkpoint(
    obj: Checkpoint | nn.Module | Mapping[str, Tensor] | str | os.PathLike[str],
) -> Checkpoint:
    """Return a module, a mapping of tensors, or the path of a file as a checkpoint.

    Raises:
        CheckpointError: it cannot be read as named tensors.
        InputError: it is none of these.

    >>> as_checkpoint(nn.Linear(2, 1))
    <MemoryCheckpoint of module Linear: 2 tensors, 12 bytes>
    """
    if isinstance(obj, Checkpoint):
        return obj
    if isinstance(obj, nn.Module):
        return from_module(obj)
    if isinstance(obj, Mapping):
        return MemoryCheckpoint(obj)
    if isinstance(obj, str | os.PathLike):
        return open_checkpoint(obj)
    raise InputError(
        f"expected a module, a mapping of names to tensors, a checkpoint, or a path; "
        f"got {type(obj).__name__}"
    )
