"""A checkpoint that is another one, seen in some way."""

from collections.abc import Mapping
from pathlib import Path

from conjoin.checkpoints.checkpoint import Checkpoint
from conjoin.checkpoints.spec import Spec

__all__ = ["Wrapped", "innermost"]


class Wrapped(Checkpoint):
    """What is told of the tensors of another checkpoint; a subclass says how they are read.

    Args:
        inner: the other.
    """

    def __init__(self, inner: Checkpoint) -> None:
        self.inner = inner

    @property
    def specs(self) -> Mapping[str, Spec]:
        return self.inner.specs

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.inner.metadata

    @property
    def source(self) -> str:
        return self.inner.source

    @property
    def files(self) -> tuple[Path, ...]:
        return self.inner.files


def innermost(checkpoint: Checkpoint) -> Checkpoint:
    """Give the checkpoint that all wrappers of one are around."""
    while isinstance(checkpoint, Wrapped):
        checkpoint = checkpoint.inner
    return checkpoint
