"""The k-th largest magnitude, exactly, without sorting, and in one look at the data.

Read as integers, the bits of floats that are not negative have the same order as the floats. From
a sample of 65,536 elements the k-th largest is guessed to lie in a window of these integers, four
standard deviations to both sides; then one pass over all elements counts those above the window
and those of each bit pattern within it. If the k-th largest is not there after all, the window
becomes the whole range, with bins of many patterns, and then the bin that holds it. The sample
decides how many passes it takes, never what is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from conjoin.compiled import count_patterns
from conjoin.deferred import torch
from conjoin.dtypes import bits_of
from conjoin.methods.elections import change_from
from conjoin.methods.method import Total
from conjoin.methods.parameters import one_per_model

if TYPE_CHECKING:
    from torch import Tensor

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

Values: TypeAlias = "Callable[[Sequence[Tensor], Tensor], Iterable[Tensor]]"
"""Gives new tensors from the tensors and the base of a block."""
Choose: TypeAlias = Callable[[Sequence[int]], list[list[int]]]
"""Gives ranks, for each of some tensors, from their numbers of elements."""

_SAMPLE = 1 << 16
_BINS = 1 << 20
"""Of a window, at most: 8 MB of counts."""
_TABLE = 1 << 20
"""Bins of all windows together, at most. Of more than a few, each gets fewer, and they take another
look at the data."""


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

    def magnitudes(tensors: Sequence[Tensor], *, base: Tensor) -> Tensor:
        return torch.stack([value.reshape(-1).abs_() for value in values(tensors, base)])

    drawn = total.sample(magnitudes, _SAMPLE)
    ranks = choose([total.size] * len(drawn))
    if drawn.is_meta:
        return torch.zeros(len(ranks), len(ranks[0]), dtype=torch.float64)
    # Every tensor has a part in the sample, so that its dtype is the widest of all.
    dtype = drawn.dtype
    bits = drawn.cpu().view(bits_of(dtype)).numpy()
    most = max(2, min(_BINS, _TABLE // sum(map(len, ranks))))
    sought = [
        _window(_Window(number, rank, 8 * dtype.itemsize - 1, most), bits[number], total.size)
        for number, row in enumerate(ranks)
        for rank in row
    ]
    while wanted := [one for one in sought if one.found is None]:
        counts = total(_counter(values, dtype, wanted)).numpy()
        for one, row in zip(wanted, counts, strict=True):
            one.narrow(row)
    found = torch.tensor([one.found for one in sought], dtype=bits_of(dtype)).view(dtype).double()
    found = found.masked_fill(torch.tensor([one.rank == 0 for one in sought]), torch.inf)
    return found.view(len(ranks), len(ranks[0]))


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
class _Window:
    """Where the bits of a magnitude are looked for.

    Args:
        number: of the tensor that it is of.
        rank: it is the `rank`-th largest of all.
        width: of the whole range, in bits.
        most: bins that it may have.
        low: first bits of the window.
        shift: a bin holds ``2**shift`` patterns.
        bins: how many.
        found: the bits.
    """

    number: int
    rank: int
    width: int
    most: int
    low: int = 0
    shift: int = 0
    bins: int = 1
    found: int | None = None

    def look(self, low: int, high: int) -> None:
        """Look among bits from `low` to before `high`, in as many bins as there may be."""
        self.low, self.shift = low, max(0, (-(-(high - low) // self.most) - 1).bit_length())
        self.bins = -(-(high - low) >> self.shift)

    def narrow(self, counts: NDArray[np.int64]) -> None:
        """Go on with counts of the bins from the first, and, last, of all above the window."""
        inside, above = counts[: self.bins], int(counts[-1])
        # How many have the last bin, the last two, ...
        at_least = inside[::-1].cumsum()
        if not above < self.rank <= above + int(at_least[-1]):
            self.look(0, 1 << self.width)
            return
        place = self.bins - 1 - int(np.searchsorted(at_least, self.rank - above))
        low = self.low + (place << self.shift)
        if self.shift == 0:
            self.found = low
        else:
            self.look(low, low + (1 << self.shift))


def _window(window: _Window, sample: NDArray[Any], size: int) -> _Window:
    """Place a window for the `rank`-th largest of `size` elements, or find that in the sample."""
    rank, many = window.rank, len(sample)
    if rank == 0:
        window.found = 0
    elif many == size:
        window.found = int(np.partition(sample, size - rank)[size - rank])
    else:
        share = rank / size
        middle, spread = share * many, 4 * (share * (1 - share) * many) ** 0.5 + 2
        above, below = int(middle - spread), int(middle + spread)
        low, high = 0, 1 << window.width
        if below < many:
            low = int(np.partition(sample, many - 1 - below)[many - 1 - below])
        if above > 0:
            high = int(np.partition(sample, many - above)[many - above]) + 1
        window.look(low, high)
    return window


def _counter(
    values: Values, dtype: torch.dtype, windows: Sequence[_Window]
) -> Callable[..., Tensor]:
    """Make the function of a block that counts what lies in each window, and above it.

    It gives int64 [windows, bins + 1].
    """
    # A copy: windows change while nothing is counted, but this function must stay what it is.
    wanted = [(one.number, one.low, one.shift, one.bins) for one in windows]
    columns = 1 + max(one.bins for one in windows)

    def count(tensors: Sequence[Tensor], *, base: Tensor, into: Tensor | None = None) -> Tensor:
        if into is None:
            into = torch.zeros(len(wanted), columns, dtype=torch.int64)
        for number, value in enumerate(values(tensors, base)):
            own = [(row, *where) for row, (owner, *where) in enumerate(wanted) if owner == number]
            if own and not value.is_meta:
                value = value.to(dtype).reshape(-1).cpu()
                if not count_patterns(value.view(bits_of(dtype)), own, into):
                    _count(value.abs_().view(bits_of(dtype)).numpy(), own, into)
        return into

    return count


def _count(bits: NDArray[Any], windows: Sequence[tuple[int, ...]], into: Tensor) -> None:
    """Count what lies in each window of (row, low, shift, bins). `bits` are used up."""
    before = 0
    for row, low, shift, bins in windows:
        bits -= low - before
        before = low
        width = bins << shift
        # What lies below the window is negative here, so that it is large as an unsigned number.
        unsigned = bits.view(f"u{bits.itemsize}")
        inside = torch.from_numpy((unsigned[unsigned < width] >> shift).astype(np.int64))
        counts = into[row]
        if len(inside) < bins:
            counts.index_add_(0, inside, torch.ones_like(inside))
        else:
            counts[:bins] += torch.bincount(inside, minlength=bins)
        if width <= np.iinfo(bits.dtype).max:
            counts[-1] += int(np.count_nonzero(bits >= width))
