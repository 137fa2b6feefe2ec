"""What to try next, where the numbers of a run say so."""

import math
from collections.abc import Iterator

from conjoin.report.choice import Choice, row_mean, summary_metric
from conjoin.report.findings import Finding
from conjoin.report.formats import amount, number, percent, quoted
from conjoin.report.run_folder import Run
from conjoin.report.table import title_of
from conjoin.report.view_means import (
    barrier,
    correlation,
    groups_of,
    layer_means,
    loses,
    mean_where,
    metric_of,
)

__all__ = ["next_steps"]


def next_steps(run: Run, choice: Choice | None) -> list[Finding]:
    """Give what follows from the numbers, each at most once, the surest first."""
    return [
        *_fresh_statistics(run),
        *_alignment(run),
        *_shared_start(run),
        *_shared_layers(run),
        *_label(run, choice),
        *_seeds(run),
    ]


def _fresh_statistics(run: Run) -> Iterator[Finding]:
    """Re-estimation, in the group where it removes most of the barrier."""
    found = []
    for group in groups_of(run, "barrier"):
        raw = barrier(run, group, reestimated=False)
        fresh = barrier(run, group, reestimated=True)
        if raw and fresh and fresh[0] <= raw[0] / 2:
            found.append((raw[0] - fresh[0], raw, fresh))
    if found:
        _, (before, metric), (after, _) = max(found)
        yield Finding(
            "Re-estimate BatchNorm statistics after every merge: with a few unlabelled inputs of "
            f"all tasks, the barrier falls from {number(before, metric)} to "
            f"{number(after, metric)}{_points(metric)} here (conjoin.reestimate_batchnorm).",
            "next",
            "interpolation",
        )


def _alignment(run: Run) -> Iterator[Finding]:
    """Alignment, where units of one place do different things."""
    found = [(correlation(run, group), group) for group in groups_of(run, "activations")]
    low = [(value, group) for value, group in found if value is not None and value < 0.5]
    if not low:
        return
    value, group = min(low)
    sizes = [barrier(run, group, reestimated=fresh) for fresh in (True, False)]
    left = min((size for size in sizes if size is not None), default=None)
    if left is not None and percent(left[1]) and left[0] < 1:
        return  # nothing is lost between them
    text = (
        "Align the hidden units of the networks before they are averaged: unit by unit, their "
        f"activations correlate by only {value:z.2f}"
    )
    if left is not None:
        text += f", and a barrier of {number(*left)}{_points(left[1])} is left"
    yield Finding(f"{text}. This is not yet in conjoin.", "next", "activations")


def _shared_start(run: Run) -> Iterator[Finding]:
    """A common start, where the weights of all groups have nothing to do with each other."""
    cosines = {
        group: mean_where(records, "cosine")
        for group, records in groups_of(run, "distances").items()
    }
    known = {g: value for g, value in cosines.items() if value is not None and math.isfinite(value)}
    if not known:
        return
    near = max(known, key=lambda group: known[group])
    far = min(known, key=lambda group: known[group])
    if known[far] >= 0.3 or run.info.continuum is not None:  # such a run has done so
        return
    text = (
        "Train the networks from one initialization, or pull them together while they train: the "
        f"cosine between their weights is {known[far]:z.2f}"
    )
    if near != far and known[near] > known[far]:
        text += f", beside {known[near]:z.2f} in {quoted(title_of(run, near))}"
    yield Finding(f"{text}. For the latter there is conjoin.Coupling.", "next", "distances")


def _shared_layers(run: Run) -> Iterator[Finding]:
    """Separate later layers, as many as are needed for little loss."""
    groups = groups_of(run, "depth")
    for group, records in groups.items():
        metric = metric_of(records)
        layers = layer_means(records, metric, {"mode": "first"})
        if len(layers) < 3 or layers[0][0] != 0:
            continue
        base, last = layers[0][2], layers[-1]
        kept = layers[0]
        for entry in layers[1:]:
            if loses(entry[2], base, metric)[1] == "much":
                break
            kept = entry
        if kept is last:
            continue
        where = f" in {quoted(title_of(run, group))}" if len(groups) > 1 else ""
        if kept[0] == 0:
            text = (
                f"Nothing can be shared cheaply{where} as it stands: the first layer merged, "
                f"{quoted(layers[1][1])}, already takes {metric} from {amount(base, metric)} to "
                f"{amount(layers[1][2], metric)}."
            )
        else:
            first = f"the first {kept[0]}" if kept[0] > 1 else "the first"
            text = (
                f"If the task is known, merge only {first} of {last[0]} layers{where}, "
                f"up to {quoted(kept[1])}, and keep the rest for each task (keep= of "
                f"conjoin.merge): {metric} is {amount(kept[2], metric)} then, and "
                f"{amount(last[2], metric)} with all of them merged."
            )
        yield Finding(text, "next", "depth")


def _label(run: Run, choice: Choice | None) -> Iterator[Finding]:
    """A row that is told the task, where it is far ahead."""
    metric = summary_metric(choice.tasks) if choice else None
    if choice is None or metric is None:
        return
    mine = row_mean(run, choice.merge, choice.tasks, metric)
    told = [
        (row, row_mean(run, row, choice.tasks, metric))
        for row in run.rows.values()
        if row.uses_task_label and row.kind == "reference"
    ]
    found = [(row, mean) for row, mean in told if mean is not None]
    if mine is None or not found:
        return
    pick = max if metric == "accuracy" else min
    row, best = pick(found, key=lambda entry: entry[1])
    if loses(mine, best, metric)[1] == "much":
        yield Finding(
            f"If the task is known when the network is used, separate heads are an alternative: "
            f"{quoted(row.name)} has {amount(best, metric)} where the best merge has "
            f"{amount(mine, metric)} ({metric}).",
            "next",
            "rows",
        )


def _seeds(run: Run) -> Iterator[Finding]:
    if len({record.seed for record in run.view("row")}) == 1:
        yield Finding(
            "Repeat this with more seeds: there is 1, so the intervals speak of these networks and "
            "not of others that were trained in the same way.",
            "next",
            "rows",
        )


def _points(metric: str) -> str:
    return " points" if percent(metric) else ""
