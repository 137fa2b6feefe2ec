"""Sums and averages."""

import math
from collections.abc import Sequence

from torch import Tensor

from conjoin.errors import MethodError

__all__ = ["linear", "mean", "sum"]


def sum(tensors: Sequence[Tensor]) -> Tensor:
    """Add the tensors up: ``w_1 + ... + w_n``.

    This is what the thread tried. For networks it doubles every activation of a layer, which only
    a network without biases and with BatchNorm would not mind.

    >>> import torch
    >>> sum([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])])
    tensor([4., 7.])
    """
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total += tensor
    return total


def mean(tensors: Sequence[Tensor]) -> Tensor:
    """Average the tensors: ``(w_1 + ... + w_n) / n``.

    Wortsman et al., Model soups, ICML 2022 (arXiv:2203.05482).

    >>> import torch
    >>> mean([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])])
    tensor([2.0000, 3.5000])
    """
    return sum(tensors) / len(tensors)


def linear(
    tensors: Sequence[Tensor], *, weights: Sequence[float], normalize: bool = True
) -> Tensor:
    """Add the tensors up with weights: ``sum_i a_i w_i``, divided by ``sum_i a_i`` if normalized.

    Args:
        tensors: same shape, floating.
        weights: one number per tensor.
        normalize: divide by the sum of the weights.

    Raises:
        MethodError: another number of weights than tensors, NaN or infinite ones, or ones that
            sum to zero (or nearly) under normalization.

    >>> import torch
    >>> a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])
    >>> linear([a, b], weights=[3, 1])
    tensor([1.5000, 2.7500])
    >>> linear([a, b], weights=[1, -1], normalize=False)
    tensor([-2., -3.])
    """
    if len(weights) != len(tensors):
        raise MethodError(f"linear needs one weight per model: {len(tensors)}, not {len(weights)}")
    if not all(map(math.isfinite, weights)):
        raise MethodError(f"the weights must be finite numbers, not {list(weights)}")
    scale = 1.0
    if normalize:
        total, size = math.fsum(weights), math.fsum(map(abs, weights))
        if abs(total) <= 1e-9 * size or size == 0:
            raise MethodError(
                f"the weights {list(weights)} sum to zero, so they cannot be normalized; "
                "set the parameter normalize to false, or change them"
            )
        scale = 1.0 / total
    result = tensors[0] * (weights[0] * scale)
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        result += tensor * (weight * scale)
    return result
