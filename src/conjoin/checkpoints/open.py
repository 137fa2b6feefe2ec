"""Opening whatever holds named tensors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from conjoin.checkpoints.checkpoint import Checkpoint
from conjoin.checkpoints.file import open_file
from conjoin.checkpoints.folder import open_folder
from conjoin.checkpoints.memory import MemoryCheckpoint
from conjoin.checkpoints.module import from_module
from conjoin.checkpoints.names import closest_name
from conjoin.deferred import torch
from conjoin.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["as_checkpoint", "open_checkpoint"]


def open_checkpoint(path: str | os.PathLike[str], *, entry: str | None = None) -> Checkpoint:
    """Open a safetensors file, a file of `torch.save`, or a folder of such files.

    A file's content decides, not its suffix. Which files of a folder are its weights is said in
    `open_folder`.

    Args:
        path: of the file or folder.
        entry: for torch files in which several entries hold weights: which one, for instance
            "ema".

    Raises:
        CheckpointError: the file is missing or cannot be read as named tensors; or a folder has
            no weights, or more than one set of them, or is not what its index says.
        InputError: `entry` does not fit.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "model.pt")
    ...     torch.save({"fc.bias": torch.zeros(2)}, path)
    ...     list(open_checkpoint(path))
    ['fc.bias']
    """
    path = Path(path)
    try:
        is_folder = path.is_dir()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    if is_folder:
        return open_folder(path, entry=entry)
    try:
        return open_file(path, entry=entry)
    except CheckpointError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        raise CheckpointError(
            f"there is no file {path}, and no folder; {_names_near(path)}"
        ) from error.__cause__


def _names_near(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either"
    try:
        names = sorted(item.name for item in path.parent.iterdir())
    except OSError:
        names = []
    close = closest_name(path.name, names)
    if close is not None:
        return f"did you mean {path.parent / close}?"
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{path.parent} has {shown or 'nothing in it'}"


def as_checkpoint(
    obj: Checkpoint | nn.Module | Mapping[str, Tensor] | str | os.PathLike[str],
) -> Checkpoint:
    """Return a module, a mapping of tensors, or the path of a file or folder as a checkpoint.

    Raises:
        CheckpointError: it cannot be read as named tensors.
        InputError: it is none of these.

    >>> from torch import nn
    >>> as_checkpoint(nn.Linear(2, 1))
    <MemoryCheckpoint of module Linear: 2 tensors, 12 bytes>
    """
    if isinstance(obj, Checkpoint):
        return obj
    if isinstance(obj, torch.nn.Module):
        return from_module(obj)
    if isinstance(obj, Mapping):
        return MemoryCheckpoint(obj)
    if isinstance(obj, str | os.PathLike):
        return open_checkpoint(obj)
    raise InputError(
        f"expected a module, a mapping of names to tensors, a checkpoint, or a path; "
        f"got {type(obj).__name__}"
    )
