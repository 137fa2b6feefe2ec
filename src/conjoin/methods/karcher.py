"""The Karcher mean: the mean of directions on a sphere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np

from conjoin.methods.gram import (
    Numbers,
    coefficients_of,
    combined,
    directions,
    gram_of,
    norm_of,
    shares_of_points,
)
from conjoin.methods.method import Total
from conjoin.methods.parameters import Within

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["find_karcher_mean", "karcher"]

# Of a cosine: nearer to 1 or -1 than this it is that, up to roundings.
_ROUNDING = 1e-14
# A mean of unit vectors that is shorter than this has no direction in float32.
_LEAST = 1e-6


def find_karcher_mean(
    total: Total, *, weights: Sequence[float], max_iter: int = 10, tol: float = 1e-5
) -> Sequence[float]:
    """Give the coefficients ``c_i`` of the result of `karcher`: ``sum_i c_i w_i``.

    One look at the tensors suffices. The iteration begins at a sum of the unit vectors ``u_i``. If
    ``mu = sum_i m_i u_i``, then every logarithm ``log_mu(u_i)`` is a sum of ``u_i`` and ``mu``, so
    their mean ``T`` is a sum of the unit vectors too, and so is the next point, a sum of ``mu``
    and ``T``: it never leaves their span. What a step needs besides the coefficients are ``mu . u_i
    = sum_j m_j u_i . u_j`` and the lengths of such sums, all in the matrix of cosines. So the
    iteration on coefficients is the iteration on vectors, without its roundings in their dtype.

    Returns:
        [n].
    """
    gram = gram_of(total, "karcher", weights)
    shares = np.array(shares_of_points(weights, len(gram), "karcher"))
    known = directions(gram)
    if known is None:
        return coefficients_of(shares)
    lengths, cosines = known
    used = shares * (lengths > 0)
    length = norm_of(used, cosines)
    if length <= _LEAST * used.sum():
        return coefficients_of(shares)
    mean = _iterate(used / length, used / used.sum(), cosines, max_iter, tol)
    scale = float(shares @ lengths)
    return coefficients_of(mean * scale / np.where(lengths > 0, lengths, np.inf))


def _iterate(mean: Numbers, shares: Numbers, cosines: Numbers, rounds: int, tol: float) -> Numbers:
    """Go along the mean of the logarithms until that is shorter than `tol`."""
    for _ in range(rounds):
        products = (cosines @ mean).clip(-1.0, 1.0)  # mu . u_i = cos(theta_i)
        squares = 1 - products**2
        sines = np.sqrt(np.maximum(squares, _ROUNDING))
        # log_mu(u_i) = theta_i / sin(theta_i) (u_i - cos(theta_i) mu). A model in the same
        # direction has the factor 1. One in the opposite direction pulls to all sides, so to none.
        stretch = np.where(squares > _ROUNDING, np.arccos(products) / sines, products > 0)
        pull = shares * stretch
        step = pull - float(pull @ products) * mean
        length = norm_of(step, cosines)
        if length < tol or length == 0:
            break
        mean = np.cos(length) * mean + np.sin(length) / length * step
        mean /= norm_of(mean, cosines)
    return mean


def karcher(
    tensors: Sequence[Tensor],
    *,
    weights: Sequence[float],  # noqa: ARG001 - of find_karcher_mean
    summary: Sequence[float],
    max_iter: Annotated[int, Within(0, 100_000)] = 10,  # noqa: ARG001 - of find_karcher_mean
    tol: Annotated[float, Within(0, 1)] = 1e-5,  # noqa: ARG001 - of find_karcher_mean
) -> Tensor:
    """Take the mean of directions on the sphere, and the mean of lengths.

        (sum_i a_i |w_i|) mu,    mu = argmin_u sum_i a_i angle(u, w_i)^2,    sum_i a_i = 1

    A whole tensor is one vector. A tensor of zeros has no direction, but counts as a length.
    Where directions cancel, so that they have no mean, the result is ``sum_i a_i w_i``.

    Args:
        tensors: same shape, real floating.
        weights: one per tensor, not negative; equal ones are the mean that mergekit has.
        summary: of `find_karcher_mean`.
        max_iter: the number of steps at most.
        tol: a step that is shorter, in radians, is the last.

    Raises:
        MethodError: weights that do not fit; complex tensors.

    Karcher, Riemannian center of mass and mollifier smoothing, 1977
    (doi:10.1002/cpa.3160300502); Buss and Fillmore, Spherical averages, 2001
    (doi:10.1145/502122.502124).

    >>> import torch
    >>> from conjoin.methods import TotalOf
    >>> a, b = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 1.0])
    >>> summary = find_karcher_mean(TotalOf([a, b]), weights=[1, 1])
    >>> karcher([a, b], weights=[1, 1], summary=summary)
    tensor([1.4142, 1.4142])
    """
    return combined(tensors, summary)
