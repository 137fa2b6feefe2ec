"""What charts over the strength of coupling share: their two axes, and panels beside each other.

Finite strengths are drawn by their logarithm. The two ends, 0 and infinity, are no powers of ten:
they stand apart, behind a break of the axis.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import altair as alt

from conjoin.report.charts.drawing import INK, PALETTE
from conjoin.report.charts.figure import Chart
from conjoin.report.charts.marks import data, is_narrow, legend, scale_of
from conjoin.report.charts.points import Mean, axis_title, shown

__all__ = [
    "Look",
    "Mark",
    "Panel",
    "Places",
    "ValueAxis",
    "looks",
    "panels",
    "places_of",
    "stretched",
    "value_axis",
]

_BAR = "M-1.1,-.16H1.1V.16H-1.1Z"
_TWO_BARS = "M-1.2,-.16H-.2V.16H-1.2Z M.2,-.16H1.2V.16H.2Z"
_NEAREST = 0.01  # percent that are wrong, as which fewer are drawn: 100 % is infinitely far
_LONG_TITLE, _LONG = "strength, from 0 (independent) to ∞ (one tensor)", 275  # pixels it takes
_LEFT, _EDGE, _BETWEEN = 44, 8, 18  # pixels: beside a panel, around the chart, between panels


@dataclass(frozen=True, slots=True)
class Places:
    """Where strengths stand on their axis.

    Args:
        at: strength -> place; powers of ten are 1 apart.
        breaks: between which places the axis is broken.
    """

    at: dict[str, float]
    breaks: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """How a series is drawn.

    Args:
        name: in the legend; unique in the chart.
        color: as in ``#0072B2``.
        shape: of its points, for Vega; of a reference a bar.
        dash: of its line.
    """

    name: str
    color: str
    shape: str
    dash: tuple[int, ...] = (1, 0)


@dataclass(frozen=True, slots=True)
class Mark:
    """A point of a series.

    Args:
        series: its name.
        strength: as it is written.
        mean: the value and its spread over seeds.
        text: what is said of it.
        chosen: whether it has a ring around it.
    """

    series: str
    strength: str
    mean: Mean
    text: str
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One of the charts beside each other.

    Args:
        title: above it.
        metric: of its values.
        marks: points of the series.
        references: series that are one value at every strength.
        bottom: the lowest value that is drawn; None for the lowest that there is.
    """

    title: str
    metric: str
    marks: Sequence[Mark]
    references: Sequence[tuple[str, Mean]] = ()
    bottom: float | None = None


@dataclass(frozen=True, slots=True)
class ValueAxis:
    """How values are drawn upwards.

    Args:
        place: value -> what is drawn.
        axis, scale: of what is drawn.
    """

    place: Callable[[float], float]
    axis: alt.Axis
    scale: alt.Scale


def places_of(strengths: Sequence[str]) -> Places:
    """Give the places of strengths: the ends apart from what is finite.

    >>> places_of(["0", "0.1", "1", "10", "inf"])
    Places(at={'0': -2.0, '0.1': -1.0, '1': 0.0, '10': 1.0, 'inf': 2.0}, breaks=(-1.5, 1.5))
    """
    logs = {s: math.log10(float(s)) for s in strengths if 0 < float(s) < math.inf}
    low, high = min(logs.values(), default=0.0), max(logs.values(), default=0.0)
    gap = max((high - low) / 6, 1.0)
    at, breaks = {}, []
    for strength in sorted(strengths, key=float):
        if strength in logs:
            at[strength] = logs[strength]
            continue
        end = low - gap if float(strength) == 0 else high + gap
        if logs:
            breaks.append((end + (low if end < low else high)) / 2)
        at[strength] = end
    return Places(at, tuple(breaks))


def stretched(accuracy: float) -> float:
    """Give the place of an accuracy: minus the logarithm of the percent that are wrong.

    >>> [round(stretched(percent), 6) for percent in (0, 90, 99, 99.9)]
    [-2.0, -1.0, -0.0, 1.0]
    """
    return -math.log10(max(100.0 - accuracy, _NEAREST))


