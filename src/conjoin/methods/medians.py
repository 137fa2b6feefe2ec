"""Averages that a single model cannot spoil, element by element."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from conjoin.deferred import torch
from conjoin.methods.elections import check_real
from conjoin.methods.parameters import Within
from conjoin.methods.strips import in_strips

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["median", "trimmed_mean"]

# Of a share times a number of models, so that 0.29 of 100 is 29.
_ROUNDING = 1e-9


def median(tensors: Sequence[Tensor]) -> Tensor:
    """Take the median of each element; of an even number, the mean of the middle two.

    Fewer than half of the models can have any values there, and the result stays among the others'.

    Args:
        tensors: same shape, real floating.

    Raises:
        MethodError: complex tensors.

    Yin et al., Byzantine-robust distributed learning, ICML 2018 (arXiv:1803.01498).

    >>> median([torch.tensor([1.0, 5.0]), torch.tensor([3.0, -90.0]), torch.tensor([2.0, 6.0])])
    tensor([2., 5.])
    """
    check_real(tensors[0], "median")
    return _mean_of_middle(tensors, (len(tensors) - 1) // 2)


def trimmed_mean(
    tensors: Sequence[Tensor], *, trim: Annotated[float, Within(0, 0.5)] = 0.1
) -> Tensor:
    """Leave out the smallest and the largest values of each element, and average the rest.

        mean of w_(k+1) <= ... <= w_(n-k),    k = the whole part of trim n, but at least 1

    Args:
        tensors: same shape, real floating.
        trim: share of the models that is left out at each end: 0 is the mean, 0.5 the median. Of
            three models or more at least one is left out at each end, unless it is 0; of one or
            two, none.

    Raises:
        MethodError: complex tensors.

    Yin et al., Byzantine-robust distributed learning, ICML 2018 (arXiv:1803.01498).

    >>> trimmed_mean([torch.tensor([value]) for value in (1.0, 90.0, 2.0, 6.0)], trim=0.25)
    tensor([4.])
    """
    check_real(tensors[0], "trimmed_mean")
    count = len(tensors)
    cut = max(1, int(trim * count + _ROUNDING)) if trim else 0
    return _mean_of_middle(tensors, min(cut, (count - 1) // 2))


def _mean_of_middle(tensors: Sequence[Tensor], cut: int) -> Tensor:
    """Average what is left of each element without the `cut` smallest and largest."""
    count = len(tensors)
    network = _network(count, cut)

    def merge(tensors: list[Tensor], _: Tensor) -> Tensor:
        values = list(tensors)
        for low, high, keep_low, keep_high in network:
            one, other = values[low], values[high]
            if keep_low:
                values[low] = torch.minimum(one, other)
            if keep_high:
                values[high] = torch.maximum(one, other)
        # Zero at the beginning: of 0 and -0 torch takes either for the smaller.
        total = values[cut] + 0.0
        for value in values[cut + 1 : count - cut]:
            total += value
        return total if count - 2 * cut == 1 else total.div_(count - 2 * cut)

    return in_strips(merge, tensors, tensors[0])


@functools.cache
def _network(count: int, cut: int) -> list[tuple[int, int, bool, bool]]:
    """Give the comparisons that bring the middle of `count` values to its places, in their order.

    Each puts the smaller of two places into the first and the larger into the second, as far as
    either is looked at later. A sorting network has no branches, and so works on whole tensors;
    sorting along an axis takes ten times as long. Batcher's, of n log(n)^2 / 4 comparisons: Knuth,
    The Art of Computer Programming 3, algorithm 5.2.2M.
    """
    pairs = []
    top = 1 << max(count - 1, 0).bit_length() >> 1
    width = top
    while width > 0:
        limit, side, distance = top, 0, width
        while distance > 0:
            pairs += [(i, i + distance) for i in range(count - distance) if i & width == side]
            distance, limit, side = limit - width, limit >> 1, width
        width >>= 1
    # Without trimming the order says nothing; otherwise only the middle is looked at.
    needed = set(range(cut, count - cut)) if cut else set()
    used = []
    for low, high in reversed(pairs):
        if low in needed or high in needed:
            used.append((low, high, low in needed, high in needed))
            needed |= {low, high}
    return used[::-1]
