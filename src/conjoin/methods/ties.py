"""TIES: trim, elect signs, merge what agrees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from conjoin.deferred import torch
from conjoin.methods.elections import (
    Elect,
    Merge,
    Undecided,
    change_from,
    check_election,
    check_real,
    merge_elected,
)
from conjoin.methods.method import Total
from conjoin.methods.parameters import Within, one_per_model
from conjoin.methods.reductions import sum_of_magnitudes
from conjoin.methods.strips import in_strips, strips_of
from conjoin.methods.trimming import limit_below, thresholds, trimmed
from conjoin.methods.weights import checked_weights, fractions_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["find_thresholds", "ties"]

Density: TypeAlias = Annotated[float | Sequence[float], Within(0, 1)]


def find_thresholds(
    total: Total,
    *,
    density: float | Sequence[float] = 0.2,
    rescale: Literal["none", "l1"] = "none",
) -> Tensor:
    """Give what `ties` needs of whole tensors: thresholds, and the factors of what is left.

    Returns:
        float64 [n, 2], or [1, 2] for all models alike.
    """
    limits = thresholds(total, density, "ties")
    if rescale == "none":
        return torch.stack([limits, torch.ones_like(limits)], 1)

    def norms(tensors: Sequence[Tensor], *, base: Tensor) -> Tensor:
        least = one_per_model(limits.tolist(), len(tensors))
        limit = [limit_below(threshold, base.dtype) for threshold in least]
        sums = torch.zeros(2, len(tensors), dtype=torch.float64)
        for parts, ancestor in strips_of(tensors, base):
            changes = [change_from(ancestor, part, "ties") for part in parts]
            left = [trimmed(change, low) for change, low in zip(changes, limit, strict=True)]
            sums[0] += torch.stack([sum_of_magnitudes(change) for change in changes])
            sums[1] += torch.stack([sum_of_magnitudes(change) for change in left])
        return sums

    before, after = total(norms)
    # Nothing left, or nothing there: no factor would help.
    factors = torch.where(after > 0, before / after, 1.0)
    return torch.stack([limits.expand_as(factors), factors], 1)


def ties(
    tensors: Sequence[Tensor],
    *,
    base: Tensor,
    weights: Sequence[float],
    summary: Tensor,
    density: Density = 0.2,  # noqa: ARG001 - of find_thresholds
    per: Literal["model", "tensor"] = "model",  # noqa: ARG001 - of the engine
    rescale: Literal["none", "l1"] = "none",  # noqa: ARG001 - of find_thresholds
    elect: Elect = "sum",
    undecided: Undecided = "drop",
    merge: Merge = "mean",
    scale: float = 1.0,
) -> Tensor:
    """Trim small changes, elect a sign for each element, and merge the changes that have it.

        tau_i = a_i trim(w_i - w_0),   s = sign(sum_i tau_i),
        w_0 + scale mean_{i: sign(tau_i) = s} tau_i

    Args:
        tensors: same shape, real floating.
        base: ``w_0``, of that shape.
        weights: one number per tensor.
        summary: of `find_thresholds`.
        density: share of elements that are kept, those of largest magnitude: the whole part of
            density times their number, but at least one. Several that are equal to the smallest
            kept are all kept. One number, or one per model.
        per: over what the share is: the whole model (the paper) or each tensor (mergekit).
        rescale: "l1" restores the sum of magnitudes that a model's change had before the trimming.
        elect: the sign of the sum (the paper), or that of most models.
        undecided: an even vote gives no change ("drop", the paper's formula), or is taken for
            "positive" (mergekit).
        merge: divide the sum of what agrees by its number ("mean", the paper), by the sum of its
            weights ("weighted", mergekit), or by nothing ("sum").
        scale: factor of the merged change ("lambda" elsewhere).

    Raises:
        MethodError: weights that do not fit, or cancel with merge="weighted"; complex tensors.

    Yadav et al., TIES-Merging, NeurIPS 2023 (arXiv:2306.01708).

    >>> base, a, b = torch.zeros(3), torch.tensor([4.0, 1.0, 3.0]), torch.tensor([2.0, 5.0, -6.0])
    >>> limits = torch.tensor([[3.0, 1.0], [2.0, 1.0]])  # thresholds and factors
    >>> ties([a, b], base=base, weights=[1, 1], summary=limits, density=2 / 3)
    tensor([ 3.,  5., -6.])
    """
    checked = checked_weights(weights, len(tensors), "ties")
    check_election(checked, merge, "ties")
    check_real(base, "ties")
    if base.is_meta:
        return torch.empty_like(base)
    least, factors = summary.expand(len(tensors), 2).t().tolist()
    limits = [limit_below(threshold, base.dtype) for threshold in least]
    shares, divisor = fractions_of(weights, len(tensors), "ties", normalize=False)

    def merge_strip(tensors: list[Tensor], base: Tensor) -> Tensor:
        changes = []
        for tensor, limit, share, factor in zip(tensors, limits, shares, factors, strict=True):
            change = trimmed(change_from(base, tensor, "ties"), limit)
            changes.append(change if share * factor == 1 else change.mul_(share * factor))
        merged = merge_elected(changes, checked, elect=elect, merge=merge, undecided=undecided)
        if divisor != 1:
            merged.div_(divisor)
        return (merged if scale == 1 else merged.mul_(scale)).add_(base)

    return in_strips(merge_strip, tensors, base)
