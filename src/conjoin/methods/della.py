"""DELLA: drop changes by MagPrune, then merge them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias

import numpy as np

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
from conjoin.methods.magprune import (
    Per,
    Rescale,
    as_rows,
    check_chances,
    prune,
    prune_again,
    restoring_factors,
    strips,
)
from conjoin.methods.parameters import Within, one_per_model
from conjoin.methods.strips import widened
from conjoin.methods.weights import added_up, checked_weights, fractions_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["della", "della_linear"]

Density: TypeAlias = Annotated[float | Sequence[float], Within(0, 1)]
Epsilon: TypeAlias = Annotated[float | Sequence[float], Within(0, 0.5)]


@dataclass(frozen=True, slots=True)
class _Pruning:
    """What both methods are told about dropping."""

    density: float | Sequence[float]
    epsilon: float | Sequence[float]
    per: Per
    rescale: Rescale


def della(
    tensors: Sequence[Tensor],
    *,
    base: Tensor,
    weights: Sequence[float],
    generator: torch.Generator,
    density: Density = 0.5,
    epsilon: Epsilon = 0.15,
    per: Per = "row",
    rescale: Rescale = "expectation",
    elect: Elect = "sum",
    undecided: Undecided = "drop",
    merge: Merge = "mean",
    scale: float = 1.0,
) -> Tensor:
    """Drop changes at random, the smaller ones more often, elect signs, merge what agrees.

        tau_i = a_i m_i (w_i - w_0) / p_i,   s = sign(sum_i tau_i),
        w_0 + scale mean_{i: sign(tau_i) = s} tau_i

    Needs whole tensors: the rank of an element depends on all others.

    Args:
        tensors: same shape, real floating.
        base: ``w_0``, of that shape.
        weights: one number ``a_i`` per tensor.
        generator: source of the masks ``m_i`` of zeros and ones.
        density: mean chance ``p`` of an element to be kept. One number, or one per model.
        epsilon: chances run from density - epsilon, of the smallest change, to density + epsilon,
            of the largest, in equal steps by rank. One number, or one per model. (Half of what
            the paper calls so, the window.)
        per: elements are ranked in their row, that is, among the weights of one output (the
            paper), or in the whole "tensor".
        rescale: divide each by its own chance ("expectation", the paper), restore the sum of
            magnitudes of the tensor's change ("l1", mergekit), or "none".
        elect: the sign of the sum (the paper), or that of most models.
        undecided: an even vote gives no change ("drop"), or is taken for "positive" (mergekit).
        merge: divide the sum of what agrees by its number ("mean", the paper), by the sum of its
            weights ("weighted", mergekit), or by nothing ("sum").
        scale: factor of the merged change ("lambda" elsewhere).

    Raises:
        MethodError: weights that do not fit, or cancel with merge="weighted"; chances that leave
            the range from 0 to 1; complex tensors.

    Deep et al., DELLA-Merging (arXiv:2406.11617).

    >>> base, a = torch.zeros(8), torch.ones(8)
    >>> generator = torch.Generator().manual_seed(1)
    >>> della([a], base=base, weights=[1], generator=generator)
    tensor([...])
    """
    checked = checked_weights(weights, len(tensors), "della")
    check_election(checked, merge, "della")

    shares, divisor = fractions_of(weights, len(tensors), "della", normalize=False)

    def merge_strip(changes: list[Tensor], factors: Sequence[float]) -> Tensor:
        for change, share, factor in zip(changes, shares, factors, strict=True):
            if share * factor != 1:
                change.mul_(share * factor)
        merged = merge_elected(changes, checked, elect=elect, merge=merge, undecided=undecided)
        if divisor != 1:
            merged.div_(divisor)
        return merged if scale == 1 else merged.mul_(scale)

    pruning = _Pruning(density, epsilon, per, rescale)
    return _pruned(merge_strip, tensors, base, generator, pruning, "della")


def della_linear(
    tensors: Sequence[Tensor],
    *,
    base: Tensor,
    weights: Sequence[float],
    generator: torch.Generator,
    density: Density = 0.5,
    epsilon: Epsilon = 0.15,
    per: Per = "row",
    rescale: Rescale = "expectation",
    normalize: bool = False,
    scale: float = 1.0,
) -> Tensor:
    """Add up changes of which a part is dropped at random, the smaller ones more often.

        w_0 + s sum_i a_i m_i (w_i - w_0) / p_i

    Needs whole tensors: the rank of an element depends on all others.

    Args:
        tensors: same shape, real floating.
        base: ``w_0``, of that shape.
        weights: one number ``a_i`` per tensor.
        generator: source of the masks ``m_i`` of zeros and ones.
        density: as in `della`.
        epsilon: as in `della`.
        per: as in `della`.
        rescale: as in `della`.
        normalize: divide by the sum of the weights.
        scale: factor ``s`` of the whole change ("lambda" elsewhere).

    Raises:
        MethodError: weights that do not fit, or cancel under `normalize`; chances that leave the
            range from 0 to 1; complex tensors.

    Deep et al., DELLA-Merging (arXiv:2406.11617).

    >>> base, a = torch.zeros(8), torch.ones(8)
    >>> generator = torch.Generator().manual_seed(1)
    >>> della_linear([a], base=base, weights=[1], generator=generator)
    tensor([...])
    """
    shares, divisor = fractions_of(
        weights, len(tensors), "della_linear", normalize=normalize, scale=scale
    )

    def merge_strip(changes: list[Tensor], factors: Sequence[float]) -> Tensor:
        restored = [share * factor for share, factor in zip(shares, factors, strict=True)]
        return added_up(changes, restored, divisor)

    pruning = _Pruning(density, epsilon, per, rescale)
    return _pruned(merge_strip, tensors, base, generator, pruning, "della_linear")


def _pruned(
    merge_strip: Callable[[list[Tensor], Sequence[float]], Tensor],
    tensors: Sequence[Tensor],
    base: Tensor,
    generator: torch.Generator,
    pruning: _Pruning,
    method: str,
) -> Tensor:
    """Add to the base what `merge_strip` makes of pruned changes, some rows at a time."""
    densities = one_per_model(pruning.density, len(tensors))
    epsilons = one_per_model(pruning.epsilon, len(tensors))
    check_chances(densities, epsilons, method)
    check_real(base, method)
    if base.is_meta or base.numel() == 0:
        return torch.empty_like(base)
    seed = int(torch.randint(0, 2**62, (1,), generator=generator, device=generator.device))
    rows, ancestor = (
        [as_rows(tensor, pruning.per) for tensor in tensors],
        as_rows(base, pruning.per),
    )
    factors, masks = [1.0] * len(tensors), None
    random = np.random.Generator(np.random.SFC64(seed))
    if pruning.rescale == "l1":
        factors, masks = restoring_factors(rows, ancestor, densities, epsilons, random, method)
    expectation = pruning.rescale == "expectation"
    result = torch.empty(ancestor.shape, dtype=base.dtype, device=base.device)
    for number, part in enumerate(strips(ancestor)):
        origin = widened(ancestor[part])
        changes = [change_from(origin, widened(row[part]), method) for row in rows]
        if masks is None:
            prune(changes, densities, epsilons, random, expectation=expectation)
        else:
            prune_again(changes, masks[number])
        result[part] = merge_strip(changes, factors).add_(origin)
    return result.view(base.shape)
