"""A model named on the command line: a path, or a reference to the Hub or to an adapter."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conjoin.checkpoints import Checkpoint

__all__ = ["is_path", "open_model"]

_OF_FILES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def is_path(text: str) -> bool:
    """Whether a path is meant, there or not, and not a reference.

    >>> is_path("missing.pt"), is_path("org/name@main+org/adapter"), is_path("hf://org/name.pt")
    (True, False, False)
    """
    if text.startswith("hf://"):
        return False
    return Path(text).exists() or (text.endswith(_OF_FILES) and not {"@", "+"} & set(text))


def open_model(text: str, entry: str | None) -> "Checkpoint":
    """Open a model; of a path that is missing, the error has the closest name.

    Raises:
        InputError, CheckpointError: it cannot be opened.
    """
    from conjoin.checkpoints import open_checkpoint, open_reference

    if is_path(text):
        return open_checkpoint(text, entry=entry)
    return open_reference(text, entry=entry)
