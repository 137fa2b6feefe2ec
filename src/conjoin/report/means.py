"""Means and spreads of any numbers, infinite ones and NaN too."""

import math
import statistics
from collections.abc import Iterable

__all__ = ["mean_of", "spread_of"]


def mean_of(values: Iterable[float]) -> float:
    """Give the mean of any numbers, infinite and NaN too; NaN of none.

    >>> mean_of([1.0, 2.0]), mean_of([float("inf"), 1.0]), mean_of([])
    (1.5, inf, nan)
    """
    found = list(values)
    total = sum(found)
    if not found or not math.isfinite(total):
        return total / len(found) if found else math.nan
    return statistics.fmean(found)


def spread_of(values: Iterable[float]) -> float | None:
    """Give the standard deviation of a sample; None of fewer than two numbers.

    >>> spread_of([1.0, 3.0, 5.0]), spread_of([1.0]), spread_of([1.0, float("inf")])
    (2.0, None, nan)
    """
    found = list(values)
    if len(found) < 2:
        return None
    if not all(map(math.isfinite, found)):
        return math.nan
    try:
        return statistics.stdev(found)
    except OverflowError:
        return math.inf
