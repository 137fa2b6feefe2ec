"""What the numbers of a run show, a sentence or two each, where there are such numbers."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from conjoin.report.choice import Choice, compared, row_mean, summary_metric
from conjoin.report.formats import (
    amount,
    describe_interval,
    difference,
    listing,
    number,
    percent,
    quoted,
)
from conjoin.report.run_folder import RowInfo, Run, TaskInfo
from conjoin.report.table import mean_of, title_of
from conjoin.report.view_means import (
    barrier,
    correlation,
    groups_of,
    layer_means,
    loses,
    mean_where,
    metric_of,
    place,
)

__all__ = ["FINDERS", "Finding"]


@dataclass(frozen=True)
class Finding:
    """Something to read.

    Args:
        text: one or two sentences in plain text; names stand in it as they are.
        kind: what was found, why that may be, or what to try next.
        figure: key of the figure that shows it, if one does.
    """

    text: str
    kind: Literal["result", "explanation", "next"]
    figure: str | None = None


Finder = Callable[[Run, Choice | None], Iterator[Finding]]


def _against_parent(run: Run, choice: Choice | None) -> Iterator[Finding]:
    if choice is None or choice.parent is None:
        return
    yield from _versus(run, choice, choice.parent, "the best single parent")


def _against_ensemble(run: Run, choice: Choice | None) -> Iterator[Finding]:
    if choice is None or choice.ensemble is None:
        return
    ensemble = choice.ensemble
    who = f"the ensemble, which runs {ensemble.networks} networks for every answer"
    yield from _versus(run, choice, ensemble, who)


def _versus(run: Run, choice: Choice, other: RowInfo, who: str) -> Iterator[Finding]:
    name = quoted(choice.merge.name)
    found = [(task, compared(run, choice.merge.key, other.key, task)) for task in choice.tasks]
    parts = [f"{describe_interval(i)} on {quoted(task.name)}" for task, i in found if i]
    if parts:
        yield Finding(f"Against {who}, {name} is {listing(parts)}.", "result", "rows")
        return
    metric = summary_metric(choice.tasks)
    if metric is None:
        return
    mine = row_mean(run, choice.merge, choice.tasks, metric)
    theirs = row_mean(run, other, choice.tasks, metric)
    if mine is not None and theirs is not None:
        over = f", means over {len(choice.tasks)} tasks" if len(choice.tasks) > 1 else ""
        text = (
            f"{name} has {_of(mine, metric)} and {who}, {amount(theirs, metric)}{over}: "
            f"{difference(mine - theirs, metric)} between them. No interval was computed for this."
        )
        yield Finding(text, "result", "rows")


def _chosen(run: Run, choice: Choice | None) -> Iterator[Finding]:
    """Say what was chosen for the best merge on validation data, seed by seed."""
    if choice is None:
        return
    by_seed = {r.seed: r.how["chosen"] for r in run.view("row") if r.model == choice.merge.key
               and isinstance(r.how.get("chosen"), Mapping)}  # fmt: skip
    for name in dict.fromkeys(name for chosen in by_seed.values() for name in chosen):
        if name == "of":
            continue  # says of what the others are
        of = next((f" of {quoted(str(c['of']))}" for c in by_seed.values() if "of" in c), "")
        values = [str(by_seed[seed][name]) for seed in sorted(by_seed) if name in by_seed[seed]]
        shown = values[0] if len(set(values)) == 1 else f"{listing(values)}, seed by seed"
        merge = quoted(choice.merge.name)
        text = f"For {merge}, the {name}{of} was chosen on validation data: {shown}."
        yield Finding(text, "result", "rows")


def _groups(run: Run, choice: Choice | None) -> Iterator[Finding]:
    """Compare the same row of several groups: what the groups differ in is what matters."""
    metric = summary_metric(choice.tasks) if choice else None
    if choice is None or metric is None:
        return
    parts = []
    for row in run.rows.values():
        if (row.name, row.kind) == (choice.merge.name, "merge"):
            mean = row_mean(run, row, choice.tasks, metric)
            if mean is not None:
                parts.append(f"{amount(mean, metric)} in {quoted(title_of(run, row.group))}")
    if len(parts) > 1:
        over = f"mean over {len(choice.tasks)} tasks" if len(choice.tasks) > 1 else "on its task"
        text = f"The same row in other groups: {quoted(choice.merge.name)} has {listing(parts)}"
        yield Finding(f"{text} ({metric}, {over}).", "result", "rows")


def _unseen(run: Run, choice: Choice | None) -> Iterator[Finding]:
    """Say whether averaging generalizes: a domain that no network was trained on."""
    for task in run.tasks.values():
        mine = row_mean(run, choice.merge, [task], task.metric) if choice else None
        if task.trained_on or choice is None or mine is None:
            continue
        parents = [(row, row_mean(run, row, [task], task.metric)) for row in _parents(run, choice)]
        others = [
            f"{amount(v, task.metric)} from {quoted(r.name)}" for r, v in parents if v is not None
        ]
        if choice.ensemble is not None:
            value = row_mean(run, choice.ensemble, [task], task.metric)
            if value is not None:
                others.append(f"{amount(value, task.metric)} from the ensemble")
        text = (
            f"On {quoted(task.name)}, which no network was trained on, {quoted(choice.merge.name)} "
            f"has {_of(mine, task.metric)}"
        )
        text += f", beside {listing(others)}." if others else "."
        best = choice.parent
        interval = compared(run, choice.merge.key, best.key, task) if best else None
        if interval is not None:
            text += f" Against the best single parent it is {describe_interval(interval)}."
        yield Finding(text, "result", "rows")


def _parents(run: Run, choice: Choice) -> list[RowInfo]:
    parents = [row for row in run.rows.values() if row.kind == "parent"]
    return [row for row in parents if row.group == choice.merge.group] or parents


def _transfer(run: Run, choice: Choice | None) -> Iterator[Finding]:
    """Say what a start is worth at the fewest labels."""
    for task in dict.fromkeys(record.task for record in run.view("transfer")):
        records = [record for record in run.view("transfer") if record.task == task]
        metric = metric_of(records)
        counts = sorted({int(r.how.get("labels", 0)) for r in records} - {0})
        if not counts:
            continue
        fewest = counts[0]
        few = [record for record in records if record.how.get("labels") == fewest]
        starts = list(dict.fromkeys(str(record.how.get("start")) for record in few))
        means = {start: mean_where(few, metric, {"start": start}) for start in starts}
        found = [(start, mean) for start, mean in means.items() if mean is not None]
        found.sort(key=lambda entry: entry[1], reverse=metric == "accuracy")
        if len(found) < 2:
            continue
        shown = [f"{amount(v, metric)} from {quoted(s)}" for s, v in _ends(found)]
        text = (
            f"Trained further on {fewest} labels of {quoted(task)}, {len(found)} starts were "
            f"compared: {metric} is {listing(shown)}."
        )
        merged = _merged_start(run, choice, starts)
        # The best of the others, and the worst, which is a new network if all is well.
        others = [start for start, _ in found if start != merged]
        for other in dict.fromkeys((others[0], others[-1])) if merged is not None else ():
            interval = _transfer_interval(run, str(merged), other, fewest, run.tasks.get(task))
            if interval is not None:
                text += f" Against {quoted(other)}, {quoted(str(merged))} is {interval}."
        yield Finding(text, "result", "transfer")


def _ends(found: list[tuple[str, float]], most: int = 5) -> list[tuple[str, float]]:
    """Give all, or the first and the last ones if there are many."""
    return found if len(found) <= most else [*found[: most - 1], found[-1]]


def _merged_start(run: Run, choice: Choice | None, starts: Iterable[str]) -> str | None:
    """Find the start that is the best merge, which may have the title of its group behind it."""
    if choice is None:
        return None
    name, title = choice.merge.name, title_of(run, choice.merge.group)
    return next((s for s in starts if s in (name, f"{name} ({title})", choice.merge.key)), None)


def _transfer_interval(
    run: Run, start: str, other: str, labels: int, task: TaskInfo | None
) -> str | None:
    if task is None:
        return None
    pair = [f"transfer: {name} at {labels} labels" for name in (start, other)]
    interval = compared(run, pair[0], pair[1], task)
    return None if interval is None else describe_interval(interval)


def _calibration(run: Run, choice: Choice | None) -> Iterator[Finding]:
    if choice is None:
        return
    metric = "calibration error"
    rows = [(quoted(choice.merge.name), choice.merge), ("the best single parent", choice.parent)]
    rows += [("the ensemble", choice.ensemble)]
    means = [(name, row_mean(run, row, choice.tasks, metric)) for name, row in rows if row]
    if not means or means[0][1] is None:
        return
    shown = [
        f"{number(mean, metric)} points for {name}" for name, mean in means if mean is not None
    ]
    text = f"Confidence and accuracy differ by {listing(shown)} (calibration error; 0 is best)."
    yield Finding(text, "result", "rows")


def _barriers(run: Run, choice: Choice | None) -> Iterator[Finding]:  # noqa: ARG001
    for group in groups_of(run, "barrier"):
        raw = barrier(run, group, reestimated=False)
        fresh = barrier(run, group, reestimated=True)
        first = raw or fresh
        if first is None:
            continue
        value, metric = first
        judged = metric.removesuffix(" barrier")
        base = _ends_mean(run, group, judged)
        verb = "falls" if judged == "accuracy" else "rises"
        side = "below" if judged == "accuracy" else "above"
        statistics = "" if raw else " with re-estimated statistics"
        text = _sentence(
            f"{place(run, 'barrier', group)}on the way from one network to another{statistics}, "
            f"{judged} {verb} up to {_change(value, metric)} {side} the straight line between the "
            "two (the barrier, mean over tasks)"
        )
        if base is not None and loses(*_after(value, base, judged), judged)[1] == "little":
            text += " That is hardly any: the networks can be averaged."
        yield Finding(text, "result", "interpolation")
        if raw and fresh and value > 0 and math.isfinite(value) and math.isfinite(fresh[0]):
            text = _repaired(run, group, value, fresh[0], metric)
            yield Finding(text, "explanation", "interpolation")


def _after(lost: float, base: float, metric: str) -> tuple[float, float]:
    return (base - lost if metric == "accuracy" else base + lost), base


def _ends_mean(run: Run, group: str, metric: str) -> float | None:
    records = groups_of(run, "interpolation").get(group, [])
    return mean_where((r for r in records if r.how.get("t") in (0, 1)), metric)


def _repaired(run: Run, group: str, raw: float, fresh: float, metric: str) -> str:
    where = place(run, "barrier", group)
    if not fresh < raw:
        return _sentence(
            f"{where}re-estimated statistics do not lower the barrier: it is "
            f"{_change(fresh, metric)} with them and {_change(raw, metric)} without"
        )
    return _sentence(
        f"{where}re-estimated statistics lower the barrier from {number(raw, metric)} to "
        f"{_change(fresh, metric)}: {100 * (raw - fresh) / raw:.0f} % of it came from activation "
        "statistics that do not fit the merged weights"
    )


def _activations(run: Run, choice: Choice | None) -> Iterator[Finding]:  # noqa: ARG001
    for group, records in groups_of(run, "activations").items():
        where = place(run, "activations", group)
        layers = layer_means(records, "activation variance", {"reestimated": False})
        known = [entry for entry in layers if math.isfinite(entry[2])]
        if known:
            index, layer, low = min(known, key=lambda entry: entry[2])
            again = layer_means(records, "activation variance", {"reestimated": True})
            fresh = next((value for i, name, value in again if (i, name) == (index, layer)), None)
            what = "collapses" if low < 0.5 else "does not collapse"
            text = (
                f"{where}the merged network's activation variance {what}: relative to its parents, "
                f"the lowest of {len(layers)} layers is {low:z.2f}, at {quoted(layer)}"
            )
            text += (
                f"; with re-estimated statistics it is {fresh:z.2f} there"
                if fresh is not None
                else ""
            )
            yield Finding(_sentence(text), "explanation", "activations")
        mean = correlation(run, group)
        if mean is not None:
            meaning = (
                "a unit of one is mostly not the feature that the unit at its place in the other is"
                if mean < 0.5
                else "units at the same place mostly do the same"
            )
            count = len(layer_means(records, "activation correlation"))
            text = (
                f"{where}unit by unit, the parents' activations correlate by {mean:z.2f} (mean "
                f"over {count} layers): {meaning}"
            )
            yield Finding(_sentence(text), "explanation", "activations")


def _depth(run: Run, choice: Choice | None) -> Iterator[Finding]:  # noqa: ARG001
    for group, records in groups_of(run, "depth").items():
        metric = metric_of(records)
        bases = layer_means(records, metric, {"mode": "first", "index": 0})
        layers = layer_means(records, metric, {"mode": "only"})
        if not bases or not layers:
            continue
        base = bases[0][2]
        _, layer, value = max(layers, key=lambda entry: _damage(entry[2], base, metric))
        lost, much = loses(value, base, metric)
        where = place(run, "depth", group)
        if much == "little":
            text = (
                f"{where}no single layer does much damage when it alone is merged: at worst "
                f"{difference(max(lost, 0.0), metric)}, by {quoted(layer)}"
            )
        else:
            text = (
                f"{where}of {len(layers)} layers, {quoted(layer)} does the most damage when it "
                f"alone is merged: {metric} goes from {amount(base, metric)} to "
                f"{amount(value, metric)}"
            )
        yield Finding(_sentence(text), "explanation", "depth")


def _damage(value: float, base: float, metric: str) -> float:
    lost, _ = loses(value, base, metric)
    return math.inf if math.isnan(lost) else lost  # NaN is no answer at all


def _distances(run: Run, choice: Choice | None) -> Iterator[Finding]:  # noqa: ARG001
    for group, records in groups_of(run, "distances").items():
        far = mean_where(records, "relative distance")
        cosine = mean_where(records, "cosine")
        if far is None or cosine is None:
            continue
        text = (
            f"{place(run, 'distances', group)}the parents' weights are at a relative distance of "
            f"{far:z.2f} with a cosine of {cosine:z.2f} (means over layers); weights of one length "
            "that have nothing to do with each other would be at 1.41 and 0"
        )
        yield Finding(_sentence(text), "explanation", "distances")


def _cost(run: Run, choice: Choice | None) -> Iterator[Finding]:
    if choice is None:
        return
    costs = [cost for cost in run.costs if cost.row == choice.merge.key]
    if not costs:
        return
    made = mean_of(cost.make_seconds for cost in costs)
    tested = mean_of(cost.test_seconds for cost in costs)
    text = (
        f"{quoted(choice.merge.name)} took {made:.3g} s to make and {tested:.3g} s to run over the "
        f"data, with {costs[0].parameters:,} parameters"
    )
    other = [cost for cost in run.costs if choice.ensemble and cost.row == choice.ensemble.key]
    if other:
        theirs = mean_of(cost.test_seconds for cost in other)
        text += f"; the ensemble took {theirs:.3g} s, with {other[0].parameters:,}"
    yield Finding(f"{text}.", "result")


FINDERS: Sequence[Finder] = (
    _against_parent,
    _against_ensemble,
    _chosen,
    _groups,
    _unseen,
    _transfer,
    _barriers,
    _calibration,
    _cost,
    _activations,
    _depth,
    _distances,
)
"""All of them, in the order in which they are read."""


def _of(value: float, metric: str) -> str:
    return f"a loss of {amount(value, metric)}" if metric == "loss" else amount(value, metric)


def _change(value: float, metric: str) -> str:
    return f"{number(value, metric)}{' points' if percent(metric) else ''}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
