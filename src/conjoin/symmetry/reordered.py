"""A checkpoint seen in another order: tensors are reordered when they are asked for."""

from typing import TYPE_CHECKING

from torch import Tensor

from conjoin.checkpoints import Checkpoint, FileRange, Wrapped

if TYPE_CHECKING:
    from conjoin.symmetry.permutations import Permutations

__all__ = ["ReorderedCheckpoint"]


class ReorderedCheckpoint(Wrapped):
    """Another checkpoint with its hidden units reordered; nothing is read until it is asked for.

    Names, shapes, dtypes, kinds, ties and metadata are those of the other.

    Args:
        checkpoint: what is seen.
        permutations: the order.

    Raises:
        MismatchError: a tensor has another shape than the permutations are for.
    """

    def __init__(self, checkpoint: Checkpoint, permutations: "Permutations") -> None:
        super().__init__(checkpoint)
        self._permutations = permutations
        for name, spec in checkpoint.specs.items():
            permutations.check_shape(name, spec.shape)

    @property
    def source(self) -> str:
        return f"{self.inner.source}, reordered"

    def in_file(self, name: str) -> FileRange | None:
        return None if self._permutations.moves(name) else self.inner.in_file(name)

    def __getitem__(self, name: str) -> Tensor:
        found = self.inner[name]
        return self._permutations.tensor(name, found) if self._permutations.moves(name) else found

    def reads_ranges(self, name: str) -> bool:
        return not self._permutations.moves(name) and self.inner.reads_ranges(name)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        if not self._permutations.moves(name):
            return self.inner.read(name, start, stop)
        return super().read(name, start, stop)  # an order may take from anywhere in the tensor