def value_axis(metric: str, values: Sequence[Mean], lowest: float | None = None) -> ValueAxis:
    """Give the axis of values: accuracy is stretched towards 100 %, where the differences are.

    Args:
        metric: of the values.
        values: what is drawn; at least one.
        lowest: of an accuracy, from which the axis goes up; None to have room for all values.
    """
    if metric != "accuracy":
        axis = alt.Axis(tickCount=5, minExtent=_LEFT, maxExtent=_LEFT)
        return ValueAxis(lambda value: value, axis, scale_of(metric, values))
    low, high = min(mean.low for mean in values), max(mean.high for mean in values)
    low = low if lowest is None else lowest
    bottom, top = stretched(low), stretched(high)
    pad = max(0.06 * (top - bottom), 0.01)
    bottom, top = bottom - pad, top + pad
    ticks = _ticks(bottom, top)
    labels = [f"{tick:.10g}" for tick in ticks]
    return ValueAxis(
        stretched, _named_axis([stretched(t) for t in ticks], labels, None),
        alt.Scale(domain=[bottom, top], nice=False, zero=False),
    )  # fmt: skip


def looks(series: Sequence[str], references: Sequence[tuple[str, str | None]]) -> list[Look]:
    """Give the looks of series, and of references.

    Args:
        series: names, each with a colour of its own.
        references: names, each with the series whose colour it has; ink if none.
    """
    shapes = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
    dashes: tuple[tuple[int, ...], ...] = ((1, 0), (7, 3), (2, 2), (9, 3, 2, 3), (1, 3))
    found = [
        Look(name, PALETTE[i % len(PALETTE)], shapes[i % len(shapes)], dashes[i % len(dashes)])
        for i, name in enumerate(series)
    ]
    colors = {look.name: look.color for look in found}
    for name, of in references:
        color = INK if of is None else colors.get(of, INK)
        plain = color == INK
        found.append(Look(name, color, _BAR if plain else _TWO_BARS, (1, 0) if plain else (6, 4)))
    return found


def panels(found: Sequence[Panel], drawn: Sequence[Look], places: Places, width: int) -> Chart:
    """Draw panels beside each other, two in a row where there is room.

    Args:
        found: at least one.
        drawn: the look of every series, in the order of the legend.
        places: of the strengths, the same in all panels.
        width: in pixels, axes included.
    """
    columns = 1 if is_narrow(width) or len(found) == 1 else 2
    room = width - 2 * _EDGE - columns * _LEFT - (columns - 1) * _BETWEEN
    each = room // columns
    charts = [_panel(panel, drawn, places, each, width) for panel in found]
    return alt.concat(*charts, columns=columns, spacing=_BETWEEN).properties(padding=_EDGE)


def _panel(panel: Panel, drawn: Sequence[Look], places: Places, inner: int, width: int) -> Chart:
    height = 190 if is_narrow(width) else 230
    all_means = [*(mark.mean for mark in panel.marks), *(mean for _, mean in panel.references)]
    values = value_axis(panel.metric, all_means, panel.bottom)
    cut = panel.bottom is not None
    names = list(places.at)
    side = 0.04 * (max(places.at.values()) - min(places.at.values())) or 0.5
    x = alt.X(
        "at:Q",
        scale=alt.Scale(
            domain=[min(places.at.values()) - side, max(places.at.values()) + side],
            nice=False,
            zero=False,
        ),
        axis=_named_axis(
            [places.at[name] for name in names],
            [_tick(name) for name in names],
            _LONG_TITLE if inner >= _LONG else "strength of coupling",
        ),
    )
    y = alt.Y("value:Q", title=None, scale=values.scale, axis=values.axis)
    low = alt.Y("low:Q", title=None, scale=values.scale, axis=values.axis)
    colors = alt.Scale(domain=[k.name for k in drawn], range=[k.color for k in drawn])
    shapes = alt.Scale(domain=[k.name for k in drawn], range=[k.shape for k in drawn])
    dashes = alt.Scale(domain=[k.name for k in drawn], range=[list(k.dash) for k in drawn])
    shared = legend([look.name for look in drawn], width, 2 * _EDGE)
    color = alt.Color("series:N", scale=colors, legend=shared)
    dash = alt.StrokeDash("series:N", scale=dashes, legend=None)
    rows = [_row(mark, places, values) for mark in panel.marks]
    rules: list[dict[str, object]] = [
        {
            "series": name,
            "value": values.place(mean.value),
            "text": f"{name}, {panel.title}: {panel.metric} {mean.said(panel.metric)}",
        }
        for name, mean in panel.references
    ]
    base = alt.Chart(data(rows)).encode(x=x, color=color)
    parts = [
        alt.Chart(data(rules))
        .mark_rule(strokeWidth=1.5, opacity=0.8)
        .encode(
            # Not up to the edges, or its ends would make the panel wider.
            x=alt.value(1),
            x2=alt.value(inner - 2),
            y=y,
            color=color,
            strokeDash=dash,
            description=alt.Description("text:N"),
        ),
        _chosen_rule(panel, places, x),
        # Within the finite strengths a line; across a break only a hint of one.
        alt.Chart(data(_links(rows)))
        .mark_line(strokeWidth=1, opacity=0.45, aria=False, clip=cut)
        .encode(x=x, y=y, color=color, detail="link:N", strokeDash=alt.value([2, 3])),
        alt.Chart(data([row for row in rows if row["finite"]]))
        .mark_line(strokeWidth=2, aria=False, clip=cut)
        .encode(x=x, y=y, color=color, strokeDash=dash),
        base.mark_rule(strokeWidth=4, opacity=0.35, aria=False, clip=cut).encode(
            y=low, y2="high:Q"
        ),
        base.mark_point(filled=True, size=44, opacity=1, clip=cut).encode(
            y=y,
            shape=alt.Shape("series:N", scale=shapes, legend=shared),
            description=alt.Description("text:N"),
        ),
        alt.Chart(data([row for row in rows if row["chosen"]]))
        .mark_point(filled=False, size=190, shape="circle", stroke=INK, strokeWidth=1.5, aria=False)
        .encode(x=x, y=y),
        alt.Chart(data([{"at": at} for at in places.breaks]))
        .mark_text(text="//", color=INK, fontSize=13, opacity=0.7, aria=False)
        .encode(x=x, y=alt.value(height)),
    ]
    title = alt.TitleParams(
        f"{panel.title}: {axis_title(panel.metric).replace('percent', '%')}",
        anchor="start",
        color=INK,
        fontSize=12,
        fontWeight="bold",
        frame="group",
        limit=inner - 12,  # readers' fonts can be wider than the one that is measured here
    )
    return alt.layer(*parts).properties(width=inner, height=height, title=title)


