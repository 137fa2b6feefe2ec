"""Adding what models have learned to their common base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from conjoin.methods.strips import in_strips
from conjoin.methods.weights import added_up, fractions_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["task_arithmetic"]


def task_arithmetic(
    tensors: Sequence[Tensor],
    *,
    base: Tensor,
    weights: Sequence[float],
    normalize: bool = False,
    scale: float = 1.0,
) -> Tensor:
    """Add the changes from the base up: ``w_0 + s sum_i a_i (w_i - w_0)``.

    Args:
        tensors: same shape, floating.
        base: ``w_0``, of that shape.
        weights: one number per tensor; a negative one takes an ability away.
        normalize: divide by the sum of the weights.
        scale: the factor ``s`` of the whole change ("lambda" elsewhere, a word that Python keeps).

    Raises:
        MethodError: another number of weights than tensors, NaN or infinite ones, or ones that
            sum to zero (or nearly) under normalization.

    Ilharco et al., Editing models with task arithmetic, ICLR 2023 (arXiv:2212.04089).

    >>> import torch
    >>> base, a, b = torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([5.0])
    >>> task_arithmetic([a, b], base=base, weights=[1, 0.5])
    tensor([4.])
    """
    factors, divisor = fractions_of(
        weights, len(tensors), "task_arithmetic", normalize=normalize, scale=scale
    )

    # Not as one sum of w_0 and all w_i with other weights, which would be faster: there equal
    # models would differ from their base by roundings.
    def merge_strip(tensors: list[Tensor], base: Tensor) -> Tensor:
        changes = (tensor - base for tensor in tensors)
        return added_up(changes, factors, divisor).add_(base)

    return in_strips(merge_strip, tensors, base)
