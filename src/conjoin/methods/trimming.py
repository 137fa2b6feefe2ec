"""The k-th largest magnitude, exactly and without sorting.

Read as integers, the bits of floats that are not negative have the same order as the floats. So
the k-th largest is found digit by digit: count how often each value of the highest 16 bits
occurs; in the one that holds the k-th largest, count the values of the next 16 bits, and so on.
That takes two passes over float32, four over float64, and counts can be added up in any order
over blocks, threads and processes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from conjoin.methods.elections import change_from
from conjoin.methods.method import Total
from conjoin.methods.parameters import one_per_model

__all__ = [
    "changes_of",
    "count_kept",
    "largest",
    "limit_below",
    "limit_up_to",
    "thresholds",
    "trimmed",
    "without_outliers",
]

Values: TypeAlias = Callable[[Sequence[Tensor], Tensor], Iterable[Tensor]]
"""Gives new tensors from the tensors and the base of a block."""
Choose: TypeAlias = Callable[[Sequence[int]], list[list[int]]]
"""Gives ranks, for each of some tensors, from their numbers of elements."""

# Bits of a magnitude, highest first, in rounds. 16 bits are few enough for the counts to stay in
# the cache of a core.
_ROUNDS = {torch.float32: (16, 15), torch.float64: (16, 16, 16, 15)}
_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


def count_kept(density: float, size: int) -> int:
    """Give how many of `size` elements are kept: the whole part of their share, but at least one.

    Zero are kept only of none, or at density 0.

    >>> [count_kept(0.2, size) for size in (0, 1, 9, 10)]
    [0, 1, 1, 2]
    """
    return min(size, max(1, int(density * size))) if density else 0


def thresholds(total: Total, density: float | Sequence[float], method: str) -> Tensor:
    """Give the least magnitude of a change that is kept, for each model.

    Args:
        total: the engine's, over blocks of ``tensors`` and ``base``.
        density: share of elements to keep, of all or of each model.
        method: that asks, for errors.

    Returns:
        float64 [n]: the `count_kept`-th largest magnitude; 0 where all are kept, and infinity
        where none is. If every density given is 0 or 1, this needs no look at any tensor, and one
        number is given for one density.
    """
    given = [density] if isinstance(density, int | float) else list(density)
    if all(share in (0, 1) for share in given):
        return torch.tensor(
            [torch.inf if share == 0 else 0.0 for share in given], dtype=torch.float64
        )

    def choose(sizes: Sequence[int]) -> list[list[int]]:
        shares = one_per_model(given, len(sizes))
        return [[count_kept(share, size)] for share, size in zip(shares, sizes, strict=True)]

    found = largest(total, changes_of(method), choose)[:, 0]
    everything = torch.tensor([share == 1 for share in one_per_model(given, len(found))])
    return found.masked_fill(everything, 0.0)


def largest(total: Total, values: Values, choose: Choose) -> Tensor:
    """Give the k-th largest of some magnitudes, for several k at once.

    Args:
        total: the engine's, over blocks of ``tensors`` and ``base``.
        values: gives the tensors of a block whose magnitudes are looked at, as new tensors: as
            many, and with the same bits for an element, for every block.
        choose: gives k's for each of these, all as many, from the numbers of elements; 1 is the
            largest.

    Returns:
        float64 [tensors of a block, k's]; infinity where k is 0.
    """
    found = _search(total, values, choose, torch.float32)
    if found is None:
        found = _search(total, values, choose, torch.float64)
        assert found is not None  # there is no wider dtype
    return found


def changes_of(method: str) -> Values:
    """Give the function that gives the changes from the base of a block, one after the other."""

    def changes(tensors: Sequence[Tensor], base: Tensor) -> Iterator[Tensor]:
        for tensor in tensors:
            yield change_from(base, tensor, method)

    return changes


def limit_below(threshold: float, dtype: torch.dtype) -> float | None:
    """Give the largest number of `dtype` that is smaller than a threshold; None if that is 0.

    >>> limit_below(2.0, torch.float64), limit_below(0.0, torch.float32)
    (1.9999999999999998, None)
    """
    if threshold == 0:
        return None
    limit = torch.tensor(threshold, dtype=torch.float64).to(dtype)
    if limit.double() >= threshold:
        limit = limit.nextafter(torch.zeros_like(limit))
    return limit.item()


def trimmed(change: Tensor, limit: float | None) -> Tensor:
    """Set to zero what is not larger in magnitude than the limit. NaN stays.

    >>> trimmed(torch.tensor([-3.0, 2.0, 1.0]), limit_below(2.0, torch.float32))
    tensor([-3.,  2.,  0.])
    """
    # One pass; a mask takes several.
    return change if limit is None else torch.nn.functional.hardshrink(change, limit)


def limit_up_to(bound: float, dtype: torch.dtype) -> float | None:
    """Give the largest number of `dtype` that is not larger than a bound; None if that is infinite.

    >>> limit_up_to(0.5, torch.float32), limit_up_to(float("inf"), torch.float32)
    (0.5, None)
    """
    if bound == torch.inf:
        return None
    limit = torch.tensor(bound, dtype=torch.float64).to(dtype)
    if limit.double() > bound:
        limit = limit.nextafter(torch.zeros_like(limit))
    return limit.item()


def without_outliers(change: Tensor, limit: float | None) -> Tensor:
    """Set to zero what is larger in magnitude than the limit.

    >>> without_outliers(torch.tensor([-3.0, 2.0, 1.0]), 2.0)
    tensor([0., 2., 1.])
    """
    return change if limit is None else change - torch.nn.functional.hardshrink(change, limit)


@dataclass(slots=True)
class _Sought:
    """A magnitude that is looked for: the `rank`-th largest of those that begin with `prefix`."""

    number: int
    rank: int
    prefix: int = 0


def _search(total: Total, values: Values, choose: Choose, dtype: torch.dtype) -> Tensor | None:
    """Look for magnitudes among bits of `dtype`; None if the values have more bits than that."""
    shift = sum(_ROUNDS[dtype])
    sought: list[_Sought] = []
    shape: tuple[int, int] | None = None
    for width in _ROUNDS[dtype]:
        shift -= width
        counts = total(_counter(values, dtype, sought, shift, width))
        if counts[:, -1].any():
            return None
        counts = counts[:, :-1]
        if shape is None:
            ranks = choose(counts.sum(1).tolist())
            shape = (len(ranks), len(ranks[0]))
            sought = [_Sought(number, rank) for number, row in enumerate(ranks) for rank in row]
            counts = counts.repeat_interleave(shape[1], 0)
        for one, of_values in zip(sought, counts, strict=True):
            if one.rank:
                # How many have this digit or a higher one: it falls as the digit grows.
                at_least = of_values.flip(0).cumsum(0).flip(0)
                digit = int((at_least >= one.rank).sum()) - 1
                one.rank -= int(at_least[digit] - of_values[digit])
                one.prefix = one.prefix << width | digit
    bits = torch.tensor([one.prefix for one in sought], dtype=_INTEGERS[dtype])
    found = bits.view(dtype).double()
    assert shape is not None
    return found.masked_fill(torch.tensor([one.rank == 0 for one in sought]), torch.inf).view(shape)


def _counter(
    values: Values, dtype: torch.dtype, sought: Sequence[_Sought], shift: int, width: int
) -> Callable[..., Tensor]:
    """Make the function of a block that counts the digits of `width` bits above `shift` bits.

    It gives int64 [n, 2**width + 1]: for each tensor of values, or for each that is sought, of
    which only magnitudes are counted whose higher bits are its prefix. The last column counts
    elements of a wider dtype, which are not looked at.
    """
    many = 1 << width
    # A copy: the search goes on while nothing is counted, but this function must stay what it is.
    wanted = [(one.number, one.prefix) for one in sought]

    def count(tensors: Sequence[Tensor], *, base: Tensor) -> Tensor:
        rows = []
        for number, value in enumerate(values(tensors, base)):
            prefixes = [prefix for owner, prefix in wanted if owner == number]
            counts = torch.zeros(len(prefixes) if wanted else 1, many + 1, dtype=torch.int64)
            rows.append(counts)
            if value.is_meta:
                continue
            if value.dtype.itemsize > dtype.itemsize:
                counts[:, -1] = value.numel()
                continue
            digits = value.to(dtype).abs_().view(_INTEGERS[dtype]).reshape(-1)
            if not wanted:
                digits.bitwise_right_shift_(shift)
                counts[0, :-1] = torch.bincount(digits, minlength=many)
            else:
                _count_below(digits, prefixes, shift, width, counts)
        return torch.cat(rows)

    return count


def _count_below(
    digits: Tensor, prefixes: Sequence[int], shift: int, width: int, counts: Tensor
) -> None:
    """Count digits of what begins with each of some prefixes. `digits` is used up."""
    taken = 0
    for row, prefix in enumerate(prefixes):
        if prefix in prefixes[:row]:
            counts[row] = counts[prefixes.index(prefix)]
            continue
        # NumPy picks out few of many three times as fast as torch. What has smaller higher bits
        # is negative here, so that it is large as an unsigned number.
        digits.sub_((prefix << (shift + width)) - taken)
        taken = prefix << (shift + width)
        unsigned = digits.cpu().numpy().view(f"u{digits.itemsize}")
        found = unsigned[unsigned < (1 << (shift + width))] >> shift
        counts[row, :-1] = torch.bincount(
            torch.from_numpy(found.astype(np.int64)), minlength=1 << width
        )
