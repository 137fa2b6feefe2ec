"""Interpolation on spheres."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from conjoin.deferred import torch
from conjoin.methods.gram import combined, gram_of
from conjoin.methods.method import Total
from conjoin.methods.parameters import Within

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LEAST_EPS", "arc_of", "measure_angle", "slerp"]

LEAST_EPS = 1e-12
"""The roundings of a cosine, and then some. Of opposite vectors nothing else keeps the sine from
being a rounding."""


def measure_angle(total: Total) -> Sequence[float]:
    """Give ``a.a``, ``b.b`` and ``a.b`` of the two tensors, as vectors: what `slerp` needs.

    Returns:
        [3].
    """
    (first, product), (_, second) = gram_of(total, "slerp").tolist()
    return first, second, product


def slerp(
    tensors: Sequence[Tensor],
    *,
    summary: Sequence[float],
    t: Annotated[float, Within(0, 1)] = 0.5,
    eps: Annotated[float, Within(0, 1)] = 1e-8,
) -> Tensor:
    """Go from one tensor to the other along the arc between their directions.

        (sin((1 - t) theta) w_1 + sin(t theta) w_2) / sin(theta)
        cos(theta) = w_1.w_2 / (|w_1| |w_2|)

    A whole tensor is one vector. Where the arc says nothing - vectors near parallel or opposite,
    or one of zeros - it is the straight line ``(1 - t) w_1 + t w_2``.

    Args:
        tensors: two of one shape.
        summary: of `measure_angle`.
        t: 0 gives the first, 1 the second.
        eps: the straight line is used where ``|cos(theta)| > 1 - eps``. By default it is where
            the two agree to about the rounding of float32 (1e-12 at least); mergekit has 0.0005.

    Raises:
        MethodError: complex tensors, from `measure_angle`.

    Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985.

    >>> a, b = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    >>> slerp([a, b], summary=[9.0, 9.0, 0.0], t=1 / 3)
    tensor([2.5981, 1.5000])
    """
    first, second = tensors
    if first.is_meta:
        return torch.empty_like(first)
    factors = arc_of(*map(float, summary), t=t, eps=eps)
    return first.lerp(second, t) if factors is None else combined(tensors, factors)


def arc_of(
    first: float, second: float, product: float, *, t: float, eps: float = 0.0
) -> tuple[float, float] | None:
    """Give the coefficients of two vectors on the arc between their directions.

    Args:
        first, second: their squared norms.
        product: their product.
        t: 0 gives the first, 1 the second.
        eps: there is no arc where ``|cos(theta)| > 1 - eps``, nor with 1e-12 for it.

    Returns:
        None if there is no arc: also where a vector has no direction, or overflows.

    >>> [round(factor, 6) for factor in arc_of(9.0, 4.0, 0.0, t=1 / 3)]
    [0.866025, 0.5]
    """
    # Two roots, since the product of two squared norms leaves the range of float64 far sooner.
    lengths = math.sqrt(first) * math.sqrt(second)
    if not 0 < lengths < math.inf or not math.isfinite(product):
        return None
    cosine = product / lengths
    if abs(cosine) > 1 - max(eps, LEAST_EPS):
        return None
    theta = math.acos(cosine)
    sine = math.sin(theta)
    return math.sin((1 - t) * theta) / sine, math.sin(t * theta) / sine
