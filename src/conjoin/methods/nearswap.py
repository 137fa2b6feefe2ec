"""NearSwap: take over what differs little."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from conjoin.methods.elections import change_from
from conjoin.methods.parameters import Within
from conjoin.methods.strips import in_strips

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["nearswap"]


def nearswap(
    tensors: Sequence[Tensor],
    *,
    base: Tensor,
    t: Annotated[float, Within(0, 3e38)] = 1e-4,
) -> Tensor:
    """Take the other model's weight where it differs by at most t, else go a step of t towards it.

        w_0 + d min(1, t / |d|) = w_0 + clamp(d, -t, t),    d = w_1 - w_0

    Args:
        tensors: one, real floating.
        base: ``w_0``, of its shape.
        t: the largest difference that is taken over whole, in units of weights. The author's
            models have 0.0001 to 0.001, and fall apart from 0.0025 on.

    Raises:
        MethodError: complex tensors.

    alchemonaut, QuartetAnemoi-70B, 2024
    (https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001).

    >>> import torch
    >>> nearswap([torch.tensor([0.5, 3.0, -3.0])], base=torch.zeros(3), t=1.0)
    tensor([ 0.5000,  1.0000, -1.0000])
    """

    def swap(tensors: list[Tensor], base: Tensor) -> Tensor:
        return change_from(base, tensors[0], "nearswap").clamp_(-t, t).add_(base)

    return in_strips(swap, tensors, base)
