"""One weight per model: what every weighted method checks, and sums with them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

from conjoin.errors import MethodError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["added_up", "check_no_part_cancels", "checked_weights", "fractions_of", "shares_of"]

# Weights whose sum is below this part of the sum of their magnitudes cancel: dividing by it would
# give roundings, or minus infinity.
_CANCELS = 1e-9
# For sums of weights that are formed in float32, for each element.
_CANCELS_IN_FLOAT32 = 1e-6
# All sums of a part of so many weights of both signs are looked at: 65,535.
_MOST = 16
# A number of bfloat16 or float16 times a numerator up to this one is exact in float32.
_NUMERATOR = 1 << 13
_DENOMINATOR = 1 << 20


def checked_weights(weights: Sequence[float], count: int, method: str) -> list[float]:
    """Give the weights as floats.

    Raises:
        MethodError: another number of weights than `count`, or NaN or infinity.
    """
    if len(weights) != count:
        raise MethodError(f"{method} needs one weight per model: {count}, not {len(weights)}")
    if not all(map(math.isfinite, weights)):
        raise MethodError(f"the weights must be finite numbers, not {list(weights)}")
    return [float(weight) for weight in weights]


def shares_of(weights: Sequence[float], count: int, method: str, *, normalize: bool) -> list[float]:
    """Give the weights, divided by their sum if `normalize`.

    Raises:
        MethodError: as `checked_weights`, or they sum to zero (or nearly) under normalization.

    >>> shares_of([3, 1], 2, "linear", normalize=True)
    [0.75, 0.25]
    """
    checked = checked_weights(weights, count, method)
    if not normalize:
        return checked
    try:
        total, size = math.fsum(checked), math.fsum(map(abs, checked))
    except OverflowError:
        raise MethodError(f"the weights {list(weights)} are too large to be added up") from None
    if abs(total) <= _CANCELS * size:
        raise MethodError(
            f"the weights {list(weights)} sum to zero, so they cannot be normalized; "
            "change them, or set the parameter normalize to false if the method has it"
        )
    return [weight * (1.0 / total) for weight in checked]


def fractions_of(
    weights: Sequence[float], count: int, method: str, *, normalize: bool, scale: float = 1.0
) -> tuple[list[float], float]:
    """Give shares, times `scale`, as numerators and one denominator: ``p_1, ..., p_n`` and ``q``.

    ``sum_i p_i w_i / q`` is rounded better than ``sum_i (p_i / q) w_i``. For weights of 0.3 and 0.7
    one result in ten lies exactly in the middle of two numbers of bfloat16; 3 w_1 + 7 w_2 is exact,
    and so is a middle when that is divided by 10. No float is 0.3, whose products are near the
    middle, on whichever side. Weights are taken for the decimal numbers that they are written as.

    Returns:
        Numerators, and what their sum is divided by; 1 if the shares are floats, or if they are no
        short fractions, and then are the numerators. Otherwise all are divided by a power of two
        such that the numerators' magnitudes add up to at most 1: no sum overflows for it.

    Raises:
        MethodError: as `shares_of`.

    >>> fractions_of([0.3, 0.7], 2, "linear", normalize=False)
    ([0.1875, 0.4375], 0.625)
    >>> fractions_of([3, 1], 2, "linear", normalize=True)
    ([0.75, 0.25], 1.0)
    """
    shares = shares_of(weights, count, method, normalize=normalize)
    found = _short_fractions(tuple(map(float, weights)), float(scale), normalize)
    if found is None:
        return [scale * share for share in shares], 1.0
    return list(found[0]), found[1]


@lru_cache  # asked for with every block, of which it would take a tenth of the time
def _short_fractions(
    weights: tuple[float, ...], scale: float, normalize: bool
) -> tuple[tuple[float, ...], float] | None:
    if not math.isfinite(scale):
        return None
    written = [Fraction(repr(weight)) for weight in weights]  # repr gives the shortest decimal
    whole = Fraction(repr(scale)) / (sum(written) if normalize else 1)
    shares = [whole * weight for weight in written]
    denominator = math.lcm(*(share.denominator for share in shares))
    numerators = [int(share * denominator) for share in shares]
    if max(map(abs, numerators), default=0) > _NUMERATOR or denominator > _DENOMINATOR:
        return None
    size = sum(map(abs, numerators))
    power = 1 << size.bit_length()
    if denominator.bit_count() == 1:
        power = denominator
    return tuple(numerator / power for numerator in numerators), denominator / power


def check_no_part_cancels(weights: Sequence[float], method: str) -> None:
    """Raise if some of the weights sum to zero, where each element divides by the sum of some.

    Raises:
        MethodError: they do; or there are more than 16 of both signs, so that this is not known.
    """
    used = [weight for weight in weights if weight]
    if all(weight > 0 for weight in used) or all(weight < 0 for weight in used):
        return
    what = f"{method} with merge='weighted' divides by sums of some of the weights {list(weights)}"
    do = (
        "use merge='mean' or 'sum' (in mergekit's recipes `normalize: false`), or weights of one "
        "sign"
    )
    if len(used) > _MOST:
        raise MethodError(f"{what}, which are too many of both signs to check; {do}")
    for total, size in _sums_of_parts(used):
        if abs(total) <= _CANCELS_IN_FLOAT32 * size:
            raise MethodError(f"{what}, and some of them sum to zero; {do}")


def _sums_of_parts(weights: Sequence[float]) -> Iterator[tuple[float, float]]:
    """Give the sum, and the sum of magnitudes, of every part with at least one weight."""
    sums = [(0.0, 0.0)]
    for weight in weights:
        added = [(total + weight, size + abs(weight)) for total, size in sums]
        yield from added
        sums += added


def added_up(changes: Iterable[Tensor], factors: Sequence[float], divisor: float = 1.0) -> Tensor:
    """Give ``sum_i f_i d_i / q`` in the place of the first change, which is used up.

    Raises:
        ValueError: no changes, or another number of them than of factors.

    >>> import torch
    >>> added_up([torch.tensor([1.0, 2.0]), torch.tensor([10.0, 0.0])], [2.0, 0.5])
    tensor([7., 4.])
    """
    total = None
    for change, factor in zip(changes, factors, strict=True):
        total = change.mul_(factor) if total is None else total.add_(change, alpha=factor)
    if total is None:
        raise ValueError("added_up needs at least one change")
    return total if divisor == 1 else total.div_(divisor)
