"""Opening one file of named tensors, whatever its format: its content decides, not its suffix."""

import os
from pathlib import Path

from conjoin.checkpoints.foreign import explain_foreign
from conjoin.checkpoints.safetensors_file import SafetensorsFile
from conjoin.checkpoints.torch_file import TorchFile, open_torch_file
from conjoin.errors import CheckpointError, InputError

__all__ = ["open_file"]


def open_file(
    path: str | os.PathLike[str], *, entry: str | None = None
) -> SafetensorsFile | TorchFile:
    """Open a safetensors file or a file of `torch.save`.

    Args:
        path: of the file.
        entry: for torch files in which several entries hold weights: which one.

    Raises:
        CheckpointError: the file cannot be read as named tensors.
        InputError: `entry` does not fit.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "model.pt")
    ...     torch.save({"fc.bias": torch.zeros(2)}, path)
    ...     list(open_file(path))
    ['fc.bias']
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
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
