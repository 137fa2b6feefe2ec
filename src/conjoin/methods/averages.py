"""Sums, averages, and one model as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from conjoin.methods.weights import fractions_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["linear", "mean", "passthrough", "sum"]


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
    return sum(tensors).div_(len(tensors))


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
    factors, divisor = fractions_of(weights, len(tensors), "linear", normalize=normalize)
    result = tensors[0] * factors[0]
    for tensor, factor in zip(tensors[1:], factors[1:], strict=True):
        result.add_(tensor, alpha=factor)  # one pass, without a tensor for the product
    return result if divisor == 1 else result.div_(divisor)


def passthrough(tensors: Sequence[Tensor], *, scale: float = 1.0) -> Tensor:
    """Take the tensor of the only model: ``s w_1``.

    For stacking layers of several models: each layer is taken from one of them. A model can have
    a layer twice; Kim et al. (SOLAR 10.7B, 2023, arXiv:2312.15166) made a deeper one so.

    Args:
        tensors: one.
        scale: its factor ``s``.

    >>> import torch
    >>> passthrough([torch.tensor([1.0, 2.0])], scale=0.5)
    tensor([0.5000, 1.0000])
    """
    return tensors[0].clone() if scale == 1 else tensors[0] * scale
