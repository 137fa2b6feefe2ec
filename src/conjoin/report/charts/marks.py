"""The two shapes that most charts have: lines along a number, and a profile over layers."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from conjoin.report.charts.drawing import INK, PALETTE
from conjoin.report.charts.figure import Chart
from conjoin.report.charts.points import Mean

__all__ = [
    "PHONE",
    "Item",
    "data",
    "is_narrow",
    "legend",
    "legend_height",
    "lines",
    "names_axis",
    "profile",
    "scale_of",
    "series",
]

PHONE = 460
"""Charts of fewer pixels are drawn for a phone."""

# Six shapes and five dashes beside seven colours: an eighth line shares its colour with the first,
# but neither shape nor dash.
_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
_DASHES: tuple[tuple[int, ...], ...] = ((1, 0), (7, 3), (2, 2), (9, 3, 2, 3), (1, 3))


@dataclass(frozen=True, slots=True)
class Item:
    """A point of a chart.

    Args:
        series: the name of the line that it belongs to.
        at: where on the axis that is not measured: a position, a share, a layer's number.
        mean: the value and its spread.
        text: what is said of it.
    """

    series: str
    at: float
    mean: Mean
    text: str

    def row(self) -> dict[str, object]:
        """Give the columns that charts read."""
        return {
            "series": self.series,
            "at": self.at,
            "value": self.mean.value,
            "low": self.mean.low,
            "high": self.mean.high,
            "text": self.text,
        }


def is_narrow(width: int) -> bool:
    """Whether a chart of this width is for a phone."""
    return width < PHONE


class _Shared(alt.InlineData):
    """Data that copies of a chart share: altair copies a chart, data and all, at every step."""

    def __deepcopy__(self, memo: object) -> "_Shared":
        return self


def data(rows: Sequence[dict[str, object]]) -> alt.InlineData:
    """Give rows as the data of a chart."""
    return _Shared(values=list(rows))


def legend(names: Sequence[str], width: int, left: int) -> alt.Legend | None:
    """Give a legend above the chart; none for a single name.

    Args:
        names: of the series.
        width: of the chart, in pixels.
        left: how many of them the axis on the left may take.
    """
    if len(names) < 2:
        return None
    columns = _columns(names, width, left)
    return alt.Legend(
        orient="top",
        title=None,
        direction="horizontal",
        columns=columns,
        labelLimit=(width - left) // columns - 30,
        symbolOpacity=1,
        symbolStrokeWidth=0,
        columnPadding=36,  # readers' fonts can be wider than the one that is measured here
    )


def legend_height(names: Sequence[str], width: int, left: int) -> int:
    """Give the pixels that the legend takes."""
    return 0 if len(names) < 2 else 12 + 18 * math.ceil(len(names) / _columns(names, width, left))


def _columns(names: Sequence[str], width: int, left: int) -> int:
    lengths = [7 * len(name) + 40 for name in names]
    if sum(lengths) <= width - left:
        return len(names)
    return max(1, min(len(names), (width - left) // max(lengths)))


def series(
    names: Sequence[str], width: int, left: int
) -> tuple[alt.Color, alt.Shape, alt.StrokeDash]:
    """Give colour, shape and dash of each name: readers who see no colours have the other two."""
    domain, count, shared = list(names), len(names), legend(names, width, left)
    colors, shapes, dashes = (_cycle(v, count) for v in (PALETTE, _SHAPES, _DASHES))
    return (
        alt.Color("series:N", scale=alt.Scale(domain=domain, range=colors), legend=shared),
        alt.Shape("series:N", scale=alt.Scale(domain=domain, range=shapes), legend=shared),
        # A dash would tear the outlines of the legend's symbols.
        alt.StrokeDash("series:N", scale=alt.Scale(domain=domain, range=dashes), legend=None),
    )


def _cycle(values: Sequence[Any], count: int) -> list[Any]:
    return [values[i % len(values)] for i in range(count)]


def lines(
    items: Sequence[Item],
    names: Sequence[str],
    x: alt.X,
    y_title: str,
    y_scale: alt.Scale,
    width: int,
) -> Chart:
    """Draw a line per series with its points, and a band from the lowest to the highest seed.

    Args:
        items: the points; `at` is what `x` encodes.
        names: every series, in order.
        x: the axis that is not measured; it reads the column ``at``.
        y_title, y_scale: of the axis of values.
        width: in pixels, axes included.
    """
    left = 66
    color, shape, dash = series(names, width, left)
    y = alt.Y("value:Q", title=y_title, scale=y_scale, axis=alt.Axis(tickCount=6))
    base = alt.Chart(data([item.row() for item in items])).encode(x=x, color=color)
    band = base.mark_area(opacity=0.18, aria=False).encode(
        y=alt.Y("low:Q", title=y_title, scale=y_scale), y2="high:Q"
    )
    line = base.mark_line(strokeWidth=2, aria=False).encode(y=y, strokeDash=dash)
    point = base.mark_point(filled=True, size=42, opacity=1).encode(
        y=y, shape=shape, description=alt.Description("text:N")
    )
    spread = any(item.mean.low != item.mean.high for item in items)
    layers = [band, line, point] if spread else [line, point]
    return alt.layer(*layers).properties(
        width=width,
        height=(220 if is_narrow(width) else 280) + legend_height(names, width, left),
        autosize=_fit(),
    )


def scale_of(metric: str, values: Sequence[Mean]) -> alt.Scale:
    """Give the axis of a metric; losses that differ by powers of ten are drawn by their powers."""
    if metric == "accuracy":
        return alt.Scale(domain=[0, 100])
    low, high = min(m.low for m in values), max(m.high for m in values)
    if metric == "loss" and low > 0 and high > 30 * low:
        return alt.Scale(type="log", nice=True)
    return alt.Scale(zero=True)


def names_axis(names: Sequence[str], limit: int, bold: Sequence[int] = ()) -> alt.Axis:
    """Give the axis of a chart that has a line per name: the numbers 0, 1, ... named.

    Numbers, since names may be equal. The expression holds names as JSON strings, which Vega
    reads as the same strings: no name can leave its quotes.
    """
    weight = {"condition": {"test": f"indexof({list(bold)}, datum.value) >= 0", "value": "bold"}}
    return alt.Axis(
        title=None,
        values=list(range(len(names))),
        labelExpr=f"{json.dumps(list(names))}[datum.value]",
        labelLimit=limit,
        labelOverlap=False,
        labelFontWeight={**weight, "value": "normal"},
        ticks=False,
        domain=False,
        grid=True,
    )


def profile(
    items: Sequence[Item],
    names: Sequence[str],
    layers: Sequence[str],
    x_title: str,
    x_scale: alt.Scale,
    width: int,
    *,
    reference: float | None = None,
    bars: bool = False,
) -> Chart:
    """Draw a value per layer, the first layer on top, a line per series.

    Args:
        items: the points; `at` is the number of the layer in `layers`.
        names: every series, in order.
        layers: names of the layers.
        x_title, x_scale: of the axis of values.
        width: in pixels, axes included.
        reference: where a rule is drawn.
        bars: draw each value as a bar from the reference instead of a point on a line.
    """
    limit = 110 if is_narrow(width) else 200
    left = min(limit, 7 * max(len(layer) for layer in layers)) + 16
    color, shape, dash = series(names, width, left)
    step = 26 if len(layers) <= 24 else 17
    rows = [item.row() for item in items]
    if bars:  # series side by side
        shift = {name: (i - (len(names) - 1) / 2) * 0.22 for i, name in enumerate(names)}
        rows = [
            {**row, "at": item.at + shift[item.series]}
            for row, item in zip(rows, items, strict=True)
        ]
    y = alt.Y(
        "at:Q",
        scale=alt.Scale(domain=[len(layers) - 0.5, -0.5], nice=False, zero=False),
        axis=names_axis(layers, limit),
    )
    x = alt.X("value:Q", title=x_title, scale=x_scale, axis=alt.Axis(tickCount=5))
    base = alt.Chart(data(rows)).encode(y=y, color=color)
    parts: list[alt.Chart] = []
    if reference is not None:
        rule = alt.Chart(data([{"value": reference}]))
        parts.append(
            rule.mark_rule(color=INK, strokeDash=[4, 3], opacity=0.8, aria=False).encode(x=x)
        )
    if bars:
        start = 0.0 if reference is None else reference
        parts.append(base.mark_rule(strokeWidth=3, aria=False).encode(x=x, x2=alt.datum(start)))
    else:
        if any(item.mean.low != item.mean.high for item in items):
            parts.append(
                base.mark_rule(strokeWidth=5, opacity=0.22, aria=False).encode(
                    x=alt.X("low:Q", title=x_title, scale=x_scale), x2="high:Q"
                )
            )
        parts.append(
            base.mark_line(strokeWidth=1.5, aria=False).encode(x=x, strokeDash=dash, order="at:Q")
        )
    parts.append(
        base.mark_point(filled=True, size=46, opacity=1).encode(
            x=x, shape=shape, description=alt.Description("text:N")
        )
    )
    return alt.layer(*parts).properties(
        width=width,
        height=step * max(len(layers), 3) + 55 + legend_height(names, width, left),
        autosize=_fit(),
    )


def _fit() -> alt.AutoSizeParams:
    return alt.AutoSizeParams(type="fit", contains="padding")
