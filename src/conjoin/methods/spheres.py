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

__all__ = ["measure_angle", "slerp"]

# The roundings of a cosine, and then some. Of opposite vectors nothing else keeps the sine from
# being a rounding.
_LEAST_EPS = 1e-12


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
    cosine = _cosine(*map(float, summary))
    if cosine is None or abs(cosine) > 1 - max(eps, _LEAST_EPS):
        return torch.lerp(first, second, t)
    theta = math.acos(cosine)
    sine = math.sin(theta)
    factors = [math.sin((1 - t) * theta) / sine, math.sin(t * theta) / sine]
    return combined(tensors, factors)


def _cosine(first: float, second: float, product: float) -> float | None:
    """Give the cosine of the angle, or None if a vector has no direction (or overflows)."""
    # Two roots, since the product of two squared norms leaves the range of float64 far sooner.
    lengths = math.sqrt(first) * math.sqrt(second)
    if not 0 < lengths < math.inf or not math.isfinite(product):
        return None
    return product / lengths
