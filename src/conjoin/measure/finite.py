"""Counting NaN and infinity."""

from dataclasses import dataclass

import torch
from torch import Tensor

from conjoin.arguments import as_whole
from conjoin.checkpoints import as_checkpoint
from conjoin.measure.chunks import CHUNK, chunks
from conjoin.measure.distances import Model

__all__ = ["FiniteCount", "count_nonfinite", "nonfinite_tensors"]


@dataclass(frozen=True, slots=True)
class FiniteCount:
    """How many elements of a tensor are no finite numbers.

    Args:
        nan: elements that are NaN; a complex number is if one of its parts is.
        inf: elements that are infinite, of either sign, and not NaN.
        count: all elements.

    >>> FiniteCount(nan=0, inf=1, count=4).all_finite
    False
    """

    nan: int
    inf: int
    count: int

    @property
    def all_finite(self) -> bool:
        """Whether there is neither NaN nor infinity."""
        return self.nan == self.inf == 0


def count_nonfinite(model: Model, name: str, *, chunk: int = CHUNK) -> FiniteCount:
    """Count NaN and infinity in one tensor, reading `chunk` elements at a time.

    Integers are finite, so that nothing is read for them.

    Args:
        model: whatever `as_checkpoint` takes: a module, a mapping, a checkpoint, a path.
        name: of the tensor.
        chunk: elements that are read at a time.

    Raises:
        InputError: `chunk` is no number of elements.

    >>> count_nonfinite({"a": torch.tensor([1.0, float("nan"), float("-inf")])}, "a")
    FiniteCount(nan=1, inf=1, count=3)
    """
    checkpoint, chunk = as_checkpoint(model), as_whole(chunk, "chunk", 1)
    spec = checkpoint.spec_of(name)
    nan = inf = 0
    if spec.dtype.is_floating_point or spec.dtype.is_complex:
        for piece in chunks(checkpoint, name, chunk):
            values = _comparable(piece)
            nans = torch.isnan(values)
            nan += int(nans.sum())
            inf += int((torch.isinf(values) & ~nans).sum())
    return FiniteCount(nan, inf, spec.numel)


def nonfinite_tensors(model: Model) -> dict[str, FiniteCount]:
    """Return the counts of the tensors that have NaN or infinity; empty if all is finite.

    Args:
        model: whatever `as_checkpoint` takes: a module, a mapping, a checkpoint, a path. A tied
            tensor is counted once, under its first name.

    >>> nonfinite_tensors({"a": torch.ones(2), "b": torch.tensor([float("inf")])})
    {'b': FiniteCount(nan=0, inf=1, count=1)}
    """
    checkpoint = as_checkpoint(model)
    found = {
        name: count_nonfinite(checkpoint, name)
        for name, spec in checkpoint.specs.items()
        if spec.alias_of is None
    }
    return {name: count for name, count in found.items() if not count.all_finite}


def _comparable(tensor: Tensor) -> Tensor:
    # 8-bit floats have no isnan of their own.
    return tensor.to(torch.float32) if tensor.dtype.itemsize == 1 else tensor