def _tick(strength: str) -> str:
    """Write a strength in few letters; a search tries such as 3.16228."""
    if strength == "inf":
        return "∞"
    return strength if len(strength) <= 5 else f"{float(strength):.3g}"


def _row(mark: Mark, places: Places, values: ValueAxis) -> dict[str, object]:
    return {
        "series": mark.series,
        "at": places.at[mark.strength],
        "value": values.place(mark.mean.value),
        "low": values.place(mark.mean.low),
        "high": values.place(mark.mean.high),
        "text": mark.text,
        "finite": 0 < float(mark.strength) < math.inf,
        "chosen": mark.chosen,
    }


def _links(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Give pairs of neighbours of which at least one is an end."""
    found: list[dict[str, object]] = []
    for series in dict.fromkeys(row["series"] for row in rows):
        line = sorted((r for r in rows if r["series"] == series), key=lambda r: float(str(r["at"])))
        for one, other in pairwise(line):
            if not (one["finite"] and other["finite"]):
                link = f"{series}: {one['at']}"
                kept = ("series", "at", "value")
                found += [{**{key: r[key] for key in kept}, "link": link} for r in (one, other)]
    return found


def _chosen_rule(panel: Panel, places: Places, x: alt.X) -> alt.Chart:
    at = dict.fromkeys(places.at[mark.strength] for mark in panel.marks if mark.chosen)
    rule = alt.Chart(data([{"at": place} for place in at])).mark_rule(
        color=INK, strokeDash=[2, 3], opacity=0.5, aria=False
    )
    drawn: alt.Chart = rule.encode(x=x)
    return drawn


def _ticks(bottom: float, top: float) -> list[float]:
    """Give accuracies to be written beside the axis, between two places."""
    coarse = [0.0, 50.0, 80.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.8, 99.9, 99.95, 99.98]
    found = [tick for tick in coarse if bottom <= stretched(tick) <= top]
    if len(found) > 2:
        return found
    low, high = 100.0 - 10.0**-bottom, 100.0 - 10.0**-top
    rough = (high - low) / 6  # two ticks at least, since a step can be 2.5 times as long
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step)
    fine = [n * step for n in range(first, math.floor(high / step) + 1)]
    return [tick for tick in fine if tick <= 100.0 - _NEAREST]


def _named_axis(values: Sequence[float], names: Sequence[str], title: str | None) -> alt.Axis:
    """Give an axis whose ticks are named; the expression holds names as JSON strings."""
    labels = json.dumps([shown(name) for name in names])
    extent = _LEFT if title is None else alt.Undefined  # panels are to be as wide as computed
    return alt.Axis(
        title=title,
        values=list(values),
        labelExpr=f"{labels}[indexof({json.dumps(list(values))}, datum.value)]",
        labelOverlap="greedy",
        minExtent=extent,
        maxExtent=extent,
    )
