"""From records to what is drawn: means over seeds, and names that are safe to show."""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from conjoin.records import Record
from conjoin.report.formats import amount, one_line

__all__ = ["Mean", "axis_title", "in_order", "mean_over", "means", "shown", "unique"]

K = TypeVar("K", bound=Hashable)

_TITLES = {
    "accuracy": "accuracy (percent)",
    "loss": "loss",
    "calibration error": "calibration error (percentage points)",
    "activation variance": "variance, merged / parents",
    "activation correlation": "correlation between parents",
    "unit correlation": "correlation of units at one place",
    "relative distance": "relative distance",
    "cosine": "cosine",
}


def axis_title(metric: str) -> str:
    """Give the title of the axis of a metric.

    >>> axis_title("accuracy"), axis_title("perplexity")
    ('accuracy (percent)', 'perplexity')
    """
    return _TITLES.get(metric, shown(metric))


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of a value over seeds, and how far the seeds are apart.

    Args:
        value, low, high: mean, smallest and largest.
        seeds: how many.
    """

    value: float
    low: float
    high: float
    seeds: int

    def said(self, metric: str) -> str:
        """Say it in words.

        >>> Mean(97.25, 97.0, 97.5, 2).said("accuracy")
        '97.2 % (97.0 to 97.5 over 2 seeds)'
        """
        if self.seeds == 1:
            return amount(self.value, metric)
        low, high = (amount(v, metric).removesuffix(" %") for v in (self.low, self.high))
        return f"{amount(self.value, metric)} ({low} to {high} over {self.seeds} seeds)"


def means(records: Iterable[Record], key: Callable[[Record], K]) -> dict[K, Mean]:
    """Average records that have one key, in the order in which keys first appear.

    A key of which a value is not finite is left out: it has no place on an axis.

    >>> pair = [Record("m", "t", "test", s, "loss", float(s), 1) for s in (0, 1)]
    >>> means(pair, lambda record: record.model)
    {'m': Mean(value=0.5, low=0.0, high=1.0, seeds=2)}
    """
    found: dict[K, list[float]] = {}
    for record in records:
        found.setdefault(key(record), []).append(record.value)
    drawn = {k: mean_over(v) for k, v in found.items()}
    return {k: mean for k, mean in drawn.items() if mean is not None}


def mean_over(values: Iterable[float]) -> Mean | None:
    """Average the values of the seeds; None if there are none, or one of them is not finite.

    >>> mean_over([97.0, 97.5]), mean_over([1.0, float("nan")])
    (Mean(value=97.25, low=97.0, high=97.5, seeds=2), None)
    """
    v = list(values)
    if not v or not all(map(math.isfinite, v)):
        return None
    return Mean(math.fsum(v) / len(v), min(v), max(v), len(v))


def in_order(values: Iterable[K]) -> list[K]:
    """Give each value once, in the order of first appearance."""
    return list(dict.fromkeys(values))


def shown(name: str) -> str:
    r"""Give a name as one line that can be seen; see `one_line`.

    Control characters are not allowed in SVG, and some would turn text around.

    >>> shown("a\x00b"), shown(" ")
    ('a\\x00b', '(no name)')
    """
    return one_line(name) or "(no name)"


def unique(names: Sequence[str]) -> list[str]:
    """Give names that can be shown and told apart.

    >>> unique(["mean", "sum", "mean"])
    ['mean', 'sum', 'mean (2)']
    """
    found: list[str] = []
    for name in map(shown, names):
        number, candidate = 1, name
        while candidate in found:
            number += 1
            candidate = f"{name} ({number})"
        found.append(candidate)
    return found
