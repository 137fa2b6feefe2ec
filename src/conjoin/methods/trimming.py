"""The k-th largest magnitude, exactly and without sorting.

Read as integers, the bits of floats that are not negative have the same order as the floats. So
the k-th largest is found digit by digit: count how often each value of the highest 16 bits
occurs; in the one that holds the k-th largest, count the values of the next 16 bits, and so on.
That takes two passes over float32, four over float64, and counts can be added up in any order
over blocks, threads and processes.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from conjoin.methods.elections import change_from
from conjoin.methods.method import Total
from conjoin.methods.parameters import one_per_model

__all__ = ["count_kept", "limit_below", "thresholds", "trimmed"]

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
    found = _search(total, given, torch.float32, method)
    if found is None:
        found = _search(total, given, torch.float64, method)
        assert found is not None  # there is no wider dtype
    return found


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


def _search(
    total: Total, density: Sequence[float], dtype: torch.dtype, method: str
) -> Tensor | None:
    """Look for thresholds among bits of `dtype`; None if the changes have more bits than that."""
    shift = sum(_ROUNDS[dtype])
    prefixes: list[int] = []
    ranks: list[int] = []
    for width in _ROUNDS[dtype]:
        shift -= width
        counts = total(_counter(dtype, prefixes, shift, width, method))
        if counts[:, -1].any():
            return None
        counts = counts[:, :-1]
        if not prefixes:
            sizes = counts.sum(1).tolist()
            shares = one_per_model(density, len(sizes))
            ranks = [count_kept(share, size) for share, size in zip(shares, sizes, strict=True)]
            prefixes = [0] * len(sizes)
        for number, rank in enumerate(ranks):
            if rank:
                # How many have this digit or a higher one: it falls as the digit grows.
                at_least = counts[number].flip(0).cumsum(0).flip(0)
                digit = int((at_least >= rank).sum()) - 1
                ranks[number] = rank - int(at_least[digit] - counts[number, digit])
                prefixes[number] = prefixes[number] << width | digit
    bits = torch.tensor(prefixes, dtype=_INTEGERS[dtype])
    found = bits.view(dtype).double()
    shares = one_per_model(density, len(prefixes))
    for number, (share, rank) in enumerate(zip(shares, ranks, strict=True)):
        if share == 1 or rank == 0:
            found[number] = 0.0 if share else torch.inf
    return found


def _counter(
    dtype: torch.dtype, prefixes: Sequence[int], shift: int, width: int, method: str
) -> Callable[..., Tensor]:
    """Make the function of a block that counts the values of `width` bits above `shift` bits.

    It gives int64 [n, 2**width + 1]. With prefixes only magnitudes are counted whose higher bits
    are these. The last column counts elements of a wider dtype, which are not looked at.
    """
    values = 1 << width

    def count(tensors: Sequence[Tensor], *, base: Tensor) -> Tensor:
        counts = torch.zeros(len(tensors), values + 1, dtype=torch.int64)
        for number, tensor in enumerate(tensors):
            change = change_from(base, tensor, method)
            if change.is_meta:
                continue
            if change.dtype.itemsize > dtype.itemsize:
                counts[number, -1] = change.numel()
                continue
            digits = change.to(dtype).abs_().view(_INTEGERS[dtype]).reshape(-1)
            if not prefixes:
                digits.bitwise_right_shift_(shift)
                counts[number, :-1] = torch.bincount(digits, minlength=values)
                continue
            # NumPy picks out few of many three times as fast as torch. What has smaller higher
            # bits is negative here, so that it is large as an unsigned number.
            digits.sub_(prefixes[number] << (shift + width))
            unsigned = digits.cpu().numpy().view(f"u{digits.itemsize}")
            found = unsigned[unsigned < (1 << (shift + width))] >> shift
            counts[number, :-1] = torch.bincount(
                torch.from_numpy(found.astype(np.int64)), minlength=values
            )
        return counts

    return count
