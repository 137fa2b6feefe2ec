"""What methods that see a tensor as one vector need of it: its products with the other models'.

The mean of directions on a sphere, a geometric median, an arc: each is a sum of the models' vectors
with some coefficients, ``sum_i c_i w_i``. The coefficients follow from lengths and angles alone,
that is from the Gram matrix ``G_ij = w_i . w_j``, a few numbers. So one pass over the tensors
forms the matrix, whatever needs rounds is done with numbers, in float64, and a second pass adds the
vectors up. The first pass is the `summarize` of these methods, and gives the coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from conjoin.deferred import torch
from conjoin.errors import MethodError
from conjoin.methods.elections import check_real
from conjoin.methods.method import Total
from conjoin.methods.reductions import quick_products, went_well
from conjoin.methods.strips import in_strips, strips_of
from conjoin.methods.weights import shares_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Numbers",
    "coefficients_of",
    "combined",
    "directions",
    "gram_of",
    "norm_of",
    "shares_of_points",
    "squared_distances",
]

Numbers = NDArray[np.float64]

# Elements that are summed up at once, in float64: half of the length at which torch begins to use
# threads within one sum.
_STRIP = 1 << 14

# What is taken for cancelling, in `gram_of`: a cosine below this, and a sum of directions that is
# shorter than this part of its weights.
_OPPOSITE = -0.5
_SHORT = 0.1

# Coefficients larger than this cancel each other, as those of nearly opposite directions do, or
# are of a model that is tiny beside others, and may be out of range of float32.
_LARGE = 16.0


def gram_of(
    total: Total, method: str, weights: Sequence[float] | None = None, *, exact: bool = False
) -> Numbers:
    """Give ``G_ij = v_i . v_j`` of the models' tensors, or of their changes if there is a base.

    Args:
        total: the engine's.
        method: that asks, for errors.
        weights: of the models; None for equal ones.
        exact: exact to about 1e-16 of ``|v_i| |v_j|``: products of float32 have no rounding in
            float64, and neither have changes from a base of similar size. Otherwise the products
            are in float32, in less than half of the time; see `quick_products` for the error.
            Coefficients have an error of that size then, of models that are almost equal as of
            others, unless vectors cancel. So where two are nearly opposite, or the weighted sum of
            all directions is short, or a length leaves the range of float32, a second look at the
            tensors is exact.

    Returns:
        [n, n].

    Raises:
        MethodError: the tensors are complex.
    """

    def exactly(tensors: Sequence[Tensor], *, base: Tensor | None = None) -> Tensor:
        check_real(tensors[0], method)
        return _pairs(tensors, base, torch.mul)

    def quickly(tensors: Sequence[Tensor], *, base: Tensor | None = None) -> Tensor:
        check_real(tensors[0], method)
        if tensors[0].is_meta:
            return torch.zeros(len(tensors) * (len(tensors) + 1) // 2, dtype=torch.float64)
        sums = [
            quick_products(parts if base is None else [part - ancestor for part in parts])
            for parts, ancestor in strips_of(tensors, tensors[0] if base is None else base)
        ]
        return sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)

    if not exact:
        found = total.numbers(quickly)
        count = (math.isqrt(8 * len(found) + 1) - 1) // 2
        upper = np.zeros((count, count))
        upper[np.triu_indices(count)] = found
        gram = _symmetric(upper)
        if went_well(np.diagonal(gram).tolist()) and not _cancel(gram, weights):
            return gram
    return _symmetric(total(exactly).numpy())


def _cancel(gram: Numbers, weights: Sequence[float] | None) -> bool:
    """Whether errors of a Gram matrix would grow in sums of its vectors, see `gram_of`."""
    known = directions(gram)
    if known is None or not known[0].any():
        return False  # there are none; this has been looked at in float64
    numbers = np.ones(len(gram)) if weights is None else np.array(weights, dtype=np.float64)
    if len(numbers) != len(gram) or not np.isfinite(numbers).all():
        return False  # an error of the caller's
    short = norm_of(numbers, known[1]) < _SHORT * float(np.abs(numbers).sum())
    return short or float(known[1].min(initial=1.0)) < _OPPOSITE


def squared_distances(total: Total, method: str) -> Numbers:
    """Give ``D_ij = |w_i - w_j|^2`` of the models' tensors, [n, n].

    Not from the Gram matrix, where the distance between models that are near to each other is a
    small difference of large numbers.

    Raises:
        MethodError: the tensors are complex.
    """

    def distances(tensors: Sequence[Tensor]) -> Tensor:
        check_real(tensors[0], method)
        return _pairs(tensors, None, lambda one, other: (other - one).square_())

    return _symmetric(total(distances).numpy())


def directions(gram: Numbers) -> tuple[Numbers, Numbers] | None:
    """Give lengths and cosines, or None if some length overflows or is NaN.

    Returns:
        [n]: lengths; [n, n]: ``u_i . u_j`` of unit vectors. A vector of zeros has the length 0,
        and no direction: its cosines are 0.

    >>> lengths, cosines = directions(np.array([[4.0, -3.0], [-3.0, 9.0]]))
    >>> lengths.tolist(), cosines.tolist()
    ([2.0, 3.0], [[1.0, -0.5], [-0.5, 1.0]])
    """
    lengths: Numbers = np.sqrt(np.diagonal(gram))
    if not np.isfinite(gram).all():
        return None
    divisors = np.where(lengths > 0, lengths, np.inf)
    # One after the other: the product of two lengths leaves the range of float64 far sooner.
    cosines: Numbers = (gram / divisors[:, None] / divisors).clip(-1.0, 1.0)
    np.fill_diagonal(cosines, lengths > 0)
    return lengths, cosines


def shares_of_points(weights: Sequence[float], count: int, method: str) -> list[float]:
    """Give weights of points, divided by their sum.

    Raises:
        MethodError: another number of them than `count`, or NaN, infinite or negative ones, or
            only zeros.

    >>> shares_of_points([3, 1], 2, "karcher")
    [0.75, 0.25]
    """
    if any(weight < 0 for weight in weights):
        raise MethodError(
            f"{method} looks for the point that is nearest to all models, and a negative weight "
            f"among {list(weights)} would have it as far away as can be; use weights of 0 or more"
        )
    return shares_of(weights, count, method, normalize=True)


def coefficients_of(values: Numbers) -> list[float]:
    """Give coefficients as a summary: [n]."""
    return [float(value) for value in values]


def combined(
    tensors: Sequence[Tensor], summary: Sequence[float], base: Tensor | None = None
) -> Tensor:
    """Add the tensors up with coefficients: ``sum_i c_i w_i``, or ``w_0 + sum_i c_i (w_i - w_0)``.

    >>> one, other = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])
    >>> combined([one, other], [2.0, 1.0])
    tensor([5., 9.])
    >>> combined([one, other], [2.0, 1.0], base=one)
    tensor([3., 5.])
    """
    factors = [float(value) for value in summary]
    large = any(abs(factor) > _LARGE for factor in factors)
    if large and tensors[0].dtype == torch.float32:
        wide = None if base is None else base.double()
        return combined([tensor.double() for tensor in tensors], summary, wide).to(torch.float32)
    if base is None:
        return _sum(tensors, factors)

    def combine(tensors: list[Tensor], base: Tensor) -> Tensor:
        return _sum([tensor - base for tensor in tensors], factors).add_(base)

    return in_strips(combine, tensors, base)


def _sum(tensors: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
    result = tensors[0] * factors[0]
    for tensor, factor in zip(tensors[1:], factors[1:], strict=True):
        result.add_(tensor, alpha=factor)
    return result


def _pairs(
    tensors: Sequence[Tensor], base: Tensor | None, function: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Sum up an elementwise function of every pair: float64 [n, n], zeros below the diagonal."""
    count = len(tensors)
    sums = torch.zeros(count, count, dtype=torch.float64)
    if tensors[0].is_meta:
        return sums
    flat = [tensor.reshape(-1).split(_STRIP) for tensor in tensors]
    ancestors = [None] * len(flat[0]) if base is None else base.reshape(-1).split(_STRIP)
    for ancestor, *parts in zip(ancestors, *flat, strict=True):
        rows = [part.double() for part in parts]
        if ancestor is not None:
            wide = ancestor.double()
            rows = [row - wide for row in rows]
        # Pair by pair: larger temporaries take half as long again.
        for number, row in enumerate(rows):
            found = [function(row, other).sum() for other in rows[number:]]
            sums[number, number:] += torch.stack(found).cpu()
    return sums


def _symmetric(upper: Numbers) -> Numbers:
    found: Numbers = upper + np.triu(upper, 1).T
    return found


def norm_of(coefficients: Numbers, gram: Numbers) -> float:
    """Give the length of ``sum_i c_i v_i``, from the Gram matrix of the vectors.

    >>> norm_of(np.array([3.0, 4.0]), np.eye(2))
    5.0
    """
    return math.sqrt(max(0.0, float(coefficients @ gram @ coefficients)))
