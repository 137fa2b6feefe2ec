"""How far apart the coupled networks are, layer by layer, while they train."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import altair as alt

from conjoin.records import Record
from conjoin.report.charts.figure import Chart, Figure, Switch, Variant
from conjoin.report.charts.marks import data, is_narrow, names_axis
from conjoin.report.charts.points import Mean, means, shown, unique
from conjoin.report.continuum import Point, curve, point_of, strength_label, strengths_of
from conjoin.report.formats import number
from conjoin.report.run_folder import Run

__all__ = ["gap_figure"]

SPAN = 1000.0
"""Gaps below the largest one divided by this have one colour, zero among them."""

NEAR = 1 / 64
"""Of the scale of colours: nearer ones look the same."""

Layer = tuple[int, str]
"""Number and name."""


@dataclass(frozen=True, slots=True)
class _Shades:
    """The scale of colours that all variants share: from `low` and below to `high`."""

    low: float
    high: float

    def place(self, gap: float) -> float:
        """Give the place of a gap on the scale."""
        return math.log10(max(gap, self.low))

    @property
    def width(self) -> float:
        """Of the scale, in powers of ten."""
        return math.log10(self.high / self.low)


def gap_figure(run: Run) -> Figure | None:
    """Draw a map of layers over steps for each profile and strength."""
    info = run.info.continuum
    if info is None:
        return None
    by_point: dict[Point, list[Record]] = {}
    for record in run.view("gap"):
        point = point_of(info, record)
        if point is not None and record.metric == "gap":
            by_point.setdefault(point, []).append(record)
    cells = {point: _cells(records) for point, records in by_point.items()}
    cells = {point: found for point, found in cells.items() if found}
    if not cells:
        return None
    high = max(mean.value for found in cells.values() for mean in found.values())
    positive = [m.value for found in cells.values() for m in found.values() if m.value > 0]
    shades = _Shades(max(min(positive, default=1.0), high / SPAN), high or 1.0)
    profiles = [profile.name for profile in info.profiles]
    labels = dict(zip(profiles, unique(profiles), strict=True))
    strengths = strengths_of(info, cells)
    variants: dict[tuple[str, ...], Variant] = {}
    for profile in profiles:
        for strength, point in curve(info, strengths, cells.keys(), profile).items():
            setting = (labels[profile], strength_label(strength))
            variants[setting] = Variant(
                partial(_chart, cells[point], shades), _said(setting, cells[point])
            )
    options = [
        [option for option in every if any(setting[i] == option for setting in variants)]
        for i, every in enumerate(([*labels.values()], [strength_label(s) for s in strengths]))
    ]
    kept = [i for i, found in enumerate(options) if len(found) > 1]
    return Figure(
        "gap",
        "How far apart the networks are while they train",
        "Each line is a layer, from the first on top to the last; each square is a moment of the "
        "training. The gap is the distance between the layer's weights in the two networks, "
        "divided by their size: 0 for equal weights, 1.41 for unrelated ones. All maps have one "
        "scale of colours; the darkest stands for everything down to 0. Mean over seeds.",
        tuple(Switch(("profile", "strength")[i], tuple(options[i])) for i in kept),
        {tuple(setting[i] for i in kept): variant for setting, variant in variants.items()},
    )


def _cells(records: Sequence[Record]) -> dict[tuple[Layer, int], Mean]:
    """Give (layer, step) -> gap over the seeds."""
    known = [r for r in records if isinstance(r.how.get("step"), int)]
    return means(
        known,
        lambda r: ((int(r.how.get("index", 0)), str(r.how.get("layer", ""))), int(r.how["step"])),
    )


def _chart(cells: Mapping[tuple[Layer, int], Mean], shades: _Shades, width: int) -> Chart:
    layers = sorted({layer for layer, _ in cells})
    steps = sorted({step for _, step in cells})
    names = [shown(name) for _, name in layers]
    squares: list[dict[str, object]] = []
    for place, layer in enumerate(layers):
        found = {step: cells[layer, step] for step in steps if (layer, step) in cells}
        for run in _runs(found, shades):
            first, last = run[0], run[-1]
            start = max((step for step in steps if step < first), default=0)
            # A little over the next: viewers draw hairlines between squares that only touch.
            across = min(last + 0.06 * (steps[-1] / len(steps)), steps[-1])
            squares.append(
                {
                    "x": start,
                    "x2": across,
                    "y": place - 0.5,
                    "y2": min(place + 0.53, len(layers) - 0.5),
                    "shade": round(shades.place(found[run[len(run) // 2]].value), 3),
                    "text": f"{names[place]}, {_told(found, first, last)}",
                }
            )
    x = alt.X(
        "x:Q",
        title="optimizer steps",
        scale=alt.Scale(domain=[0, steps[-1]], nice=False),
        axis=alt.Axis(tickCount=5, grid=False, format=",d"),
    )
    axis = names_axis(names, 110 if is_narrow(width) else 200)
    y = alt.Y(
        "y:Q",
        scale=alt.Scale(domain=[len(layers) - 0.5, -0.5], nice=False, zero=False),
        axis=axis,
    )
    low, high = math.log10(shades.low), math.log10(shades.high)
    color = alt.Color(
        "shade:Q",
        scale=alt.Scale(scheme="viridis", domain=[low, high if high > low else low + 1]),
        legend=alt.Legend(
            orient="top",
            title="gap",
            type="gradient",
            gradientLength=min(260, width - 90),
            tickCount=4,
            labelExpr="format(pow(10, datum.value), '.2~g')",
        ),
    )
    drawn: alt.Chart = (
        alt.Chart(data(squares))
        .mark_rect()
        .encode(x=x, x2="x2:Q", y=y, y2="y2:Q", color=color, description=alt.Description("text:N"))
    )
    step = 22 if len(layers) <= 24 else 15
    return drawn.properties(
        width=width,
        height=step * max(len(layers), 3) + 110,
        autosize=alt.AutoSizeParams(type="fit", contains="padding"),
    )


def _runs(line: Mapping[int, Mean], shades: _Shades) -> Iterator[list[int]]:
    """Give steps in a row whose colours cannot be told apart: a page has thousands of squares."""
    run: list[int] = []
    for step, mean in line.items():
        place = shades.place(mean.value)
        if run and abs(place - shades.place(line[run[0]].value)) > NEAR * shades.width:
            yield run
            run = []
        run.append(step)
    if run:
        yield run


def _told(line: Mapping[int, Mean], first: int, last: int) -> str:
    if first == last:
        return f"step {first:,}: gap {number(line[first].value, 'gap')}"
    values = [mean.value for step, mean in line.items() if first <= step <= last]
    low, high = number(min(values), "gap"), number(max(values), "gap")
    shown_gap = low if low == high else f"{low} to {high}"
    return f"steps {first:,} to {last:,}: gap {shown_gap}"


def _said(setting: tuple[str, str], cells: Mapping[tuple[Layer, int], Mean]) -> str:
    layers = sorted({layer for layer, _ in cells})
    parts = []
    for layer in dict.fromkeys((layers[0], layers[-1])):
        line = {step: mean.value for (at, step), mean in cells.items() if at == layer}
        first, last = min(line), max(line)
        parts.append(
            f"{shown(layer[1])}: {number(line[first], 'gap')} at step {first:,}, "
            f"{number(line[last], 'gap')} at step {last:,}"
        )
    return (
        f"Gap between the networks in {len(layers)} layers while they train, profile {setting[0]}, "
        f"strength {setting[1]}. {'; '.join(parts)}."
    )
