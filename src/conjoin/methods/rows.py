"""Methods that look at each row of a tensor: rows in groups, and their sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from conjoin.deferred import torch
from conjoin.methods.reductions import sum_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["by_rows", "groups_of_rows", "row_sums"]

# Elements of a group of rows: what is made of it in float64 stays in the cache.
_GROUP = 1 << 16
# Torch uses threads within one sum from twice this length on.
_LONG = 1 << 14


def groups_of_rows(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Cut matrices of one shape, with elements, into groups of their rows.

    >>> [part.shape for part, in groups_of_rows([torch.ones(3, 1 << 15)])]
    [torch.Size([2, 32768]), torch.Size([1, 32768])]
    """
    step = max(1, _GROUP // tensors[0].shape[1])
    yield from map(list, zip(*(tensor.split(step) for tensor in tensors), strict=True))


def by_rows(function: Callable[[list[Tensor]], Tensor], tensors: Sequence[Tensor]) -> Tensor:
    """Call a function of matrices on groups of their rows, and join the results.

    Args:
        function: of matrices of one shape; it gives one of that shape.
        tensors: matrices of one shape, at least one.

    >>> by_rows(lambda parts: parts[0] + parts[1], [torch.ones(2, 2), torch.eye(2)])
    tensor([[2., 1.],
            [1., 2.]])
    """
    result = torch.empty_like(tensors[0], memory_format=torch.contiguous_format)
    if result.is_meta or result.numel() == 0:
        return result
    start = 0
    for parts in groups_of_rows(tensors):
        stop = start + len(parts[0])
        result[start:stop] = function(parts)
        start = stop
    return result


def row_sums(matrix: Tensor) -> Tensor:
    """Add up each row in float64, with bits that do not depend on the number of threads: [rows].

    >>> row_sums(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([3., 7.], dtype=torch.float64)
    """
    if matrix.shape[1] > _LONG:
        return torch.stack([sum_of(row) for row in matrix])
    return matrix.sum(1, dtype=torch.float64)
