"""Breadcrumbs: drop the smallest changes, and the very largest."""

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
from conjoin.methods.trimming import (
    changes_of,
    count_kept,
    largest,
    limit_below,
    limit_up_to,
    trimmed,
    without_outliers,
)
from conjoin.methods.weights import added_up, checked_weights, fractions_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["breadcrumbs", "breadcrumbs_ties", "find_ranges"]

Share: TypeAlias = Annotated[float | Sequence[float], Within(0, 1)]
Rescale: TypeAlias = Literal["none", "l1"]
Limits: TypeAlias = tuple[float | None, float | None]


def find_ranges(
    total: Total,
    *,
    weights: Sequence[float],
    density: float | Sequence[float] = 0.15,
    gamma: float | Sequence[float] = 0.01,
    rescale: Rescale = "none",
) -> Tensor:
    """Give the least and the largest magnitude that are kept, and the factor of what is left.

    Of n elements ``top = int(gamma n)`` are too large, and the next ``max(1, int(density n))``
    are kept. If there are not so many, fewer are too large.

    Returns:
        float64 [n, 3], in the order of the models.
    """
    densities, gammas = one_per_model(density, len(weights)), one_per_model(gamma, len(weights))

    def choose(sizes: Sequence[int]) -> list[list[int]]:
        ranks = []
        for size, share, outliers in zip(sizes, densities, gammas, strict=True):
            kept = count_kept(share, size)
            top = min(int(outliers * size), size - kept)
            ranks.append([top + kept, top + 1] if kept else [0, 0])
        return ranks

    if all(share in (0, 1) for share in densities):
        # Nothing to look for: at density 1 all is kept, outliers too.
        least = torch.tensor([0.0 if share else torch.inf for share in densities])
        bounds = torch.stack([least, torch.full_like(least, torch.inf)], 1).double()
    else:
        bounds = largest(total, changes_of("breadcrumbs"), choose)
    factors = torch.ones(len(bounds), 1, dtype=torch.float64)
    if rescale == "l1":
        factors = _factors(total, bounds)[:, None]
    return torch.cat([bounds, factors], 1)


def breadcrumbs(
    tensors: Sequence[Tensor],
    *,
    base: Tensor,
    weights: Sequence[float],
    summary: Tensor,
    density: Share = 0.15,  # noqa: ARG001 - of find_ranges
    gamma: Share = 0.01,  # noqa: ARG001 - of find_ranges
    per: Literal["tensor", "model"] = "tensor",  # noqa: ARG001 - of the engine
    rescale: Rescale = "none",  # noqa: ARG001 - of find_ranges
    normalize: bool = False,
    scale: float = 1.0,
) -> Tensor:
    """Add up changes without their smallest and their largest elements.

        w_0 + s sum_i a_i m_i (w_i - w_0),   m_i = [low_i <= |w_i - w_0| <= high_i]

    Args:
        tensors: same shape, real floating.
        base: ``w_0``, of that shape.
        weights: one number ``a_i`` per tensor.
        summary: of `find_ranges`.
        density: share of elements that are kept: the whole part of density times their number,
            but at least one. Those that are equal to the smallest or the largest kept are kept
            too. One number, or one per model. The paper keeps about 0.15.
        gamma: share of elements that are dropped since they are the largest. Where fewer than
            that are left beside those that are kept, that many.
        per: over what the shares are: each tensor (the paper) or the whole model.
        rescale: "l1" restores the sum of magnitudes that a model's change had before.
        normalize: divide by the sum of the weights.
        scale: factor ``s`` of the whole change ("lambda" elsewhere; the paper has about 0.3).

    Raises:
        MethodError: weights that do not fit, or cancel under `normalize`; complex tensors.

    Davari and Belilovsky, Model Breadcrumbs, ECCV 2024 (arXiv:2312.06795).

    >>> tensor, ranges = torch.tensor([9.0, 3.0, 1.0]), torch.tensor([[2.0, 5.0, 1.0]])
    >>> breadcrumbs([tensor], base=torch.zeros(3), weights=[1], summary=ranges)
    tensor([0., 3., 0.])
    """
    shares, divisor = fractions_of(
        weights, len(tensors), "breadcrumbs", normalize=normalize, scale=scale
    )
    check_real(base, "breadcrumbs")
    if base.is_meta:
        return torch.empty_like(base)
    limits, factors = _limits(summary, base.dtype)
    factors = [share * factor for share, factor in zip(shares, factors, strict=True)]

    def merge_strip(tensors: list[Tensor], base: Tensor) -> Tensor:
        changes = _masked(tensors, base, limits)
        return added_up(changes, factors, divisor).add_(base)

    return in_strips(merge_strip, tensors, base)


