"""The geometric median: the point with the least sum of distances to the models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np

from conjoin.methods.gram import (
    Numbers,
    coefficients_of,
    combined,
    shares_of_points,
    squared_distances,
)
from conjoin.methods.method import Total
from conjoin.methods.parameters import Within

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["find_geometric_median", "geometric_median"]

# Of the largest distance: what is nearer lies at the same place, up to roundings.
_SAME = 1e-7
# Of a pull: below the weight of a model by less than this is a draw.
_DRAW = 1e-9


def find_geometric_median(
    total: Total, *, weights: Sequence[float], max_iter: int = 100, tol: float = 1e-6
) -> Sequence[float]:
    """Give the coefficients ``c_i`` of the result of `geometric_median`: ``sum_i c_i w_i``.

    One look at the tensors suffices: every step of Weiszfeld's gives a mean of the models with
    other weights, and with ``sum_i c_i = 1`` the distances that it needs are

        |sum_i c_i w_i - w_k|^2 = sum_i c_i D_ik - c D c / 2,    D_ij = |w_i - w_j|^2

    Returns:
        [n].
    """
    squares = squared_distances(total, "geometric_median")
    shares = np.array(shares_of_points(weights, len(squares), "geometric_median"))
    largest = float(squares.max())
    # Overflow, or NaN: no distances. All models equal: no difference.
    if not 0 < largest < np.inf:
        return coefficients_of(shares)
    squares = squares / largest
    for number in np.flatnonzero(shares).tolist():
        if _is_median(number, squares, shares):
            # All that are at its place, so that the order of models says nothing.
            there = np.where(squares[number] <= _SAME**2, shares, 0)
            return coefficients_of(there / there.sum())
    return coefficients_of(_iterate(squares, shares, max_iter, tol))


def _is_median(number: int, squares: Numbers, shares: Numbers) -> bool:
    """Say whether a model's place is the median: the others together pull less than its weight."""
    pull, weight = _pull(number, squares, shares)
    return pull < weight * (1 - _DRAW)


def _pull(number: int, squares: Numbers, shares: Numbers) -> tuple[float, float]:
    """Give the length of the sum of unit vectors to the models elsewhere, and the weight here."""
    apart = squares[number] > _SAME**2
    pulls = np.where(apart, shares / np.sqrt(np.where(apart, squares[number], 1)), 0)
    pulls[number] -= pulls.sum()
    return _length(pulls, squares), float(shares[~apart].sum())


def _length(difference: Numbers, squares: Numbers) -> float:
    """Give ``|sum_i x_i w_i|`` for numbers x with the sum 0."""
    return float(np.sqrt(max(0.0, -0.5 * float(difference @ squares @ difference))))


def _iterate(squares: Numbers, shares: Numbers, rounds: int, tol: float) -> Numbers:
    """Go from the mean by Weiszfeld's steps until one is shorter than `tol` mean distances."""
    mean = shares
    for _ in range(rounds):
        products = squares @ mean
        distances = np.sqrt(np.maximum(products - 0.5 * float(mean @ products), 0))
        apart = distances > _SAME
        pulls = np.where(apart, shares / np.where(apart, distances, 1), 0)
        following = pulls / pulls.sum()
        if not apart.all():
            # At the place of a model Weiszfeld's step is not defined. Vardi and Zhang's goes on.
            here = int(distances.argmin())
            pull, weight = _pull(here, squares, shares)
            stay = min(1.0, weight / pull) if pull > 0 else 1.0
            following = (1 - stay) * following
            following[here] += stay
        step = _length(following - mean, squares)
        mean = following
        if step <= tol * float(shares @ distances):
            break
    return mean


def geometric_median(
    tensors: Sequence[Tensor],
    *,
    weights: Sequence[float],  # noqa: ARG001 - of find_geometric_median
    summary: Sequence[float],
    max_iter: Annotated[int, Within(0, 100_000)] = 100,  # noqa: ARG001 - of find_geometric_median
    tol: Annotated[float, Within(0, 1)] = 1e-6,  # noqa: ARG001 - of find_geometric_median
) -> Tensor:
    """Take the point with the least sum of distances to all models.

        argmin_y sum_i a_i |y - w_i|

    A whole tensor is one vector. Models with less than half of the weight can be anywhere, and
    the result stays near the others. Where several points have the least sum (models on one line),
    it is one of them, the same for every order of the models.

    Args:
        tensors: same shape, real floating.
        weights: one per tensor, not negative.
        summary: of `find_geometric_median`.
        max_iter: the number of Weiszfeld's steps at most, from the mean on. That the place of one
            of the models is the median is found without steps, and exactly.
        tol: a step that is shorter, in mean distances to the models, is the last. Steps become
            shorter by a constant factor, so that the distance left is a few of them.

    Raises:
        MethodError: weights that do not fit; complex tensors.

    Weiszfeld, Tohoku Mathematical Journal 43, 1937; Vardi and Zhang, The multivariate L1-median,
    PNAS 2000 (doi:10.1073/pnas.97.4.1423); for models: Pillutla et al., Robust aggregation for
    federated learning, IEEE TSP 2022 (arXiv:1912.13445).

    >>> import torch
    >>> from conjoin.methods import TotalOf
    >>> points = [torch.tensor([x, 0.0]) for x in (-1.0, 0.0, 100.0)]
    >>> summary = find_geometric_median(TotalOf(points), weights=[1, 1, 1])
    >>> geometric_median(points, weights=[1, 1, 1], summary=summary)
    tensor([0., 0.])
    """
    return combined(tensors, summary)
