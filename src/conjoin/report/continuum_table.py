"""The table of the continuum: a line per profile and strength.

Columns are what a point gives, one network first, on each task. Points that several profiles share
stand once, under the first of these.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from conjoin.records import Interval
from conjoin.report.continuum import (
    WHATS,
    Continuum,
    Point,
    What,
    continuum_of,
    reference_values,
    strength_label,
    what_of,
)
from conjoin.report.formats import listing, markdown_escaped, markdown_row, number, one_line, quoted
from conjoin.report.means import mean_of, spread_of
from conjoin.report.run_folder import Run, TaskInfo

__all__ = [
    "Column",
    "ContinuumCell",
    "ContinuumLine",
    "columns_of",
    "continuum_legend",
    "continuum_lines",
    "continuum_markdown",
    "print_continuum",
    "shown_continuum_cell",
]

TITLE = "The continuum, on test data"


@dataclass(frozen=True)
class Column:
    """A column.

    Args:
        what: a point gives.
        task: that it is measured on; None for the mean over the tasks that were trained on.
        told: whether this is told the task at test time.
    """

    what: What
    task: TaskInfo | None
    told: bool

    @property
    def heading(self) -> tuple[str, str]:
        """What, with its mark; and the task."""
        task = one_line(self.task.heading) if self.task else "mean"
        return f"{self.what} *" if self.told else self.what, task

    @property
    def metric(self) -> str:
        """By which the column is judged."""
        return self.task.metric if self.task else "accuracy"


@dataclass(frozen=True)
class ContinuumCell:
    """A value over the seeds.

    Args:
        mean: of the seeds: percent, or a loss.
        spread: their standard deviation; None for one seed.
        interval: of the difference from the independent specialist, if it was computed.
    """

    mean: float
    spread: float | None
    interval: Interval | None = None


@dataclass(frozen=True)
class ContinuumLine:
    """A line.

    Args:
        kind: a section is the heading of a profile; a row has numbers.
        name: of a profile, a strength or a reference.
        about: a sentence, of a profile.
        cells: one for each column; None where nothing was measured. A section has none.
        chosen: whether this point was chosen on validation data.
    """

    kind: Literal["section", "row"]
    name: str
    about: str = ""
    cells: tuple[ContinuumCell | None, ...] = ()
    chosen: bool = False


def columns_of(run: Run, continuum: Continuum) -> tuple[Column, ...]:
    """Give the columns that have a number, and the mean of the one network over its tasks."""
    found: list[Column] = []
    for what in WHATS:
        tasks = [
            task
            for task in run.tasks.values()
            if any(
                key[1:] == (what, task.name, task.metric, "test") and values
                for key, values in continuum.values.items()
            )
        ]
        told = what in continuum.told
        found += [Column(what, task, told) for task in tasks if task.trained_on]
        judged = [task.metric for task in tasks if task.trained_on]
        if what == "one network" and len(judged) > 1 and set(judged) == {"accuracy"}:
            found.append(Column(what, None, told))
        found += [Column(what, task, told) for task in tasks if not task.trained_on]
    return tuple(found)


def continuum_lines(run: Run, continuum: Continuum) -> tuple[ContinuumLine, ...]:
    """Give the lines, top to bottom: what every form of the table is made from."""
    columns, chosen = columns_of(run, continuum), continuum.chosen()
    lines: list[ContinuumLine] = []
    for profile in continuum.info.profiles:
        own = [p for p in continuum.curve(profile.name).values() if p.profile == profile.name]
        if own:
            lines.append(ContinuumLine("section", profile.name, profile.about))
        for point in own:
            cells = _filled(columns, [_cell(run, continuum, point, c) for c in columns])
            name = strength_label(point.strength)
            lines.append(ContinuumLine("row", name, "", cells, point == chosen))
    return (*lines, *_references(run, continuum, columns))


def continuum_legend(run: Run, continuum: Continuum) -> tuple[str, ...]:
    """Explain numbers and marks, a sentence each."""
    seeds = {seed for values in continuum.values.values() for seed in values}
    several = f"Mean over {len(seeds)} seeds, ± their standard deviation."
    found = [several if len(seeds) > 1 else "One seed."]
    if any(column.metric == "loss" for column in columns_of(run, continuum)):
        found.append("A loss is a mean squared error: lower is better.")
    if continuum.told:
        found.append("* is told at test time which task an example belongs to.")
    if len(continuum.info.profiles) > 1 and (origin := continuum.independent()) is not None:
        found.append(
            "At strength 0 all profiles are the same point, which stands under "
            f"{quoted(origin.profile)}."
        )
    for profile in continuum.info.profiles:
        last = next(reversed(continuum.curve(profile.name).values()), None)
        if last and last.profile != profile.name and float(last.strength) == float("inf"):
            found.append(f"At inf, {quoted(profile.name)} is {quoted(last.profile)}.")
    if continuum.chosen() is not None:
        found.append("The chosen point was chosen on validation data.")
    if any(set(values) != seeds for values in continuum.values.values()):
        found.append("The run is not complete: some points lack seeds.")
    return tuple(found)


def shown_continuum_cell(cell: ContinuumCell | None, metric: str) -> str:
    """Write a cell.

    >>> shown_continuum_cell(ContinuumCell(92.41, 0.32), "accuracy")
    '92.4 ± 0.3'
    """
    if cell is None:
        return ""
    spread = "" if cell.spread is None else f" ± {number(cell.spread, metric)}"
    return number(cell.mean, metric) + spread


def print_continuum(run: Run, console: Console) -> None:
    """Print the table of the continuum, if the run has one, and what its marks mean."""
    continuum = continuum_of(run)
    if continuum is None:
        return
    columns = columns_of(run, continuum)
    lines = continuum_lines(run, continuum)
    for place, block in enumerate(_blocks(columns, lines, console.width)):
        _print_block(columns, lines, block, console, titled=place == 0)
    for note in continuum_legend(run, continuum):
        console.print(Text(one_line(note), style="dim"), highlight=False)


def continuum_markdown(run: Run) -> str:
    """Give the table of the continuum in Markdown; nothing if the run has none."""
    continuum = continuum_of(run)
    if continuum is None:
        return ""
    columns = columns_of(run, continuum)
    names = [markdown_escaped(": ".join(column.heading)) for column in columns]
    text = [markdown_row("strength", names), f"|---|{'---:|' * len(names)}"]
    for line in continuum_lines(run, continuum):
        if line.kind == "section":
            about = f": {markdown_escaped(line.about)}" if line.about.strip() else ""
            title = f"**{markdown_escaped(line.name) or '(no name)'}**{about}"
            text.append(markdown_row(title, [""] * len(names)))
        else:
            name = markdown_escaped(_named(line))
            shown = [name, *_texts(columns, line)]
            shown = [f"**{cell}**" if line.chosen and cell else cell for cell in shown]
            text.append(markdown_row(shown[0], shown[1:]))
    notes = [markdown_escaped(note) for note in continuum_legend(run, continuum)]
    return "\n".join(["", f"{_title(columns)}:", "", *text, "", *notes, ""])


def _blocks(
    columns: Sequence[Column], lines: Sequence[ContinuumLine], width: int
) -> list[list[int]]:
    """Give the numbers of the columns of each table.

    All stand in one; in a narrow terminal there is a table for each thing that a point gives.
    """
    texts = [list(column.heading) for column in columns]
    for line in lines:
        for found, text in zip(texts, _texts(columns, line) if line.cells else [], strict=False):
            found.append(text)
    needed = sum(max(map(len, found)) + 3 for found in texts)
    first = max((len(_named(line)) for line in lines if line.kind == "row"), default=0) + 6
    if first + needed <= width:
        return [list(range(len(columns)))]
    whats = dict.fromkeys(column.what for column in columns)
    return [[i for i, column in enumerate(columns) if column.what == what] for what in whats]


def _print_block(
    columns: Sequence[Column],
    lines: Sequence[ContinuumLine],
    block: Sequence[int],
    console: Console,
    *,
    titled: bool,
) -> None:
    title = Text(_title(columns)) if titled else None
    table = Table(title=title, title_justify="left")
    table.add_column("strength", overflow="fold")
    for index in block:
        heading = Text("\n".join(columns[index].heading))
        table.add_column(heading, justify="right", overflow="fold")
    section: Text | None = None
    for line in lines:
        if line.kind == "section":
            section = Text(one_line(line.name), style="bold")
            continue
        if not any(line.cells[index] for index in block):
            continue
        if section is not None:
            table.add_section()
            table.add_row(section)
            section = None
        texts = _texts(columns, line)
        shown = [f"  {_named(line)}", *(texts[index] for index in block)]
        table.add_row(*(Text(text, "bold" if line.chosen else "") for text in shown))
    console.print(table)


def _named(line: ContinuumLine) -> str:
    return one_line(line.name) + (" (chosen)" if line.chosen else "")


def _texts(columns: Sequence[Column], line: ContinuumLine) -> list[str]:
    pairs = zip(line.cells, columns, strict=True)
    return [shown_continuum_cell(cell, column.metric) for cell, column in pairs]


def _title(columns: Sequence[Column]) -> str:
    metrics = sorted({column.metric for column in columns})
    return f"{TITLE}: {listing(metrics)}{', percent' if metrics == ['accuracy'] else ''}"


def _cell(run: Run, continuum: Continuum, point: Point, column: Column) -> ContinuumCell | None:
    if column.task is None:
        return None  # is filled in from the others
    task = column.task
    values = continuum.at(point, column.what, task.name, task.metric)
    model = continuum.models.get((point, column.what), "")
    against = continuum.info.references.get("independent")
    interval = run.interval_of.get((model, against, task.name, task.metric)) if against else None
    return _over_seeds(values, interval)


def _over_seeds(
    values: Mapping[int, float], interval: Interval | None = None
) -> ContinuumCell | None:
    if not values:
        return None
    return ContinuumCell(mean_of(values.values()), spread_of(values.values()), interval)


def _filled(
    columns: Sequence[Column], cells: Sequence[ContinuumCell | None]
) -> tuple[ContinuumCell | None, ...]:
    """Put the mean over the trained tasks into its column, where all of them are there."""
    judged = [
        cell
        for cell, column in zip(cells, columns, strict=True)
        if column.what == "one network" and column.task is not None and column.task.trained_on
    ]
    known = [cell.mean for cell in judged if cell is not None]
    mean = ContinuumCell(mean_of(known), None) if known and len(known) == len(judged) else None
    pairs = zip(cells, columns, strict=True)
    return tuple(mean if column.task is None else cell for cell, column in pairs)


def _references(run: Run, continuum: Continuum, columns: Sequence[Column]) -> list[ContinuumLine]:
    """Give the references that are no point of the continuum, one network on all data mostly."""
    points, lines = set(continuum.models.values()), []
    for name, key in continuum.info.references.items():
        if key is None or key in points:
            continue
        row = run.rows.get(key)
        what = what_of(run, key)
        cells = [
            _over_seeds(reference_values(run, key, column.task.name))
            if column.task and column.what == what
            else None
            for column in columns
        ]
        if any(cells):
            title = row.name if row and row.name.strip() else name
            lines.append(ContinuumLine("row", title, "", _filled(columns, cells)))
    return [ContinuumLine("section", "references"), *lines] if lines else []
