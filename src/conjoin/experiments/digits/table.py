"""The tables of the experiment, made from records alone."""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from conjoin.experiments.digits.rows import ROWS, SECTIONS
from conjoin.records import Record

__all__ = ["Cell", "cells_of", "markdown_table", "print_tables", "shown_name"]

SPECIALISTS = ("references: {first} alone", "references: {second} alone")
"""The rows that the rows of each task are compared with."""


@dataclass(frozen=True)
class Cell:
    """Accuracy of one row on one task over the seeds.

    Args:
        mean: percent.
        spread: standard deviation over the seeds; None for one seed.
        difference: mean over the seeds of this accuracy minus the specialist's of the same seed.
        uses_task_label: whether the row is told the task at test time.
    """

    mean: float
    spread: float | None
    difference: float
    uses_task_label: bool


def cells_of(records: Iterable[Record], tasks: Sequence[str]) -> dict[tuple[str, str], Cell]:
    """Summarize test accuracy by (row, task)."""
    values: dict[tuple[str, str], dict[int, float]] = {}
    labels: dict[tuple[str, str], bool] = {}
    for record in records:
        if record.split == "test" and record.metric == "accuracy":
            values.setdefault((record.model, record.task), {})[record.seed] = record.value
            labels[record.model, record.task] = bool(record.how.get("uses_task_label"))
    own = {task: values[row, task] for task, row in zip(tasks, SPECIALISTS, strict=True)}
    return {
        (model, task): Cell(
            mean=statistics.fmean(by_seed.values()),
            spread=statistics.stdev(by_seed.values()) if len(by_seed) > 1 else None,
            difference=statistics.fmean(v - own[task][seed] for seed, v in by_seed.items()),
            uses_task_label=labels[model, task],
        )
        for (model, task), by_seed in values.items()
    }


def print_tables(records: Iterable[Record], tasks: Sequence[str], console: Console) -> None:
    """Print test accuracy of every row, its mean over the seeds, and what the marks mean."""
    records = list(records)
    table = Table(title="Accuracy on test images, percent", title_justify="left")
    table.add_column("network", overflow="fold")
    for task in tasks:
        table.add_column(Text(task), justify="right")
    table.add_column("mean", justify="right")
    for line in _lines(records, tasks):
        if isinstance(line, str):
            table.add_section()
            table.add_row(Text(line, style="bold"))
        else:
            styles = [_style(cell) for cell in line.cells]
            shown = [Text(_shown(c), s) for c, s in zip(line.cells, styles, strict=True)]
            table.add_row(Text(f"  {line.name}"), *shown, _mean(line.cells))
    console.print(table)
    console.print(_legend(records), style="dim", highlight=False)


def markdown_table(records: Iterable[Record], tasks: Sequence[str]) -> str:
    """Give the same table in Markdown, for a README or a thesis."""
    records = list(records)
    names = [*(_escaped(task) for task in tasks), "mean"]
    text = [f"| network | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    for line in _lines(records, tasks):
        if isinstance(line, str):
            text.append(f"| **{_escaped(line)}** |{' |' * len(names)}")
        else:
            cells = [_shown(cell) for cell in line.cells]
            text.append(f"| {_escaped(line.name)} | {' | '.join([*cells, _mean(line.cells)])} |")
    return "\n".join([*text, "", _legend(records).replace("\n* ", "\n\\* "), ""])


@dataclass(frozen=True)
class _Line:
    name: str
    cells: list[Cell | None]


def _lines(records: Iterable[Record], tasks: Sequence[str]) -> Iterator[_Line | str]:
    """Give the lines of the table: a string begins a section."""
    cells = cells_of(records, tasks)
    section = ""
    for row in ROWS:
        if row.section != section:
            section = row.section
            yield shown_name(SECTIONS[section].title, tasks)
        found = [cells.get((row.key, task)) for task in tasks]
        told = any(cell is not None and cell.uses_task_label for cell in found)
        yield _Line(shown_name(row.name, tasks) + (" *" if told else ""), found)


def _legend(records: Iterable[Record]) -> str:
    seeds = {record.seed for record in records}
    spread = ", ± their standard deviation" if len(seeds) > 1 else ""
    return (
        f"Mean over {len(seeds)} seed{'s' if len(seeds) > 1 else ''}{spread}; in brackets, the "
        "difference from the specialist of that task.\n* is told at test time which task an image "
        "belongs to; all others are one network, or one ensemble, that is not."
    )


def _escaped(text: str) -> str:
    return "".join("\\" + letter if letter in "\\|*_<[`" else letter for letter in text)


def shown_name(text: str, tasks: Sequence[str]) -> str:
    """Put the names of the tasks into the name of a row or section."""
    return text.replace("{first}", tasks[0]).replace("{second}", tasks[1])


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return ""
    spread = "" if cell.spread is None else f" ± {cell.spread:.1f}"
    difference = round(cell.difference, 1) + 0.0  # + 0.0: no "-0.0"
    return f"{cell.mean:.1f}{spread} ({difference:+.1f})"


def _style(cell: Cell | None) -> str:
    if cell is None or cell.difference > -1:
        return ""
    return "yellow" if cell.difference > -10 else "red"


def _mean(found: Sequence[Cell | None]) -> str:
    values = [cell.mean for cell in found if cell is not None]
    return f"{statistics.fmean(values):.1f}" if len(values) == len(found) else ""
