"""Means of what a view holds: the numbers that sentences are made of."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from conjoin.records import Record
from conjoin.report.run_folder import Run
from conjoin.report.table import mean_of, title_of

__all__ = [
    "barrier",
    "correlation",
    "groups_of",
    "layer_means",
    "loses",
    "mean_where",
    "metric_of",
    "place",
]


def mean_where(
    records: Iterable[Record], metric: str, how: Mapping[str, Any] | None = None
) -> float | None:
    """Give the mean of the records of a metric whose `how` has these values; None of none.

    >>> records = [Record("m", "t", "test", 0, "loss", v, 1, {"t": t}) for t, v in ((0, 1), (1, 2))]
    >>> mean_where(records, "loss"), mean_where(records, "loss", {"t": 1})
    (1.5, 2.0)
    """
    wanted = (how or {}).items()
    values = [
        record.value
        for record in records
        if record.metric == metric and all(record.how.get(key) == v for key, v in wanted)
    ]
    return mean_of(values) if values else None


def groups_of(run: Run, view: str) -> dict[str, list[Record]]:
    """Give the records of a view by their group, in their order."""
    found: dict[str, list[Record]] = {}
    for record in run.view(view):
        found.setdefault(str(record.how.get("group", "")), []).append(record)
    return found


def metric_of(records: Sequence[Record], suffix: str = "") -> str:
    """Give ``accuracy`` if any record has it, else ``loss``; each with `suffix` behind it."""
    has = any(record.metric == f"accuracy{suffix}" for record in records)
    return f"{'accuracy' if has else 'loss'}{suffix}"


def place(run: Run, view: str, group: str) -> str:
    """Say in which group, where the view has several."""
    return f"in “{title_of(run, group)}”, " if len(groups_of(run, view)) > 1 else ""


def barrier(run: Run, group: str, *, reestimated: bool) -> tuple[float, str] | None:
    """Give the mean barrier of a group over its pairs, tasks and seeds, and its metric."""
    records = groups_of(run, "barrier").get(group, [])
    metric = metric_of(records, " barrier")
    found = mean_where(records, metric, {"reestimated": reestimated})
    return None if found is None else (found, metric)


def correlation(run: Run, group: str) -> float | None:
    """Give the mean correlation of the parents' activations over layers, tasks and seeds."""
    records = groups_of(run, "activations").get(group, [])
    return mean_where(records, "activation correlation")


def layer_means(
    records: Iterable[Record], metric: str, how: Mapping[str, Any] | None = None
) -> list[tuple[int, str, float]]:
    """Give (index, layer, mean) of a metric for each layer, by index."""
    wanted = (how or {}).items()
    found: dict[tuple[int, str], list[float]] = {}
    for record in records:
        if record.metric == metric and all(record.how.get(key) == v for key, v in wanted):
            layer = (int(record.how.get("index", 0)), str(record.how.get("layer", "")))
            found.setdefault(layer, []).append(record.value)
    layers = ((index, layer, mean_of(values)) for (index, layer), values in found.items())
    return sorted(layers, key=lambda entry: entry[:2])


def loses(value: float, base: float, metric: str) -> tuple[float, Literal["little", "much"]]:
    """Give how much worse than `base` a value is, and whether that is much.

    Much is a percentage point, or a tenth of a loss.

    >>> loses(97.5, 98.0, "accuracy"), loses(0.5, 0.25, "loss")
    ((0.5, 'little'), (0.25, 'much'))
    """
    lost = base - value if metric == "accuracy" else value - base
    limit = 1.0 if metric == "accuracy" else 0.1 * abs(base)
    return lost, "little" if lost < limit else "much"
