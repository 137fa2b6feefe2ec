"""What a sentence about a run is about: the best merged network, and what it has to beat.

The best is chosen on validation parts. Chosen on test parts, the best of many rows would look
better than it is; where a run has no validation records, that is done all the same, and said.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from conjoin.records import Interval, Split
from conjoin.report.run_folder import RowInfo, Run, TaskInfo
from conjoin.report.table import cells_of, mean_of

__all__ = ["Choice", "choose", "compared", "row_mean", "summary_metric"]

BEST_PARENT = "best single parent"
"""How the name of that row begins."""


@dataclass(frozen=True)
class Choice:
    """The rows that are compared.

    Args:
        merge: the best merged network: one network that is not told the task.
        tasks: that it is judged on: those that networks were trained on.
        chosen_on: the part that it was chosen on.
        candidates: from how many merged networks.
        parent: the best single network that went into it, chosen in the same way.
        ensemble: of the networks that went into it.
    """

    merge: RowInfo
    tasks: tuple[TaskInfo, ...]
    chosen_on: Split
    candidates: int
    parent: RowInfo | None
    ensemble: RowInfo | None


def choose(run: Run) -> Choice | None:
    """Choose the best merged network of a run; None if no merged network was measured."""
    specialists = run.info.specialists.values()
    merges = [
        row
        for row in run.rows.values()
        if (row.kind, row.networks, row.uses_task_label) == ("merge", 1, False)
        and row.key not in specialists  # a row of an older run may not say its kind
    ]
    tasks = [task for task in run.tasks.values() if task.trained_on] or list(run.tasks.values())
    cells = cells_of(run)

    def answered(row: RowInfo) -> tuple[TaskInfo, ...]:
        return tuple(task for task in tasks if (row.key, task.name) in cells)

    def complete(rows: Iterable[RowInfo]) -> list[RowInfo]:
        return [row for row in rows if all((row.key, task.name) in cells for task in common)]

    # Groups can have fewer tasks; in a run that was stopped, rows can lack some.
    common = max((answered(row) for row in merges), key=len, default=())
    merges = complete(merges)
    if not merges or not common:
        return None
    chosen_on = _part(run, merges, common)
    best = _best(run, merges, common, chosen_on)
    others = complete(run.rows.values())
    parents = [row for row in others if row.kind == "parent" or row.name.startswith(BEST_PARENT)]
    # The group's own, where it has any; else those of the group of references. Of equally good
    # ones the last: the best single parent is listed after the parents.
    parents = ([row for row in parents if row.group == best.group] or parents)[::-1]
    ensembles = [row for row in others if row.kind == "ensemble" and row.group == best.group]
    return Choice(
        best,
        common,
        chosen_on,
        len(merges),
        _best(run, parents, common, _part(run, parents, common)) if parents else None,
        ensembles[0] if ensembles else None,
    )


def row_mean(
    run: Run, row: RowInfo, tasks: Sequence[TaskInfo], metric: str, split: Split = "test"
) -> float | None:
    """Give the mean over tasks of a metric's mean over seeds; None if a task is missing."""
    values = [_values(run, row, task, metric, split) for task in tasks]
    if not values or not all(values):
        return None
    return mean_of(mean_of(found) for found in values)


def summary_metric(tasks: Iterable[TaskInfo]) -> str | None:
    """Give the metric that tasks can be averaged by; None if they are judged in different ways."""
    metrics = {task.metric for task in tasks}
    return metrics.pop() if len(metrics) == 1 else None


def compared(run: Run, row: str, other: str, task: TaskInfo) -> Interval | None:
    """Give the interval of one row minus another, though it was computed the other way round."""
    found = run.interval_of.get((row, other, task.name, task.metric))
    if found is not None:
        return found
    back = run.interval_of.get((other, row, task.name, task.metric))
    if back is None:
        return None
    return Interval(
        row,
        other,
        back.task,
        back.metric,
        -back.value,
        -back.high,
        -back.low,
        back.level,
        back.seeds,
        back.count,
    )


def _part(run: Run, rows: Sequence[RowInfo], tasks: Sequence[TaskInfo]) -> Split:
    complete = all(_values(run, row, t, t.metric, "validation") for row in rows for t in tasks)
    return "validation" if complete else "test"


def _best(run: Run, rows: Sequence[RowInfo], tasks: Sequence[TaskInfo], split: Split) -> RowInfo:
    return max(rows, key=lambda row: _score(run, row, tasks, split))


def _score(run: Run, row: RowInfo, tasks: Sequence[TaskInfo], split: Split) -> tuple[float, float]:
    """Mean accuracy first, then minus the mean loss: the two cannot be added."""
    accuracies = [t for t in tasks if t.metric == "accuracy"]
    losses = [t for t in tasks if t.metric == "loss"]
    accuracy = row_mean(run, row, accuracies, "accuracy", split)
    loss = row_mean(run, row, losses, "loss", split)
    return _ordered(accuracy), _ordered(None if loss is None else -loss)


def _ordered(value: float | None) -> float:
    return -math.inf if value is None or math.isnan(value) else value


def _values(run: Run, row: RowInfo, task: TaskInfo, metric: str, split: Split) -> list[float]:
    found = {
        record.seed: record.value
        for record in run.view("row")
        if (record.model, record.task, record.metric) == (row.key, task.name, metric)
        and record.split == split
    }
    return list(found.values())
