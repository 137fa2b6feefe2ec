"""A checkpoint seen in another order: tensors are reordered when they are asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from conjoin.checkpoints import Checkpoint, Spec

if TYPE_CHECKING:
    from conjoin.symmetry.permutations import Permutations

__all__ = ["ReorderedCheckpoint"]


class ReorderedCheckpoint(Checkpoint):
    """Another checkpoint with its hidden units reordered; nothing is read until it is asked for.

    Names, shapes, dtypes, kinds, ties and metadata are those of the other.

    Args:
        checkpoint: what is seen.
        permutations: the order.

    Raises:
        MismatchError: a tensor has another shape than the permutations are for.
    """

    def __init__(self, checkpoint: Checkpoint, permutations: "Permutations") -> None:
        self._checkpoint, self._permutations = checkpoint, permutations
        for name, spec in checkpoint.specs.items():
            permutations.check_shape(name, spec.shape)

    @property
    def specs(self) -> Mapping[str, Spec]:
        return self._checkpoint.specs

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._checkpoint.metadata

    @property
    def source(self) -> str:
        return f"{self._checkpoint.source}, reordered"

    @property
    def files(self) -> tuple[Path, ...]:
        return self._checkpoint.files

    def byte_range(self, name: str) -> tuple[Path, int, int] | None:
        return None if self._permutations.moves(name) else self._checkpoint.byte_range(name)

    def __getitem__(self, name: str) -> Tensor:
        found = self._checkpoint[name]
        return self._permutations.tensor(name, found) if self._permutations.moves(name) else found

    def reads_ranges(self, name: str) -> bool:
        return not self._permutations.moves(name) and self._checkpoint.reads_ranges(name)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        if not self._permutations.moves(name):
            return self._checkpoint.read(name, start, stop)
        return super().read(name, start, stop)  # an order may take from anywhere in the tensor
