"""Which units of two networks fire alike: a map of all pairs, before and after alignment."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import altair as alt

from conjoin.records import Record
from conjoin.report.alignment import aligned
from conjoin.report.charts.figure import Chart, Figure, Variant
from conjoin.report.charts.marks import data, is_narrow
from conjoin.report.charts.points import shown
from conjoin.report.charts.variants import group_label, make_figure
from conjoin.report.run_folder import Run

__all__ = ["unit_pairs_figure"]

STEP = 0.1
"""Correlations are drawn in steps of this: nearer colours look the same, and a page of squares
without number would be large."""

_TITLES = {False: "before", True: "after"}

Matrix = list[list[float]]


@dataclass(frozen=True, slots=True)
class _Panel:
    """A map.

    Args:
        title: above it.
        matrix: correlations; a line for each unit of the first network.
        x, y: its upper left corner, in squares.
    """

    title: str
    matrix: Matrix
    x: float
    y: float


def unit_pairs_figure(run: Run) -> Figure | None:
    """Draw two maps for each layer that was chosen, of the first seed."""
    records = aligned(run, "pairs of units")
    seeds = {record.seed for record in records}
    return make_figure(
        "unit-pairs",
        "Which units fire alike",
        "Each line is a unit of the first network, each column a unit of the second, of those that "
        "are first in the layer; the brighter, the more their activations correlate on test data. "
        "Before alignment, bright squares lie anywhere, or beyond the map. After it, matched units "
        "have one place: the diagonal is bright where a layer of one network has what the "
        "other's has.",
        [record for record in records if record.seed == min(seeds)],
        {"networks": group_label(run), "layer": _layer},
        _variant,
    )


def _layer(record: Record) -> str:
    return f"{record.how.get('place', '')}: {record.how.get('layer', '')}"


def _variant(records: Sequence[Record]) -> Variant | None:
    found = {bool(record.how.get("aligned")): _read(record) for record in records}
    if set(found) != {False, True} or any(matrix is None for matrix in found.values()):
        return None
    maps = {name: found[key] or [] for key, name in _TITLES.items()}
    return Variant(partial(_chart, maps), _said(records[0], maps))


def _read(record: Record) -> Matrix | None:
    """Read the matrix of a record; None if it has no square one."""
    try:
        matrix = [[float(value) for value in row.split()] for row in record.how.get("matrix", ())]
    except (AttributeError, TypeError, ValueError):
        return None
    square = bool(matrix) and all(len(row) == len(matrix) for row in matrix)
    return matrix if square and all(math.isfinite(v) for row in matrix for v in row) else None


def _chart(maps: Mapping[str, Matrix], width: int) -> Chart:
    width = min(width, 620)
    size = len(next(iter(maps.values())))
    stacked, gap = is_narrow(width), 0.08 * size
    head = gap  # room for a title
    panels = [
        _Panel(
            title,
            matrix,
            0.0 if stacked else number * (size + gap),
            head + number * (size + gap + head) * stacked,
        )
        for number, (title, matrix) in enumerate(maps.items())
    ]
    right = max(panel.x for panel in panels) + size
    bottom = max(panel.y for panel in panels) + size
    bare = alt.Axis(labels=False, ticks=False, domain=False, grid=False)
    x = alt.X(
        "x:Q",
        title="units of the second network",
        axis=bare,
        scale=alt.Scale(domain=[0, right], nice=False),
    )
    y = alt.Y(
        "y:Q",
        title="units of the first network",
        axis=bare,
        scale=alt.Scale(domain=[bottom, 0], nice=False),
    )
    low = min(0.0, *(_level(v) for panel in panels for row in panel.matrix for v in row))
    color = alt.Color(
        "shade:Q",
        scale=alt.Scale(scheme="viridis", domain=[low, 1.0]),
        legend=alt.Legend(
            orient="top",
            title="correlation",
            type="gradient",
            gradientLength=min(260, width - 90),
            tickCount=4,
        ),
    )
    squares = [square for panel in panels for square in _squares(panel)]
    matched = [square for panel in panels for square in _diagonal(panel)]
    titles: list[dict[str, object]] = [
        {"x": panel.x + size / 2, "y": panel.y - head / 2, "title": panel.title} for panel in panels
    ]
    corner = {"x": x, "x2": "x2:Q", "y": y, "y2": "y2:Q", "color": color}
    layers = [
        alt.Chart(data(squares)).mark_rect(aria=False).encode(**corner),
        alt.Chart(data(matched))
        .mark_rect()
        .encode(**corner, description=alt.Description("text:N")),
        alt.Chart(data(titles)).mark_text(aria=False).encode(x=x, y=y, text="title:N"),
    ]
    return alt.layer(*layers).properties(
        width=width,
        height=round((width - 30) * bottom / right) + 85,
        autosize=alt.AutoSizeParams(type="fit", contains="padding"),
    )


def _level(value: float) -> float:
    return round(round(value / STEP) * STEP, 2)


def _squares(panel: _Panel) -> Iterator[dict[str, object]]:
    """Give the squares of a map; neighbours of one colour in a line are one."""
    size = len(panel.matrix)
    for line, row in enumerate(panel.matrix):
        start = 0
        for end in range(1, size + 1):
            if end < size and _level(row[end]) == _level(row[start]):
                continue
            yield {**_box(panel, line, start, end), "shade": _level(row[start])}
            start = end


def _diagonal(panel: _Panel) -> Iterator[dict[str, object]]:
    """Give the squares of units at one place, which say their number."""
    for place, row in enumerate(panel.matrix):
        text = f"units {place + 1}, {panel.title}: correlation {row[place]:z.2f}"
        yield {
            **_box(panel, place, place, place + 1), "shade": _level(row[place]), "text": text,
        }  # fmt: skip


def _box(panel: _Panel, line: int, start: int, end: int) -> dict[str, object]:
    size = len(panel.matrix)
    return {
        "x": round(panel.x + start, 2),
        # A little over the next square: viewers draw hairlines between squares that only touch.
        "x2": round(panel.x + min(end + 0.06, size), 2),
        "y": round(panel.y + line, 2),
        "y2": round(panel.y + min(line + 1.06, size), 2),
    }


def _said(record: Record, maps: Mapping[str, Matrix]) -> str:
    size = len(next(iter(maps.values())))
    parts = []
    for title, matrix in maps.items():
        diagonal = sum(matrix[i][i] for i in range(size)) / size
        best = sum(max(row) for row in matrix) / size
        parts.append(f"{title}: {diagonal:z.2f} at one place, {best:z.2f} with the best of them")
    return (
        f"Correlations of {size} units of two networks in {shown(str(record.how.get('layer')))}, "
        f"each with each; means over units {'; '.join(parts)}."
    )
