"""MagMax: for each element, the largest change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from conjoin.deferred import torch
from conjoin.methods.elections import change_from, check_real
from conjoin.methods.strips import in_strips

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["magmax"]


def magmax(tensors: Sequence[Tensor], *, base: Tensor, scale: float = 1.0) -> Tensor:
    """Take the change of largest magnitude for each element: ``w_0 + s tau_j``.

        tau_i = w_i - w_0,   j = argmax_i |tau_i|

    Of a positive and a negative change of the same magnitude it is the positive one, so that the
    order of the models says nothing.

    Args:
        tensors: same shape, real floating.
        base: ``w_0``, of that shape.
        scale: the factor ``s`` ("lambda" elsewhere). The authors' code has 0.5, for tasks that were
            learned one after the other (danielm1405/magmax); choose it on validation data.

    Raises:
        MethodError: complex tensors.

    Marczak et al., MagMax: leveraging model merging for seamless continual learning, ECCV 2024
    (arXiv:2407.06322).

    >>> a, b = torch.tensor([3.0, 1.0, -1.0]), torch.tensor([-4.0, 0.0, 2.0])
    >>> magmax([a, b], base=torch.zeros(3))
    tensor([-4.,  1.,  2.])
    """
    check_real(base, "magmax")

    def merge_strip(tensors: list[Tensor], base: Tensor) -> Tensor:
        highest = change_from(base, tensors[0], "magmax")
        lowest = highest
        for tensor in tensors[1:]:
            change = change_from(base, tensor, "magmax")
            highest, lowest = torch.maximum(highest, change), torch.minimum(lowest, change)
        # The larger of two magnitudes, with the sign of their sum: a sum of two floats may be
        # rounded, but never to the other sign.
        # Of two zeros torch's maximum gives one or the other, of whichever sign: 0 makes it plus.
        largest = torch.maximum(highest, -lowest).copysign(highest + lowest + 0.0)
        return (largest * scale).add_(base)

    return in_strips(merge_strip, tensors, base)
