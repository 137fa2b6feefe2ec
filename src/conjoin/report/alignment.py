"""What a run says of aligned networks, beside what it says of them as they were."""

from collections.abc import Iterable
from dataclasses import dataclass

from conjoin.records import Record
from conjoin.report.means import mean_of
from conjoin.report.run_folder import Run
from conjoin.report.view_means import mean_where

__all__ = ["WAYS", "UnitsLine", "aligned", "both", "judged", "units_of", "way"]

WAYS = ("naive", "repaired", "aligned", "aligned + repaired")
"""How two networks are combined: as they are or aligned, each without and with re-estimated
statistics."""


@dataclass(frozen=True, slots=True)
class UnitsLine:
    """How well a group of units was matched; a mean over seeds.

    Args:
        layer: that has them first.
        size: how many.
        matched: share that are each other's best match, from 0 to 1.
        moved: share that are not where they were, from 0 to 1.
        before, after: mean correlation of the units at one place; None if no layer reads them.
    """

    layer: str
    size: int
    matched: float | None
    moved: float | None
    before: float | None
    after: float | None


def aligned(run: Run, of: str, group: str | None = None) -> list[Record]:
    """Give the records of one kind of the view ``alignment``, of all groups or of one."""
    return [
        record
        for record in run.view("alignment")
        if record.how.get("of") == of and group in (None, str(record.how.get("group")))
    ]


def both(run: Run, of: str, view: str) -> list[Record]:
    """Give the records of a view of networks that were aligned too, and then the aligned ones.

    Of the same groups and seeds only: a mean over others would be of other networks.
    """
    found = aligned(run, of)
    there = {(record.how.get("group"), record.seed) for record in found}
    as_they_were = [r for r in run.view(view) if (r.how.get("group"), r.seed) in there]
    return [*as_they_were, *found]


def judged(run: Run, records: Iterable[Record], suffix: str = "") -> list[Record]:
    """Leave only the records of the metric that their task is judged by, with `suffix` behind."""
    metrics = {name: f"{task.metric}{suffix}" for name, task in run.tasks.items()}
    return [r for r in records if r.metric == metrics.get(r.task, f"accuracy{suffix}")]


def way(record: Record) -> str:
    """Give the entry of `WAYS` that a record is of."""
    return WAYS[2 * bool(record.how.get("aligned")) + bool(record.how.get("reestimated"))]


def units_of(run: Run, group: str) -> list[UnitsLine]:
    """Give the groups of units of two networks, in their order."""
    records = aligned(run, "units", group)
    found: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: int(record.how.get("index", 0))):
        found.setdefault(str(record.how.get("units")), []).append(record)
    return [
        UnitsLine(
            str(line[0].how.get("layer", name)),
            round(mean_of(float(record.how.get("size", 0)) for record in line)),
            mean_where(line, "matched fraction"),
            mean_where(line, "moved fraction"),
            mean_where(line, "unit correlation", {"aligned": False}),
            mean_where(line, "unit correlation", {"aligned": True}),
        )
        for name, line in found.items()
    ]
