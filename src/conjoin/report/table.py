"""The table of a run: every row on every task, beside the network that was trained for it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from conjoin.report.continuum_table import continuum_markdown, print_continuum
from conjoin.report.distances_table import distances_markdown, print_distances
from conjoin.report.formats import markdown_escaped, markdown_row, number, one_line, signed
from conjoin.report.means import mean_of, spread_of
from conjoin.report.run_folder import Run, TaskInfo

__all__ = [
    "Cell",
    "Line",
    "Severity",
    "cells_of",
    "heading_of",
    "legend_of",
    "lines_of",
    "markdown_table",
    "mean_of",
    "print_table",
    "severity",
    "shown_cell",
    "skipped_of",
    "title_of",
]

Severity = Literal["", "worse", "much worse"]


@dataclass(frozen=True)
class Cell:
    """One row on one task, over the seeds.

    Args:
        mean: of the task's metric on the test part: percent, or a loss.
        spread: standard deviation over the seeds; None for one seed.
        difference: mean, over the seeds that both have, of this value minus the specialist's;
            None where the task has no specialist, or no seed is in both.
        low, high: ends of the confidence interval of the difference, if it was computed.
        uses_task_label: whether the row is told the task at test time.
    """

    mean: float
    spread: float | None
    difference: float | None
    low: float | None
    high: float | None
    uses_task_label: bool


@dataclass(frozen=True)
class Line:
    """A line of the table.

    Args:
        kind: a section is the heading of a group; a row has numbers.
        key: of the group or row.
        name, about: for people.
        cells: one for each task of the run; None where there is no number. A section has none.
        mean: percent, over the tasks that networks were trained on; None unless there are several
            such tasks, all are judged by accuracy, and the row has them all.
        told: whether the row is told the task at test time.
        networks: how many are run to answer.
    """

    kind: Literal["section", "row"]
    key: str
    name: str
    about: str = ""
    cells: tuple[Cell | None, ...] = ()
    mean: float | None = None
    told: bool = False
    networks: int = 1


def cells_of(run: Run) -> dict[tuple[str, str], Cell]:
    """Summarize what was measured on the test parts, by (key of a row, task).

    Seeds that a row lacks are left out of its mean, and of its difference. A row or task that the
    run does not list has no cell.
    """
    values: dict[tuple[str, str], dict[int, float]] = {}
    for record in run.view("row"):
        task = run.tasks.get(record.task)
        if task is None or record.model not in run.rows:
            continue
        if record.split == "test" and record.metric == task.metric:
            values.setdefault((record.model, record.task), {})[record.seed] = record.value
    return {key: _cell(run, *key, values) for key in values}


def lines_of(run: Run) -> tuple[Line, ...]:
    """Give the lines of the table, top to bottom: what every form of the table is made from."""
    cells = cells_of(run)
    lines: list[Line] = []
    group = None
    for row in run.rows.values():
        if row.group != group:
            group = row.group
            lines.append(Line("section", group, title_of(run, group)))
        found = tuple(cells.get((row.key, task)) for task in run.tasks)
        name = _first_named(row.name, row.key)
        mean = _row_mean(run, found)
        told = row.uses_task_label
        lines.append(Line("row", row.key, name, row.about, found, mean, told, row.networks))
    return tuple(lines)


def title_of(run: Run, group: str) -> str:
    """Give the title of a group, or its key if it has none."""
    title = run.groups[group].title if group in run.groups else ""
    return _first_named(title, group)


def heading_of(task: TaskInfo) -> str:
    """Give the heading of a task's column.

    >>> heading_of(TaskInfo(name="MNIST")), heading_of(TaskInfo(name="USPS", trained_on=False))
    ('MNIST', 'USPS (unseen)')
    """
    return task.heading


def shown_cell(cell: Cell | None, metric: str) -> str:
    """Write a cell.

    >>> shown_cell(Cell(79.31, 2.4, -20.04, None, None, False), "accuracy")
    '79.3 ± 2.4 (-20.0)'
    """
    if cell is None:
        return ""
    spread = "" if cell.spread is None else f" ± {number(cell.spread, metric)}"
    change = "" if cell.difference is None else f" ({signed(cell.difference, metric)})"
    return f"{number(cell.mean, metric)}{spread}{change}"


def severity(cell: Cell | None, metric: str) -> Severity:
    """Say how far a cell is behind the specialist.

    Worse: by a percentage point, or a tenth of the specialist's loss. Much worse: by ten points, or
    once more the specialist's loss.

    >>> severity(Cell(79.3, None, -20.0, None, None, False), "accuracy")
    'much worse'
    """
    if cell is None or cell.difference is None:
        return ""
    if metric == "accuracy":
        behind, worse, much = -cell.difference, 1.0, 10.0
    else:
        own = abs(cell.mean - cell.difference)
        behind, worse, much = cell.difference, 0.1 * own, own
        if not math.isfinite(cell.mean):
            return "much worse"
    if behind < worse or behind == 0:
        return ""
    return "worse" if behind < much else "much worse"


def legend_of(run: Run) -> tuple[str, ...]:
    """Explain numbers and marks, a sentence each."""
    seeds = {record.seed for record in run.view("row") if record.split == "test"}
    if not seeds:
        return ("Nothing has been measured yet.",)
    text = (
        f"Mean over {len(seeds)} seeds, ± their standard deviation"
        if len(seeds) > 1
        else ("One seed")
    )
    if run.info.specialists:
        text += "; in brackets, the difference from the specialist of that task"
    found = [f"{text}."]
    if any(task.metric == "loss" for task in run.tasks.values()):
        found.append("A loss is a mean squared error: lower is better.")
    if any(not task.trained_on for task in run.tasks.values()):
        found.append("No network was trained on an unseen task; it is not part of the mean.")
    if any(row.uses_task_label for row in run.rows.values()):
        found.append(
            "* is told at test time which task an example belongs to; all others are one network, "
            "or one ensemble, that is not."
        )
    if _lacks_seeds(run, seeds):
        found.append("The run is not complete: some rows lack seeds.")
    return tuple(found)


def skipped_of(run: Run) -> tuple[str, ...]:
    """Name what does not apply, with the reason, a line each."""
    return tuple(
        f"{skipped.name} ({title_of(run, skipped.group)}): {skipped.reason}"
        if skipped.group
        else f"{skipped.name}: {skipped.reason}"
        for skipped in run.info.skipped
    )


def print_table(run: Run, console: Console) -> None:
    """Print the table, what its marks mean, what was skipped, and the continuum if there is one.

    Of a run in which no network was run, it is that of the distances between the weights.
    """
    if _only_continuum(run):
        print_continuum(run, console)
        return
    if _only_distances(run):
        print_distances(run, console)
    else:
        _print_rows(run, console)
    notes = [f"  {one_line(text)}" for text in skipped_of(run)]
    for note in ["Left out:", *notes] if notes else []:
        console.print(Text(note, style="dim"), highlight=False)
    print_continuum(run, console)


def _print_rows(run: Run, console: Console) -> None:
    tasks, lines = tuple(run.tasks.values()), lines_of(run)
    means = any(line.mean is not None for line in lines)
    table = Table(title=Text(_title(tasks)), title_justify="left")
    table.add_column("network", overflow="fold")
    for task in tasks:
        table.add_column(Text(one_line(heading_of(task))), justify="right", overflow="fold")
    if means:
        table.add_column("mean", justify="right")
    for line in lines:
        if line.kind == "section":
            table.add_section()
            table.add_row(Text(one_line(line.name), style="bold"))
        else:
            shown = [
                Text(shown_cell(cell, task.metric), _STYLES[severity(cell, task.metric)])
                for cell, task in zip(line.cells, tasks, strict=True)
            ]
            mean = [Text(_shown_mean(line))] if means else []
            table.add_row(Text(f"  {_marked(one_line(line.name), line, '*')}"), *shown, *mean)
    console.print(table)
    for note in legend_of(run):
        console.print(Text(note, style="dim"), highlight=False)


def markdown_table(run: Run) -> str:
    """Give the same tables in Markdown, for a README or a thesis."""
    if _only_continuum(run):
        return continuum_markdown(run).lstrip()
    text = [distances_markdown(run)] if _only_distances(run) else _rows_markdown(run)
    if run.info.skipped:
        text += ["Left out:", "", *(f"- {markdown_escaped(line)}" for line in skipped_of(run)), ""]
    return "\n".join(text) + continuum_markdown(run)


def _rows_markdown(run: Run) -> list[str]:
    tasks, lines = tuple(run.tasks.values()), lines_of(run)
    means = any(line.mean is not None for line in lines)
    names = [*(markdown_escaped(heading_of(task)) for task in tasks), *(["mean"] if means else [])]
    text = [markdown_row("network", names), f"|---|{'---:|' * len(names)}"]
    for line in lines:
        if line.kind == "section":
            text.append(markdown_row(f"**{markdown_escaped(line.name)}**", [""] * len(names)))
            continue
        shown = [
            shown_cell(cell, task.metric) for cell, task in zip(line.cells, tasks, strict=True)
        ]
        shown += [_shown_mean(line)] if means else []
        text.append(markdown_row(_marked(markdown_escaped(line.name), line, "\\*"), shown))
    text += ["", *(markdown_escaped(note) for note in legend_of(run)), ""]
    return [f"{_title(tasks)}:", "", *text]


def _only_continuum(run: Run) -> bool:
    """Whether there is a continuum, and no row of which there would be a table."""
    return bool(run.view("continuum") and run.info.continuum) and not run.view("row")


def _only_distances(run: Run) -> bool:
    return bool(run.view("distances")) and not run.view("row")


_STYLES: dict[Severity, str] = {"": "", "worse": "yellow", "much worse": "red"}


def _cell(run: Run, row: str, task: str, values: dict[tuple[str, str], dict[int, float]]) -> Cell:
    by_seed = values[row, task]
    specialist = run.info.specialists.get(task)
    own = values.get((specialist, task), {}) if specialist is not None else {}
    pairs = [value - own[seed] for seed, value in by_seed.items() if seed in own]
    interval = (
        run.interval_of.get((row, specialist, task, run.tasks[task].metric))
        if specialist is not None and pairs
        else None
    )
    return Cell(
        mean=mean_of(by_seed.values()),
        spread=spread_of(by_seed.values()),
        difference=mean_of(pairs) if pairs else None,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        uses_task_label=run.rows[row].uses_task_label,
    )


def _row_mean(run: Run, cells: Sequence[Cell | None]) -> float | None:
    tasks = run.tasks.values()
    found = [cell for cell, task in zip(cells, tasks, strict=True) if task.trained_on]
    judged = {task.metric for task in tasks if task.trained_on}
    if len(found) < 2 or judged != {"accuracy"}:
        return None
    values = [cell.mean for cell in found if cell is not None]
    return mean_of(values) if len(values) == len(found) else None


def _lacks_seeds(run: Run, seeds: set[int]) -> bool:
    found: dict[tuple[str, str, str], set[int]] = {}
    for record in run.view("row"):
        key = (record.model, record.task, record.metric)
        if record.split == "test":
            found.setdefault(key, set()).add(record.seed)
    return any(those != seeds | set(run.info.seeds) for those in found.values())


def _first_named(*names: str) -> str:
    return next((name for name in names if name.strip()), "(no name)")


def _title(tasks: Sequence[TaskInfo]) -> str:
    metrics = {task.metric for task in tasks}
    if metrics == {"loss"}:
        return "Loss on test data"
    mixed = " (loss for a regression)" if "loss" in metrics else ""
    return f"Accuracy on test data, percent{mixed}"


def _shown_mean(line: Line) -> str:
    return "" if line.mean is None else number(line.mean, "accuracy")


def _marked(name: str, line: Line, mark: str) -> str:
    return f"{name} {mark}" if line.told else name
