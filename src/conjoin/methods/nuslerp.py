"""Slerp of two models, or of their changes from a base, with weights; whole or row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from conjoin.deferred import torch
from conjoin.methods.elections import check_real
from conjoin.methods.gram import combined, gram_of
from conjoin.methods.method import Total
from conjoin.methods.rows import by_rows, row_sums
from conjoin.methods.spheres import LEAST_EPS, arc_of
from conjoin.methods.weights import shares_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["find_arc", "nuslerp"]


def find_arc(total: Total, *, weights: Sequence[float], flatten: bool = True) -> Sequence[float]:
    """Give the coefficients of both tensors as whole vectors; nothing if these are not one.

    Returns:
        [2], or [0].
    """
    t = shares_of(weights, 2, "nuslerp", normalize=True)[1]
    if not flatten:
        return ()
    (first, product), (_, second) = gram_of(total, "nuslerp").tolist()
    return arc_of(first, second, product, t=t) or (1 - t, t)


def nuslerp(
    tensors: Sequence[Tensor],
    *,
    weights: Sequence[float],
    summary: Sequence[float],
    base: Tensor | None = None,
    row_wise: bool = False,
    flatten: bool = True,
) -> Tensor:
    """Go from one tensor to the other along the arc between their directions.

        v_0 + (sin((1 - t) theta) v_1 + sin(t theta) v_2) / sin(theta),    t = a_2 / (a_1 + a_2)

    with ``v_i = w_i - w_0`` and the base ``w_0``, or ``v_i = w_i`` without one; theta is the angle
    between ``v_1`` and ``v_2``. Where the arc says nothing - vectors parallel, opposite or of
    zeros - it is the straight line ``(1 - t) v_1 + t v_2``.

    Args:
        tensors: two of one shape, real floating.
        weights: one per tensor; only their ratio counts.
        summary: of `find_arc`.
        base: the centre of the sphere; None is zero.
        row_wise: without `flatten`, vectors go along the first axis of a tensor, not along the
            last. (So it is in mergekit. Its documentation calls the former rows of a matrix.)
        flatten: a whole tensor is one vector.

    Raises:
        MethodError: weights that do not fit, or sum to zero; complex tensors.

    Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985; mergekit, 2024.

    >>> from conjoin.methods import TotalOf
    >>> a, b = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    >>> summary = find_arc(TotalOf([a, b]), weights=[2, 1])
    >>> nuslerp([a, b], weights=[2, 1], summary=summary)
    tensor([2.5981, 1.5000])
    """
    t = shares_of(weights, len(tensors), "nuslerp", normalize=True)[1]
    if flatten:
        return combined(tensors, summary, base)
    check_real(tensors[0], "nuslerp")
    given = [*tensors] if base is None else [*tensors, base]

    def interpolate(parts: list[Tensor]) -> Tensor:
        ancestor = parts[2] if base is not None else None
        one, other = parts[:2] if ancestor is None else [part - ancestor for part in parts[:2]]
        wide, wide_other = one.double(), other.double()
        pairs = ((wide, wide), (wide_other, wide_other), (wide, wide_other))
        squares, others, products = (row_sums(left * right) for left, right in pairs)
        first, second = _arc(squares, others, products, t)
        result = wide.mul_(first[:, None]).add_(wide_other.mul_(second[:, None]))
        return result if ancestor is None else result.add_(ancestor)

    shape = tensors[0].shape or torch.Size([1])
    if not row_wise:
        rows = [tensor.reshape(-1, max(shape[-1], 1)) for tensor in given]
        return by_rows(interpolate, rows).view(tensors[0].shape)
    columns = [tensor.reshape(max(shape[0], 1), -1).t() for tensor in given]
    return by_rows(interpolate, columns).t().reshape(tensors[0].shape)


def _arc(first: Tensor, second: Tensor, product: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Give both coefficients of many pairs as `arc_of` does: float64 of any shape."""
    lengths = first.sqrt() * second.sqrt()
    cosine = product / lengths
    # Comparisons with NaN are false: a vector of zeros, or one that overflows, is no arc.
    arc = (cosine.abs() <= 1 - LEAST_EPS) & (lengths > 0) & (lengths < torch.inf)
    theta = torch.where(arc, cosine, 0.0).acos()
    sine = theta.sin()
    return (
        torch.where(arc, ((1 - t) * theta).sin() / sine, 1 - t),
        torch.where(arc, (t * theta).sin() / sine, t),
    )
