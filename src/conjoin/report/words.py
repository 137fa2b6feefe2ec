"""What a person should read of a run: one sentence, what was found, and what to try next.

Every sentence follows from the numbers of the run and has them in it. Nothing is called better or
worse unless the interval of the difference excludes 0. Names stand in the text as they are: who
shows it has to escape it.
"""

from conjoin.records import Interval
from conjoin.report.alignment_findings import alignment_findings
from conjoin.report.choice import Choice, choose, compared, row_mean, summary_metric
from conjoin.report.continuum_findings import continuum_findings, continuum_headline
from conjoin.report.findings import FINDERS, Finding
from conjoin.report.formats import amount, describe_interval, listing, quoted, verdict
from conjoin.report.next_steps import next_steps
from conjoin.report.run_folder import RowInfo, Run, TaskInfo
from conjoin.report.table import cells_of, title_of
from conjoin.report.view_means import mean_where

__all__ = ["Finding", "describe_interval", "findings", "headline"]

MOST_TASKS = 3
"""So many tasks are named one by one."""


def headline(run: Run) -> str:
    """Say in one sentence what came out: the best merged network against what it has to beat.

    It is chosen on validation data among the merged networks that are one network and are not told
    the task; see `conjoin.report.choice`. In a run with a continuum, the network of the chosen
    point comes first.
    """
    coupled, choice = continuum_headline(run), choose(run)
    if coupled is not None:
        return coupled
    return _without_merge(run) if choice is None else _of_merge(run, choice)


def _of_merge(run: Run, choice: Choice) -> str:
    measured = f"on test data it has {_measured(run, choice)}"
    return f"{_chosen(run, choice)}: {measured}{_against(run, choice)}."


def findings(run: Run) -> list[Finding]:
    """Say what the numbers show: results first, then explanations, then what to try next."""
    choice = choose(run)
    found = continuum_findings(run)
    if choice is not None and continuum_headline(run) is not None:
        text = f"Among networks that were merged after training, {_of_merge(run, choice)}"
        found.append(Finding(text, "result", "rows"))
    found += [finding for finder in FINDERS for finding in finder(run, choice)]
    found += alignment_findings(run)
    found += next_steps(run, choice)
    order = ("result", "explanation", "next")
    return sorted(found, key=lambda finding: order.index(finding.kind))


def _without_merge(run: Run) -> str:
    cells = cells_of(run)
    if cells:
        (key, task), cell = next(iter(cells.items()))
        shown = amount(cell.mean, run.tasks[task].metric)
        return (
            f"No merged network was measured, so this run does not say whether merging works; "
            f"{quoted(run.rows[key].name)} has {shown} on {quoted(task)}."
        )
    distance = mean_where(run.view("distances"), "relative distance")
    cosine = mean_where(run.view("distances"), "cosine")
    if distance is None or cosine is None:
        return "Nothing has been measured in this run yet."
    return (
        "No network was run, so nothing is known of their answers; their weights are at a relative "
        f"distance of {distance:z.2f}, with a cosine of {cosine:z.2f} (means over layers)."
    )


def _chosen(run: Run, choice: Choice) -> str:
    name = quoted(choice.merge.name)
    if len({row.group for row in run.rows.values() if row.kind == "merge"}) > 1:
        name += f" in {quoted(title_of(run, choice.merge.group))}"
    if choice.candidates == 1:
        return f"{name} is the only merged network that was measured"
    if choice.chosen_on == "validation":
        return f"{name} is the best of {choice.candidates} merged networks on validation data"
    return (
        f"{name} is the best of {choice.candidates} merged networks on the test data itself, which "
        "makes it look better than it is"
    )


def _measured(run: Run, choice: Choice) -> str:
    """Give the numbers of the merge, with those that it has to beat in brackets."""
    metric = summary_metric(choice.tasks)
    others = [("best single parent", choice.parent)]
    ensemble = choice.ensemble
    others += [(f"ensemble of {ensemble.networks} networks", ensemble)] if ensemble else []
    seeds = {r.seed for r in run.view("row") if r.model == choice.merge.key and r.split == "test"}
    ending = "one seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
    if metric == "accuracy" and len(choice.tasks) > 1:
        mine = _average(run, choice.merge, choice.tasks)
        beside = [f"{name} {_average(run, row, choice.tasks)}" for name, row in others if row]
        return f"{mine} on average over {_named(choice.tasks)} ({', '.join([*beside, ending])})"
    parts = []
    for task in choice.tasks[:MOST_TASKS]:
        mine = _single(run, choice.merge, task)
        beside = [f"{name} {_single(run, row, task)}" for name, row in others if row]
        brackets = f" ({', '.join(beside)})" if beside else ""
        loss = "a loss of " if task.metric == "loss" else ""
        parts.append(f"{loss}{mine} on {quoted(task.name)}{brackets}")
    return f"{listing(parts)}{_rest(choice.tasks)}, over {ending}"


def _against(run: Run, choice: Choice) -> str:
    """Compare the merge with each task's specialist, where intervals were computed."""
    found: list[tuple[TaskInfo, Interval]] = []
    for task in choice.tasks:
        specialist = run.info.specialists.get(task.name)
        if specialist is not None:
            interval = compared(run, choice.merge.key, specialist, task)
            found += [(task, interval)] if interval else []
    if not found:
        return "; no interval was computed, so a difference from the others may be chance"
    who = "the specialist of each task" if len(choice.tasks) > 1 else "the task's specialist"
    if len(found) > MOST_TASKS:
        return f"; against {who}, it is {_counted(found)}"
    parts = [f"{describe_interval(interval)} on {quoted(task.name)}" for task, interval in found]
    return f"; against {who}, it is {listing(parts)}"


def _counted(found: list[tuple[TaskInfo, Interval]]) -> str:
    verdicts = [verdict(interval) for _, interval in found]
    parts = [f"{seen} on {verdicts.count(seen)}" for seen in dict.fromkeys(verdicts)]
    task, interval = max(found, key=lambda entry: _badness(entry[1]))
    return (
        f"{listing(parts)} of {len(found)} tasks; on {quoted(task.name)}, where it is furthest "
        f"behind, {describe_interval(interval)}"
    )


def _badness(interval: Interval) -> tuple[bool, float]:
    behind = -interval.value if interval.metric == "accuracy" else interval.value
    return verdict(interval) == "worse", behind


def _average(run: Run, row: RowInfo, tasks: tuple[TaskInfo, ...]) -> str:
    mean = row_mean(run, row, tasks, "accuracy")
    return "unknown" if mean is None else amount(mean, "accuracy")


def _single(run: Run, row: RowInfo, task: TaskInfo) -> str:
    mean = row_mean(run, row, [task], task.metric)
    return "unknown" if mean is None else amount(mean, task.metric)


def _named(tasks: tuple[TaskInfo, ...]) -> str:
    if len(tasks) > MOST_TASKS:
        return f"{len(tasks)} tasks"
    return listing([quoted(task.name) for task in tasks])


def _rest(tasks: tuple[TaskInfo, ...]) -> str:
    return f" (and {len(tasks) - MOST_TASKS} more tasks)" if len(tasks) > MOST_TASKS else ""
