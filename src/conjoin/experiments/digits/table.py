"""The tables of the experiment, made from records alone."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from conjoin.experiments.digits.rows import ROWS, SECTIONS
from conjoin.records import Record

__all__ = ["Cell", "cells_of", "print_tables", "shown_name"]

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
    seeds = {record.seed for record in records}
    cells = cells_of(records, tasks)
    table = Table(title="Accuracy on test images, percent", title_justify="left")
    table.add_column("network", overflow="fold")
    for task in tasks:
        table.add_column(Text(task), justify="right")
    table.add_column("mean", justify="right")
    section = ""
    for row in ROWS:
        found = [cells.get((row.key, task)) for task in tasks]
        if row.section != section:
            section = row.section
            table.add_section()
            table.add_row(Text(shown_name(SECTIONS[section].title, tasks), style="bold"))
        told = any(cell is not None and cell.uses_task_label for cell in found)
        name = shown_name(row.name, tasks) + (" *" if told else "")
        table.add_row(Text(f"  {name}"), *[_shown(cell) for cell in found], _mean(found))
    console.print(table)
    spread = ", ± their standard deviation" if len(seeds) > 1 else ""
    console.print(
        f"Mean over {len(seeds)} seed{'s' if len(seeds) > 1 else ''}{spread}; in brackets, the "
        "difference from the specialist of that task.\n* is told at test time which task an image "
        "belongs to; all others are one network, or one ensemble, that is not.",
        style="dim",
        highlight=False,
    )


def shown_name(text: str, tasks: Sequence[str]) -> str:
    """Put the names of the tasks into the name of a row or section."""
    return text.replace("{first}", tasks[0]).replace("{second}", tasks[1])


def _shown(cell: Cell | None) -> Text:
    if cell is None:
        return Text("")
    spread = "" if cell.spread is None else f" ± {cell.spread:.1f}"
    style = "" if cell.difference > -1 else "yellow" if cell.difference > -10 else "red"
    return Text(f"{cell.mean:.1f}{spread} ({cell.difference:+.1f})", style=style)


def _mean(found: Sequence[Cell | None]) -> Text:
    values = [cell.mean for cell in found if cell is not None]
    return Text(f"{statistics.fmean(values):.1f}" if len(values) == len(found) else "")
