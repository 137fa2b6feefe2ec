"""Accuracy and loss on a plane through three networks."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise

import altair as alt

from conjoin.records import Record
from conjoin.report.charts.figure import Chart, Figure, Variant
from conjoin.report.charts.marks import data
from conjoin.report.charts.points import Mean, axis_title, means, shown
from conjoin.report.charts.variants import group_label, make_figure, reestimated, task_of
from conjoin.report.formats import amount
from conjoin.report.run_folder import Run

__all__ = ["plane_figure", "squares_of"]

CEILING = 20.0
"""Losses above this many times the lowest are drawn as if they were there: far from every network
a loss grows without end, and its colours would leave none for the valleys."""


def plane_figure(run: Run) -> Figure | None:
    """Draw a map per task, with the networks that span the plane marked."""
    return make_figure(
        "plane",
        "The plane through the networks",
        "Each square is a network on the plane that the marked ones span; the axes are distances "
        "between weights. Dark is bad, bright is good. Two networks in one bright valley can "
        "be averaged; a dark ridge between them is a barrier. Losses above "
        f"{CEILING:g} times the lowest have one colour. Mean over seeds.",
        # Loss first: the valleys are in it, and accuracy is flat where nothing works.
        sorted(run.view("plane"), key=lambda record: record.metric != "loss"),
        {
            "measure": lambda record: record.metric,
            "task": task_of,
            "networks": group_label(run),
            "statistics": reestimated,
        },
        _variant,
    )


def _variant(records: Sequence[Record]) -> Variant | None:
    cells = means(records, lambda record: (float(record.how["x"]), float(record.how["y"])))
    if not cells:
        return None
    corners = {
        shown(str(name)): (float(at[0]), float(at[1]))
        for name, at in dict(records[0].how.get("corners", {})).items()
    }
    metric = records[0].metric
    squares = squares_of(cells, set(corners.values()))
    return Variant(partial(_chart, squares, corners, metric), _said(cells, corners, records[0]))


def squares_of(
    cells: Mapping[tuple[float, float], Mean], corners: set[tuple[float, float]]
) -> dict[tuple[float, float], Mean]:
    """Leave out the networks themselves, which mostly lie between the points of the grid."""
    grid = [at for at in cells if at not in corners] or list(cells)
    across, up = {x for x, _ in grid}, {y for _, y in grid}
    return {(x, y): mean for (x, y), mean in cells.items() if x in across and y in up}


def _step(values: Sequence[float]) -> float:
    ordered = sorted(set(values))
    gaps = [b - a for a, b in pairwise(ordered)]
    return min(gaps, default=1.0)


def _chart(
    cells: Mapping[tuple[float, float], Mean],
    corners: Mapping[str, tuple[float, float]],
    metric: str,
    width: int,
) -> Chart:
    width = min(width, 540)
    dx, dy = _step([x for x, _ in cells]), _step([y for _, y in cells])
    low_x, high_x = min(x for x, _ in cells) - dx / 2, max(x for x, _ in cells) + dx / 2
    low_y, high_y = min(y for _, y in cells) - dy / 2, max(y for _, y in cells) + dy / 2
    shade, scale, label = _shading(metric, [mean.value for mean in cells.values()])
    squares: list[dict[str, object]] = [
        {
            "x": x - dx / 2,
            # A little over the next square: viewers draw hairlines between squares that only touch.
            "x2": min(x + 0.53 * dx, high_x),
            "y": y - dy / 2,
            "y2": min(y + 0.53 * dy, high_y),
            "shade": shade(mean.value),
            "text": f"x = {x:.3g}, y = {y:.3g}: {metric} {mean.said(metric)}",
        }
        for (x, y), mean in cells.items()
    ]
    axis = alt.Axis(tickCount=5, grid=False)
    x = alt.X("x:Q", title=None, axis=axis, scale=alt.Scale(domain=[low_x, high_x], nice=False))
    y = alt.Y("y:Q", title=None, axis=axis, scale=alt.Scale(domain=[low_y, high_y], nice=False))
    legend = alt.Legend(
        orient="top",
        title=axis_title(metric),
        type="gradient",
        gradientLength=min(260, width - 90),
        tickCount=4,
        labelExpr=label,
    )
    grid = (
        alt.Chart(data(squares))
        .mark_rect()
        .encode(
            x=x,
            x2="x2:Q",
            y=y,
            y2="y2:Q",
            color=alt.Color("shade:Q", scale=scale, legend=legend),
            description=alt.Description("text:N"),
        )
    )
    # One unit is as long upwards as sideways, unless the plane is very flat or very high.
    ratio = min(max((high_y - low_y) / (high_x - low_x), 0.4), 1.4)
    return alt.layer(grid, *_marked(corners, x, y, (low_x + high_x) / 2, width)).properties(
        width=width,
        height=round((width - 40) * ratio) + 75,
        autosize=alt.AutoSizeParams(type="fit", contains="padding"),
    )


def _marked(
    corners: Mapping[str, tuple[float, float]], x: alt.X, y: alt.Y, middle: float, width: int
) -> list[alt.Chart]:
    """Give the networks as white points in a black ring, with names that stay on the map."""
    rows: list[dict[str, object]] = [
        {"x": at[0], "y": at[1], "name": name, "text": f"{name}: x = {at[0]:.3g}, y = {at[1]:.3g}"}
        for name, at in corners.items()
    ]
    marks = []
    # To the left above its point, to the right below: two names at one height do not meet.
    for align, dx, dy in (("left", 8, -13), ("right", -8, 15)):
        names = [row for row in rows if (float(str(row["x"])) <= middle) == (align == "left")]
        part = alt.Chart(data(names)).encode(x=x, y=y, text="name:N")
        for color, stroke in (("#000000", 3.5), ("#ffffff", 0)):
            text = part.mark_text(
                align="left" if align == "left" else "right",
                dx=dx,
                dy=dy,
                color=color,
                stroke=color,
                strokeWidth=stroke,
                strokeJoin="round",
                fontWeight="bold",
                limit=width // 2,
                aria=False,
            )
            marks.append(text)
    point = alt.Chart(data(rows)).mark_point(
        filled=True, size=90, fill="#ffffff", stroke="#000000", strokeWidth=1.5, opacity=1
    )
    return [*marks, point.encode(x=x, y=y, description=alt.Description("text:N"))]


def _shading(
    metric: str, values: Sequence[float]
) -> tuple[Callable[[float], float], alt.Scale, str]:
    """Give what is coloured for a value, the scale of colours, and the legend's labels."""
    low, high = min(values), max(values)
    if metric == "accuracy":
        scale = alt.Scale(scheme="viridis", domain=[10 * math.floor(min(low, 90) / 10), 100])
        return lambda value: value, scale, "datum.label"
    if low > 0 and high > 3 * low:
        top = min(high, CEILING * low)
        scale = alt.Scale(scheme="viridis", domain=[math.log10(low), math.log10(top)], reverse=True)
        label = "format(pow(10, datum.value), '.2~g')"
        return lambda value: math.log10(min(value, top)), scale, label
    domain = [low, high if high > low else low + 1]
    scale = alt.Scale(scheme="viridis", domain=domain, reverse=True)
    return lambda value: value, scale, "datum.label"


def _said(
    cells: Mapping[tuple[float, float], Mean],
    corners: Mapping[str, tuple[float, float]],
    record: Record,
) -> str:
    metric = record.metric
    values = [mean.value for mean in cells.values()]
    parts = []
    for name, at in corners.items():
        near = min(cells, key=lambda cell: math.dist(cell, at))
        parts.append(f"{amount(cells[near].value, metric)} near {name}")
    return (
        f"{metric} on {shown(record.task)} over a plane of {len(cells)} networks: from "
        f"{amount(min(values), metric)} to {amount(max(values), metric)}; {', '.join(parts)}."
    )
