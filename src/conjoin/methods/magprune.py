"""MagPrune: drop changes at random, the smaller ones more often.

In each row of a tensor (the weights of one output) the n changes are ranked by magnitude, from 0
for the smallest; rank r is kept with the chance

    p_r = density - epsilon + 2 epsilon r / (n - 1)        (n = 1: density)

Deep et al., DELLA-Merging (arXiv:2406.11617).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from conjoin.deferred import torch
from conjoin.errors import MethodError
from conjoin.methods.elections import change_from
from conjoin.methods.reductions import sum_of_magnitudes
from conjoin.methods.strips import STRIP, widened

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Mask",
    "Per",
    "Rescale",
    "as_rows",
    "check_chances",
    "prune",
    "prune_again",
    "restoring_factors",
    "strips",
]

Per: TypeAlias = Literal["row", "tensor"]
Rescale: TypeAlias = Literal["expectation", "l1", "none"]

Mask: TypeAlias = npt.NDArray[np.uint8]
"""What is kept of a change: a bit for each element."""

# Chances are numbers of 32 bits, as in DARE.
_CHANCES = 1 << 32


def check_chances(densities: Sequence[float], epsilons: Sequence[float], method: str) -> None:
    """Raise a MethodError if some changes would be kept with a chance that is none."""
    for density, epsilon in zip(densities, epsilons, strict=True):
        if density not in (0, 1) and not epsilon <= density <= 1 - epsilon:
            raise MethodError(
                f"{method}: chances to be kept run from density - epsilon to density + epsilon, "
                f"and {density:g} -+ {epsilon:g} leaves the range from 0 to 1; make epsilon smaller"
            )


def as_rows(tensor: Tensor, per: Per) -> Tensor:
    """Give a view of two dimensions whose rows are ranked.

    >>> as_rows(torch.zeros(4, 3, 2), "row").shape, as_rows(torch.zeros(4, 3), "tensor").shape
    (torch.Size([4, 6]), torch.Size([1, 12]))
    """
    return tensor.reshape(1, -1) if per == "tensor" or tensor.dim() < 2 else tensor.flatten(1)


def strips(rows: Tensor) -> list[slice]:
    """Cut rows into parts of about STRIP elements, but of whole rows."""
    step = max(1, STRIP // max(1, rows.shape[1]))
    return [slice(start, start + step) for start in range(0, rows.shape[0], step)]


def prune(
    changes: Sequence[Tensor],
    densities: Sequence[float],
    epsilons: Sequence[float],
    random: np.random.Generator,
    *,
    expectation: bool,
) -> None:
    """Drop elements of changes by the next random bits, in place.

    Args:
        changes: one of each model, real, [rows, n].
        densities: mean chance to be kept, for each.
        epsilons: how far chances are from that at most, for each.
        random: source of the bits.
        expectation: whether what is kept is divided by its chance.
    """
    for change, density, epsilon in zip(changes, densities, epsilons, strict=True):
        if density == 0:
            change.zero_()
        if density in (0, 1):
            continue
        rows, width = change.shape
        chances = _chances(density, epsilon, width)
        words = random.integers(0, 2**64, (rows * width + 1) // 2, dtype=np.uint64)
        bits = words.view(np.uint32)[: rows * width].reshape(rows, width)
        # Not "<": a chance of 1 is 2**32, one more than the type holds.
        kept = bits <= (np.maximum(chances, 1) - 1).astype(np.uint32)
        kept &= chances > 0
        kind = np.float64 if change.dtype == torch.float64 else np.float32
        values = _CHANCES / np.maximum(chances, 1) if expectation else np.ones(width)
        factors = torch.from_numpy(np.multiply(kept, values.astype(kind), dtype=kind))
        own = torch.empty_like(factors).scatter_(1, _order(change), factors)
        change.mul_(own.to(change.device))


def restoring_factors(
    rows: Sequence[Tensor],
    base: Tensor,
    densities: Sequence[float],
    epsilons: Sequence[float],
    random: np.random.Generator,
    method: str,
) -> tuple[list[float], list[list[Mask]]]:
    """Give the factors that restore the sum of magnitudes of each model's change, and the masks.

    Args:
        rows: tensors of the models, [rows, n].
        base: of that shape.
        densities: as in `prune`.
        epsilons: as in `prune`.
        random: as in `prune`.
        method: that asks, for errors.

    Returns:
        A factor for each model; and for each of the `strips`, what is kept of each model, for
        `prune_again`: ranking takes most of the time, and a mask an eighth of a byte per element.
    """
    sums, masks = torch.zeros(2, len(rows), dtype=torch.float64), []
    for part in strips(base):
        ancestor = widened(base[part])
        changes = [change_from(ancestor, widened(row[part]), method) for row in rows]
        sums[0] += torch.stack([sum_of_magnitudes(change) for change in changes]).cpu()
        prune(changes, densities, epsilons, random, expectation=False)
        sums[1] += torch.stack([sum_of_magnitudes(change) for change in changes]).cpu()
        masks.append([np.packbits(change.detach().cpu().numpy() != 0) for change in changes])
    before, after = sums
    # Nothing left, or nothing there: no factor would help.
    factors: list[float] = torch.where(after > 0, before / after, 1.0).tolist()
    return factors, masks


def prune_again(changes: Sequence[Tensor], masks: Sequence[Mask]) -> None:
    """Drop the same elements of the same changes again, in place.

    >>> changes = [torch.tensor([[3.0, 4.0]])]
    >>> prune_again(changes, [np.packbits([False, True])])
    >>> changes
    [tensor([[0., 4.]])]
    """
    for change, mask in zip(changes, masks, strict=True):
        kept = torch.from_numpy(np.unpackbits(mask, count=change.numel()))
        change.mul_(kept.view(change.shape).to(change.device, change.dtype))


def _chances(density: float, epsilon: float, width: int) -> npt.NDArray[np.float64]:
    """Give the chances by rank, times 2**32: whole numbers."""
    steps = np.linspace(0, 1, width) if width > 1 else np.array([0.5])
    chances = np.clip(density - epsilon + 2 * epsilon * steps, 0, 1)
    return np.rint(chances * _CHANCES)


def _order(change: Tensor) -> Tensor:
    """Give the places of each row in the order of their magnitudes, equal ones by place."""
    magnitudes = change.detach().abs().cpu().contiguous()
    width = change.shape[1]
    if magnitudes.dtype != torch.float32 or width >= 1 << 32:
        return torch.sort(magnitudes, dim=1, stable=True).indices
    # Bits of a magnitude above its place, sorted as integers: 15 ns per element, where argsort of
    # NumPy takes 43, and that of torch 940.
    keys = magnitudes.view(torch.int32).numpy().astype(np.int64)
    keys <<= 32
    keys |= np.arange(width)
    keys.sort(axis=1)
    keys &= _CHANCES - 1
    return torch.from_numpy(keys)
