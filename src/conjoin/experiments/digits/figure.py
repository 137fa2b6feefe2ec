"""The figure of the experiment, made from records alone."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from conjoin.errors import InputError
from conjoin.experiments.digits.rows import ROWS, SECTIONS
from conjoin.experiments.digits.table import Cell, cells_of, shown_name
from conjoin.records import Record

__all__ = ["save_figures"]

# Okabe and Ito's colours, which people with colour-blindness can tell apart.
COLOURS = ("#0072B2", "#D55E00")
FORMATS = ("svg", "png", "pdf")
WITHOUT_DEPTH = [row for row in ROWS if not row.section.startswith("depth")]


def save_figures(records: Iterable[Record], tasks: Sequence[str], folder: Path) -> list[Path]:
    """Draw accuracy of every row, and over the number of averaged parts; SVG, PNG and PDF.

    Bars at the points are standard deviations over seeds.

    Raises:
        InputError: matplotlib is missing.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError('the figure needs matplotlib: pip install "conjoin[digits]"') from error
    cells = cells_of(records, tasks)
    # A fixed salt and no date: the same results give the same file.
    with matplotlib.rc_context({"svg.hashsalt": "conjoin", "font.size": 9}):
        figure = Figure(figsize=(13, 7), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
        _draw_rows(left, cells, tasks)
        _draw_depth(right, cells, tasks)
        paths = [folder / f"figure.{suffix}" for suffix in FORMATS]
        for path in paths:
            dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
            figure.savefig(path, dpi=150, metadata=dated.get(path.suffix[1:]))
    return paths


def _draw_rows(axes: Any, cells: dict[tuple[str, str], Cell], tasks: Sequence[str]) -> None:
    labels: list[str] = []
    section, place = "", 0.0
    places: list[float] = []
    for row in WITHOUT_DEPTH:
        if row.section != section:
            section = row.section
            place += 0.6
            labels.append(_short(SECTIONS[section].title, tasks).upper())
            places.append(place)
            place += 1
        for number, task in enumerate(tasks):
            cell = cells.get((row.key, task))
            if cell is not None:
                _point(axes, cell.mean, place, COLOURS[number], "os"[number], xerr=cell.spread)
        told = any(cells[row.key, t].uses_task_label for t in tasks if (row.key, t) in cells)
        labels.append(_short(row.name, tasks) + (" *" if told else ""))
        places.append(place)
        place += 1
    axes.set_yticks(places, labels)
    axes.set_ylim(place, 0)
    axes.set_xlim(-2, 102)
    axes.set_xlabel("accuracy on test images, %   (* told the task)")
    axes.set_title("One network out of two?", loc="left")
    axes.grid(axis="x", alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _short(text: str, tasks: Sequence[str]) -> str:
    """Name a row without the remarks in brackets; the table has them."""
    return re.sub(
        r" \([^)]*\)", "", shown_name(text, [re.sub(r" \([^)]*\)", "", t) for t in tasks])
    )


def _draw_depth(axes: Any, cells: dict[tuple[str, str], Cell], tasks: Sequence[str]) -> None:
    for section, style in (("depth, different", "--"), ("depth, shared", "-")):
        rows = [row for row in ROWS if row.section == section]
        start = section.removeprefix("depth, ")
        for number, task in enumerate(tasks):
            found = [cells[row.key, task] for row in rows]
            errors = [cell.spread or 0.0 for cell in found]
            axes.errorbar(
                range(len(found)),
                [cell.mean for cell in found],
                errors,
                color=COLOURS[number],
                linestyle=style,
                marker="os"[number],
                label=f"{_short(task, tasks)}, {start} initialization",
                capsize=2,
            )
    names = ["none", "block 1", "... 2", "... 3", "... 4", "all"]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel("parts averaged, from the input on\n(statistics re-estimated; told the task)")
    axes.set_ylabel("accuracy on test images, %")
    axes.set_title("How deep can two networks be averaged?", loc="left")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _point(axes: Any, x: float, y: float, colour: str, marker: str, *, xerr: float | None) -> None:
    axes.errorbar(x, y, xerr=xerr, color=colour, marker=marker, capsize=2, alpha=0.85)