def breadcrumbs_ties(
    tensors: Sequence[Tensor],
    *,
    base: Tensor,
    weights: Sequence[float],
    summary: Tensor,
    density: Share = 0.15,  # noqa: ARG001 - of find_ranges
    gamma: Share = 0.01,  # noqa: ARG001 - of find_ranges
    per: Literal["tensor", "model"] = "tensor",  # noqa: ARG001 - of the engine
    rescale: Rescale = "none",  # noqa: ARG001 - of find_ranges
    elect: Elect = "sum",
    undecided: Undecided = "drop",
    merge: Merge = "mean",
    scale: float = 1.0,
) -> Tensor:
    """Drop the smallest and the largest changes, elect a sign, and merge what has it.

        tau_i = a_i m_i (w_i - w_0),   s = sign(sum_i tau_i),
        w_0 + scale mean_{i: sign(tau_i) = s} tau_i

    The masks are those of `breadcrumbs`, the rest is that of `conjoin.methods.ties`. It is a
    method of mergekit; no paper has it.

    Args:
        tensors: same shape, real floating.
        base: ``w_0``, of that shape.
        weights: one number ``a_i`` per tensor.
        summary: of `find_ranges`.
        density: as in `breadcrumbs`.
        gamma: as in `breadcrumbs`.
        per: as in `breadcrumbs`.
        rescale: as in `breadcrumbs`.
        elect: the sign of the sum, or that of most models.
        undecided: an even vote gives no change ("drop"), or is taken for "positive" (mergekit).
        merge: divide the sum of what agrees by its number ("mean", as TIES), by the sum of its
            weights ("weighted"), or by nothing ("sum", mergekit).
        scale: factor of the merged change ("lambda" elsewhere).

    Raises:
        MethodError: weights that do not fit, or cancel with merge="weighted"; complex tensors.

    >>> a, b = torch.tensor([9.0, 3.0, 1.0]), torch.tensor([-4.0, 9.0, -1.0])
    >>> ranges = torch.tensor([[2.0, 5.0, 1.0], [2.0, 5.0, 1.0]])
    >>> breadcrumbs_ties([a, b], base=torch.zeros(3), weights=[1, 1], summary=ranges)
    tensor([-4.,  3.,  0.])
    """
    checked = checked_weights(weights, len(tensors), "breadcrumbs_ties")
    check_election(checked, merge, "breadcrumbs_ties")
    check_real(base, "breadcrumbs_ties")
    if base.is_meta:
        return torch.empty_like(base)
    shares, divisor = fractions_of(weights, len(tensors), "breadcrumbs_ties", normalize=False)
    limits, factors = _limits(summary, base.dtype)

    def merge_strip(tensors: list[Tensor], base: Tensor) -> Tensor:
        changes = _masked(tensors, base, limits)
        for change, share, factor in zip(changes, shares, factors, strict=True):
            if share * factor != 1:
                change.mul_(share * factor)
        merged = merge_elected(changes, checked, elect=elect, merge=merge, undecided=undecided)
        if divisor != 1:
            merged.div_(divisor)
        return (merged if scale == 1 else merged.mul_(scale)).add_(base)

    return in_strips(merge_strip, tensors, base)


def _limits(summary: Tensor, dtype: torch.dtype) -> tuple[list[Limits], list[float]]:
    """Give the ranges of a summary as numbers of the dtype, and the factors."""
    limits = [
        (limit_below(low, dtype), limit_up_to(high, dtype)) for low, high, _ in _rows(summary)
    ]
    return limits, [factor for _, _, factor in _rows(summary)]


def _rows(summary: Tensor) -> list[list[float]]:
    rows: list[list[float]] = summary.tolist()
    return rows


def _masked(tensors: Sequence[Tensor], base: Tensor, limits: Sequence[Limits]) -> list[Tensor]:
    """Give the changes with zeros outside of the ranges."""
    changes = []
    for tensor, (below, upto) in zip(tensors, limits, strict=True):
        change = trimmed(change_from(base, tensor, "breadcrumbs"), below)
        changes.append(without_outliers(change, upto))
    return changes


def _factors(total: Total, bounds: Tensor) -> Tensor:
    """Give the factors that restore the sums of magnitudes."""
    summary = torch.cat([bounds, torch.ones(len(bounds), 1, dtype=torch.float64)], 1)

    def norms(tensors: Sequence[Tensor], *, base: Tensor) -> Tensor:
        sums = torch.zeros(2, len(tensors), dtype=torch.float64)
        if base.is_meta:
            return sums
        limits, _ = _limits(summary, base.dtype)
        for parts, ancestor in strips_of(tensors, base):
            changes = [change_from(ancestor, part, "breadcrumbs") for part in parts]
            sums[0] += torch.stack([sum_of_magnitudes(change) for change in changes]).cpu()
            left = _masked(parts, ancestor, limits)
            sums[1] += torch.stack([sum_of_magnitudes(change) for change in left]).cpu()
        return sums

    before, after = total(norms)
    # Nothing left, or nothing there: no factor would help.
    return torch.where(after > 0, before / after, 1.0)
