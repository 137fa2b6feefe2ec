"""Reinforced agent merging: keep what one model changed, average what several changed.

Reinforcement learning changes few weights. A mean over all models would shrink a change that only
one of them has, so each element is divided by the number of models that changed it.

    tau_i = w_i - w_0,   m_i = [|tau_i| > eps],   c = sum_i m_i
    w_0 + s sum_i f_i m_i tau_i / max(c, 1)

with ``f_i = 1`` (RAM), or, where ``c = 1``, ``f_i = lambda_i`` (RAM+):

    lambda_i = 1 + r min(alpha, shared_i / unique_i)

of the numbers of elements that model i changed together with others, and alone.

Reinforced agent merging (arXiv:2601.13572).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from conjoin.deferred import torch
from conjoin.methods.elections import change_from, check_real
from conjoin.methods.method import Total
from conjoin.methods.parameters import Within
from conjoin.methods.strips import in_strips, strips_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["count_changed", "ram", "ramplus_tl"]


def ram(
    tensors: Sequence[Tensor],
    *,
    base: Tensor,
    epsilon: Annotated[float, Within(0, 1)] = 1e-5,
    scale: float = 1.0,
) -> Tensor:
    """Add what one model changed, and the mean of what several changed, as the module says.

    Args:
        tensors: same shape, real floating.
        base: ``w_0``, of that shape.
        epsilon: a change not larger than this is none.
        scale: the factor ``s`` of the whole change.

    Raises:
        MethodError: complex tensors.

    >>> a, b = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([0.0, 4.0, 0.0])
    >>> ram([a, b], base=torch.zeros(3))
    tensor([1., 3., 0.])
    """
    check_real(base, "ram")

    def merge_strip(tensors: list[Tensor], base: Tensor) -> Tensor:
        total, counts = torch.zeros_like(base), torch.zeros_like(base)
        for change, changed in _changes(tensors, base, epsilon, "ram"):
            total.add_(change)
            counts.add_(changed)
        return total.div_(counts.clamp_(min=1)).mul_(scale).add_(base)

    return in_strips(merge_strip, tensors, base)


def count_changed(total: Total, *, epsilon: float = 1e-5) -> Tensor:
    """Count the elements that each model changed, with others and alone: what RAM+ needs.

    Returns:
        int64 [2, n]: shared, unique.
    """

    def count(tensors: Sequence[Tensor], *, base: Tensor) -> Tensor:
        found = torch.zeros(2, len(tensors), dtype=torch.int64)
        if base.is_meta:
            return found
        for parts, ancestor in strips_of(tensors, base):
            masks = [mask for _, mask in _changes(parts, ancestor, epsilon, "ramplus_tl")]
            counts = torch.zeros_like(ancestor)
            for mask in masks:
                counts.add_(mask)
            alone = torch.eq(counts, 1, out=counts)
            for number, mask in enumerate(masks):
                # Whole numbers below 2**24 have exact sums in float32, in any order.
                unique = int(torch.dot(mask, alone))
                found[0, number] += int(mask.sum()) - unique
                found[1, number] += unique
        return found

    return total(count)


def ramplus_tl(
    tensors: Sequence[Tensor],
    *,
    base: Tensor,
    summary: Tensor,
    r: Annotated[float, Within(0, 1000)] = 0.1,
    alpha: Annotated[float, Within(0, 1000)] = 0.2,
    epsilon: Annotated[float, Within(0, 1)] = 1e-5,
    per: Literal["tensor", "model"] = "tensor",  # noqa: ARG001 - of the engine
    scale: float = 1.0,
) -> Tensor:
    """Add up changes as `ram` does, those of one model alone a little larger, as the module says.

    Args:
        tensors: same shape, real floating.
        base: ``w_0``, of that shape.
        summary: of `count_changed`.
        r: how much larger.
        alpha: the largest ratio ``shared / unique`` that counts.
        epsilon: a change not larger than this is none.
        per: over what is counted: each tensor (tensor-local, as in mergekit), or the whole model.
        scale: the factor ``s`` of the whole change.

    Raises:
        MethodError: complex tensors.

    >>> a, b = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([0.0, 4.0, 0.0])
    >>> ramplus_tl([a, b], base=torch.zeros(3), summary=torch.tensor([[1, 1], [1, 0]]))
    tensor([1.0200, 3.0000, 0.0000])
    """
    check_real(base, "ramplus_tl")
    factors = [
        # Without elements of its own a model has nothing that the factor is for.
        1 + r * min(alpha, shared / unique) if unique else 1.0
        for shared, unique in summary.t().tolist()
    ]

    def merge_strip(tensors: list[Tensor], base: Tensor) -> Tensor:
        total, counts = torch.zeros_like(base), torch.zeros_like(base)
        larger = torch.zeros_like(base)
        for (change, changed), factor in zip(
            _changes(tensors, base, epsilon, "ramplus_tl"), factors, strict=True
        ):
            total.add_(change)
            counts.add_(changed)
            larger.add_(changed, alpha=factor)
        # The factor where one model changed an element, 1 elsewhere.
        larger.sub_(1).mul_(torch.eq(counts, 1, out=torch.empty_like(counts))).add_(1)
        return total.div_(counts.clamp_(min=1)).mul_(larger).mul_(scale).add_(base)

    return in_strips(merge_strip, tensors, base)


def _changes(
    tensors: Sequence[Tensor], base: Tensor, epsilon: float, method: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give ``m_i tau_i`` and ``m_i``, as zeros and ones, of each model."""
    for tensor in tensors:
        change = torch.nn.functional.hardshrink(change_from(base, tensor, method), epsilon)
        yield change, change.sign().abs_()
