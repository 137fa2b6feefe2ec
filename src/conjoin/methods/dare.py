"""DARE: drop changes at random, and rescale the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from conjoin.compiled import note_masks
from conjoin.deferred import torch
from conjoin.dtypes import bits_of
from conjoin.methods.elections import (
    Elect,
    Merge,
    Undecided,
    change_from,
    check_election,
    merge_elected,
)
from conjoin.methods.method import Total
from conjoin.methods.parameters import Within, one_per_model
from conjoin.methods.reductions import quick_sums
from conjoin.methods.strips import STRIP, in_strips, strips_of
from conjoin.methods.weights import added_up, checked_weights, fractions_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["dare_linear", "dare_ties", "find_factors"]

Rescale: TypeAlias = Literal["expectation", "l1", "none"]
Density: TypeAlias = Annotated[float | Sequence[float], Within(0, 1)]


def find_factors(
    total: Total,
    *,
    weights: Sequence[float],
    density: float | Sequence[float] = 0.5,
    rescale: Rescale = "expectation",
) -> Tensor:
    """Give the factor of what is left of each model's change.

    Returns:
        float64 [n].
    """
    densities = one_per_model(density, len(weights))
    if rescale == "none":
        return torch.ones(len(densities), dtype=torch.float64, device="cpu")
    if rescale == "expectation":
        kept = torch.tensor(
            [_chances(share) / _CHANCES for share in densities], dtype=torch.float64, device="cpu"
        )
        return torch.where(kept > 0, 1 / kept, 1.0)

    def norms(tensors: Sequence[Tensor], *, base: Tensor, generator: torch.Generator) -> Tensor:
        if base.is_meta:
            return torch.zeros(2 * len(densities), dtype=torch.float64)
        sums = []
        for (parts, ancestor), masks in zip(
            strips_of(tensors, base), _masks(generator, base, densities), strict=True
        ):
            before = [change_from(ancestor, part, "dare").abs_() for part in parts]
            after = [_masked(size, mask) for size, mask in zip(before, masks, strict=True)]
            sums.append(quick_sums([*before, *after]))
        return sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)

    before, after = total(norms).view(2, -1)
    # Nothing left, or nothing there: no factor would help.
    return torch.where(after > 0, before / after, 1.0)


def dare_linear(
    tensors: Sequence[Tensor],
    *,
    base: Tensor,
    weights: Sequence[float],
    summary: Tensor,
    generator: torch.Generator,
    density: Density = 0.5,
    rescale: Rescale = "expectation",  # noqa: ARG001 - of find_factors
    normalize: bool = False,
    scale: float = 1.0,
) -> Tensor:
    """Add up changes of which a random part is dropped: ``w_0 + s sum_i a_i f_i m_i (w_i - w_0)``.

    Args:
        tensors: same shape, real floating.
        base: ``w_0``, of that shape.
        weights: one number ``a_i`` per tensor.
        summary: factors ``f_i``, of `find_factors`.
        generator: source of the masks ``m_i`` of zeros and ones.
        density: chance ``p`` of each element to be kept. One number, or one per model.
        rescale: ``f = 1/p``, which keeps the expectation ("expectation", the paper); what
            restores the sum of magnitudes of the tensor's change ("l1", mergekit); or "none".
        normalize: divide by the sum of the weights.
        scale: factor ``s`` of the whole change ("lambda" elsewhere).

    Raises:
        MethodError: weights that do not fit, or cancel under `normalize`; complex tensors.

    Yu et al., Language models are super Mario, ICML 2024 (arXiv:2311.03099).

    >>> base, a = torch.zeros(8), torch.ones(8)
    >>> generator = torch.Generator().manual_seed(1)
    >>> dare_linear([a], base=base, weights=[1], summary=torch.tensor([2.0]), generator=generator)
    tensor([...])
    """
    shares, divisor = fractions_of(
        weights, len(tensors), "dare_linear", normalize=normalize, scale=scale
    )
    if base.is_meta:
        return torch.empty_like(base)
    factors = [share * factor for share, factor in zip(shares, summary.tolist(), strict=True)]
    masks = _masks(generator, base, one_per_model(density, len(tensors)))

    def merge_strip(tensors: list[Tensor], base: Tensor) -> Tensor:
        whole = [change_from(base, tensor, "dare_linear") for tensor in tensors]
        changes = [_masked(change, mask) for change, mask in zip(whole, next(masks), strict=True)]
        return added_up(changes, factors, divisor).add_(base)

    return in_strips(merge_strip, tensors, base)


def dare_ties(
    tensors: Sequence[Tensor],
    *,
    base: Tensor,
    weights: Sequence[float],
    summary: Tensor,
    generator: torch.Generator,
    density: Density = 0.5,
    rescale: Rescale = "expectation",  # noqa: ARG001 - of find_factors
    elect: Elect = "sum",
    undecided: Undecided = "drop",
    merge: Merge = "mean",
    scale: float = 1.0,
) -> Tensor:
    """Drop a random part of the changes, elect a sign for each element, merge what agrees.

        tau_i = a_i f_i m_i (w_i - w_0),   s = sign(sum_i tau_i),
        w_0 + scale mean_{i: sign(tau_i) = s} tau_i

    Args:
        tensors: same shape, real floating.
        base: ``w_0``, of that shape.
        weights: one number ``a_i`` per tensor.
        summary: factors ``f_i``, of `find_factors`.
        generator: source of the masks ``m_i`` of zeros and ones.
        density: as in `dare_linear`.
        rescale: as in `dare_linear`.
        elect: the sign of the sum, or that of most models.
        undecided: an even vote gives no change ("drop"), or is taken for "positive" (mergekit).
        merge: divide the sum of what agrees by its number ("mean", as TIES), by the sum of its
            weights ("weighted"), or by nothing ("sum", mergekit).
        scale: factor of the merged change ("lambda" elsewhere).

    Raises:
        MethodError: weights that do not fit, or cancel with merge="weighted"; complex tensors.

    Yu et al., Language models are super Mario, ICML 2024 (arXiv:2311.03099).

    >>> base, a = torch.zeros(8), torch.ones(8)
    >>> generator = torch.Generator().manual_seed(1)
    >>> dare_ties([a], base=base, weights=[1], summary=torch.tensor([2.0]), generator=generator)
    tensor([...])
    """
    checked = checked_weights(weights, len(tensors), "dare_ties")
    check_election(checked, merge, "dare_ties")
    if base.is_meta:
        return torch.empty_like(base)
    shares, divisor = fractions_of(weights, len(tensors), "dare_ties", normalize=False)
    factors = [share * factor for share, factor in zip(shares, summary.tolist(), strict=True)]
    masks = _masks(generator, base, one_per_model(density, len(tensors)))

    def merge_strip(tensors: list[Tensor], base: Tensor) -> Tensor:
        whole = [change_from(base, tensor, "dare_ties") for tensor in tensors]
        changes = [_masked(change, mask) for change, mask in zip(whole, next(masks), strict=True)]
        for change, factor in zip(changes, factors, strict=True):
            if factor != 1:
                change.mul_(factor)
        merged = merge_elected(changes, checked, elect=elect, merge=merge, undecided=undecided)
        if divisor != 1:
            merged.div_(divisor)
        return (merged if scale == 1 else merged.mul_(scale)).add_(base)

    return in_strips(merge_strip, tensors, base)


# Chances are numbers of 32 bits: a density is off by 2**-33 at most, and the factor 1/p is that of
# the density as it is. Densities such as 1/2 or 3/8, of few binary digits, take a random bit for
# each digit. Else a byte decides for 255 of 256 elements, and 24 more bits for the others.
_DIGITS = 32
_CHANCES = 1 << _DIGITS
_FEW = 4
_LATER = 24


def _chances(density: float) -> int:
    """Give how many of 2**32 equally likely numbers keep an element."""
    return round(density * _CHANCES)


def _random_bits(generator: torch.Generator) -> np.random.Generator:
    """Give a source of bits that depends on the generator alone.

    Measured for a block, in nanoseconds per 32 bits: `bernoulli_` 6.9, `torch.rand` 2.1,
    `random_` of int64, taken for two numbers of 32 bits, 1.25; NumPy's SFC64 0.7. So the
    generator gives a seed, and SFC64 the bits.
    """
    seed = int(torch.randint(0, 2**62, (1,), generator=generator, device=generator.device))
    return np.random.Generator(np.random.SFC64(seed))


Mask: TypeAlias = "Tensor | bool"
"""Which elements of a strip are kept: int8 [size], -1 (all bits) or 0. Or all of them, or none."""


def _masks(
    generator: torch.Generator, base: Tensor, densities: Sequence[float]
) -> Iterator[list[Mask]]:
    """Draw masks for the changes from each strip of a base, in the order of strips and models."""
    random = _random_bits(generator)
    chances = [_chances(density) for density in densities]
    asked = [one for one in chances if one not in (0, _CHANCES)]
    packed = all(_digits(one) <= _FEW for one in asked)

    def draw_again(generator: torch.Generator, size: int) -> list[Tensor]:
        random = _random_bits(generator)
        if packed:
            return [torch.from_numpy(_bits(size, one, random)) for one in asked]
        return [torch.from_numpy(_bytes(size, one, random)) for one in asked]

    for strip in base.reshape(-1).split(STRIP):
        masks: list[Mask] = []
        for one in chances:
            if one in (0, _CHANCES):
                masks.append(one > 0)
            else:
                masks.append(torch.from_numpy(_bytes(strip.numel(), one, random)))
        noted = [mask for mask in masks if not isinstance(mask, bool)]
        note_masks(generator, noted, torch.uint8 if packed else torch.int8, draw_again)
        yield masks


def _masked(change: Tensor, mask: Mask) -> Tensor:
    """Give a change with zeros where it is dropped."""
    if isinstance(mask, bool):
        # Dropped, and yet a part of the graph.
        return change if mask else change.masked_fill(torch.ones_like(change, dtype=torch.bool), 0)
    own = mask.to(change.device).view(change.shape)
    if change.requires_grad:
        return change * own.ne(0)  # autograd does not see what becomes of bits
    # Zero times infinity would be NaN, and masks of bool are slow. -1 has all bits.
    return change.view(bits_of(change.dtype)).bitwise_and(own).view(change.dtype)


def _digits(chances: int) -> int:
    """Give how many binary digits a density has, of 2**32 chances (neither none nor all)."""
    return _DIGITS - (chances & -chances).bit_length() + 1


def _bytes(size: int, chances: int, random: np.random.Generator) -> NDArray[np.int8]:
    """Draw which elements are kept, of 2**32 chances each: -1, which has all bits, or 0."""
    if _digits(chances) <= _FEW:
        kept = np.unpackbits(_bits(size, chances, random), count=size).view(np.bool_)
    else:
        first, later = divmod(chances, 1 << _LATER)
        # Whole words: the plain stream of the bits, drawn while other threads go on.
        drawn = random.integers(0, 2**64, -(-size // 8), dtype=np.uint64).view(np.uint8)[:size]
        kept = drawn < first
        if later:
            even = np.flatnonzero(drawn == first)
            kept[even] = random.integers(0, 1 << _LATER, len(even), dtype=np.uint32) < later
    masks = kept.view(np.int8)
    return np.negative(masks, out=masks)


def _bits(size: int, chances: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """Draw them as bits, the highest of a byte first, for densities of few digits."""
    digits = _digits(chances)
    words = _packed(-(-size // 64), chances >> (_DIGITS - digits), digits, random)
    return words.view(np.uint8)[: -(-size // 8)]


def _packed(
    words: int, numerator: int, digits: int, random: np.random.Generator
) -> NDArray[np.uint64]:
    """Draw bits of which each is 1 with the chance ``numerator / 2**digits``, an odd numerator.

    From the last binary digit to the first: if P is the chance that the digits behind stand for,
    that of ``bit or rest`` is 1/2 + P/2, for a digit 1, and that of ``bit and rest`` is P/2.
    """
    rest = random.bit_generator.random_raw(words)
    for place in range(1, digits):
        bit = random.bit_generator.random_raw(words)
        rest = rest | bit if numerator >> place & 1 else rest & bit
    return rest
