"""Consensus merging and TALL masks: which elements of the merged change are of use to a task.

    tau_t = w_t - w_0,   tau = sum_t a_t tau_t,   m_t = [|tau_t| > l_t |tau - tau_t|]

An element is of use to a task if the task changed it by more than what merging would change it
besides. Consensus merging drops elements that are of use to none ("catastrophic") or to one
("selfish"); a TALL mask leaves the elements that are of use to one task, which restores the model
of that task nearly, from the one sum and a bit for each element.

Wang et al., Localizing task information for improved model merging and compression, ICML 2024
(arXiv:2405.07813).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, TypeAlias

from conjoin.deferred import torch
from conjoin.errors import MethodError
from conjoin.methods.elections import change_from, check_real
from conjoin.methods.parameters import Within, one_per_model
from conjoin.methods.strips import in_strips
from conjoin.methods.weights import added_up, fractions_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["check_task", "consensus", "tall_mask"]

Threshold: TypeAlias = Annotated[float | Sequence[float], Within(0, math.inf)]


def consensus(
    tensors: Sequence[Tensor],
    *,
    base: Tensor,
    weights: Sequence[float],
    threshold: Threshold = 0.4,
    agree: Annotated[int, Within(0, math.inf)] = 2,
    normalize: bool = False,
    scale: float = 1.0,
) -> Tensor:
    """Add those elements of the sum of changes that are of use to several tasks.

        w_0 + s [sum_t m_t >= k] tau        (the rest is in the module's text)

    Args:
        tensors: one model per task, same shape, real floating.
        base: ``w_0``, of that shape.
        weights: one number ``a_t`` per tensor.
        threshold: ``l_t``, for all tasks or for each; larger ones leave fewer elements to a task.
            The paper chooses from 0.2 to 0.6 on data of the task.
        agree: ``k``, how many tasks have to agree. 1 drops what is of use to none; 0 drops nothing,
            which is task arithmetic.
        normalize: divide ``tau`` by the sum of the weights.
        scale: the factor ``s`` of the change ("alpha" in the paper, from 0 to 1).

    Raises:
        MethodError: weights that do not fit; more have to agree than there are; complex tensors.

    >>> a, b, c = torch.tensor([2.0, 1.0]), torch.tensor([2.0, 0.0]), torch.tensor([0.5, 0.0])
    >>> consensus([a, b, c], base=torch.zeros(2), weights=[1, 1, 1])
    tensor([4.5000, 0.0000])
    """
    factors, divisor = fractions_of(weights, len(tensors), "consensus", normalize=normalize)
    thresholds = one_per_model(threshold, len(tensors))
    if agree > len(tensors):
        raise MethodError(
            f"consensus: agree is {agree}, and {len(tensors)} models can never be so many; every "
            f"change would be dropped. Set agree to {len(tensors)} or fewer"
        )
    check_real(base, "consensus")

    def merge_strip(tensors: list[Tensor], base: Tensor) -> Tensor:
        merged = added_up((tensor - base for tensor in tensors), factors, divisor)
        votes = torch.zeros_like(base)
        for tensor, limit in zip(tensors, thresholds, strict=True):
            votes.add_(_mask(change_from(base, tensor, "consensus"), merged, limit))
        return merged.mul_(torch.ge(votes, agree, out=votes)).mul_(scale).add_(base)

    return in_strips(merge_strip, tensors, base)


def tall_mask(
    tensors: Sequence[Tensor],
    *,
    base: Tensor,
    weights: Sequence[float],
    task: int = 0,
    threshold: Threshold = 0.4,
    normalize: bool = False,
    scale: float = 1.0,
) -> Tensor:
    """Add those elements of the sum of changes that are of use to one task: ``w_0 + s m_t tau``.

    Args:
        tensors: one model per task, same shape, real floating.
        base: ``w_0``, of that shape.
        weights: one number ``a_t`` per tensor.
        task: number of the task whose model is wanted, from 0.
        threshold: ``l_t``, for all tasks or for each, as in `consensus`.
        normalize: divide ``tau`` by the sum of the weights.
        scale: the factor ``s`` of the change.

    Raises:
        MethodError: weights that do not fit; a task that is not there; complex tensors.

    >>> a, b = torch.tensor([2.0, 1.0]), torch.tensor([1.0, 5.0])
    >>> tall_mask([a, b], base=torch.zeros(2), weights=[1, 1])
    tensor([3., 0.])
    """
    factors, divisor = fractions_of(weights, len(tensors), "tall_mask", normalize=normalize)
    limit = one_per_model(threshold, len(tensors))[check_task(task, len(tensors), "tall_mask")]
    check_real(base, "tall_mask")

    def merge_strip(tensors: list[Tensor], base: Tensor) -> Tensor:
        merged = added_up((tensor - base for tensor in tensors), factors, divisor)
        mask = _mask(change_from(base, tensors[task], "tall_mask"), merged, limit)
        return merged.mul_(mask).mul_(scale).add_(base)

    return in_strips(merge_strip, tensors, base)


def check_task(task: int, count: int, method: str) -> int:
    """Give the number of a task.

    Raises:
        MethodError: there is none of this number.

    >>> check_task(1, 2, "emr")
    1
    """
    if not 0 <= task < count:
        raise MethodError(f"{method}: task must be a number from 0 to {count - 1}, not {task}")
    return task


def _mask(change: Tensor, merged: Tensor, threshold: float) -> Tensor:
    """Give ``m_t`` as zeros and ones. The change is used up."""
    others = (merged - change).abs_().mul_(threshold)
    return torch.gt(change.abs_(), others, out=torch.empty_like(others))
