"""Aligned networks beside the same networks as they were: on the line, and layer by layer."""

from collections.abc import Sequence
from functools import partial

import altair as alt

from conjoin.records import Record
from conjoin.report.alignment import WAYS, aligned, both, judged, way
from conjoin.report.charts.figure import Chart, Figure, Variant
from conjoin.report.charts.layers import layer_profile
from conjoin.report.charts.marks import Item, lines, scale_of
from conjoin.report.charts.points import axis_title, means, shown
from conjoin.report.charts.variants import group_label, make_figure, task_of
from conjoin.report.formats import amount
from conjoin.report.run_folder import Run

__all__ = [
    "aligned_depth_figure",
    "aligned_line_figure",
    "aligned_units_figure",
    "aligned_variance_figure",
]

_ORDER = ("as they were", "aligned")


def aligned_line_figure(run: Run) -> Figure | None:
    """Draw a line for each way to combine two networks, over the share t of the second."""
    if not aligned(run, "interpolation"):
        return None
    return make_figure(
        "aligned-interpolation",
        "From one network to the other, aligned and repaired",
        "Naive: weights of the two networks as they are. Repaired: activation statistics "
        "re-estimated at each point, where there is BatchNorm. Aligned: units of the second "
        "network brought into the order of the first by their activations, which changes nothing "
        "in what it computes. A valley in accuracy, or a hill of loss, is a barrier.",
        judged(run, both(run, "interpolation", "interpolation")),
        {"networks": group_label(run), "task": task_of},
        _line,
    )


def aligned_units_figure(run: Run) -> Figure | None:
    """Draw how alike units at one place fire, before and after."""
    return make_figure(
        "aligned-units",
        "Units at one place, before and after",
        "Correlation of the activations of two units that have the same place in their layers, "
        "mean over the layer, on test data that units were not matched on. Before: as the networks "
        "are. Near 1, two units are one feature. Where even the best order that was found stays "
        "far below, the layers have learned different things.",
        [r for r in aligned(run, "units") if r.metric == "unit correlation"],
        {"networks": group_label(run)},
        lambda found: layer_profile(found, _order, reference=0.0),
    )


def aligned_variance_figure(run: Run) -> Figure | None:
    """Draw how much the activations of the mean vary, aligned or not."""
    if not aligned(run, "variance"):
        return None
    records = both(run, "variance", "activations")
    return make_figure(
        "aligned-variance",
        "What is left of the signal in the mean",
        "Variance of the activations of the two networks' mean, divided by the mean of their own. "
        "At 1 it is kept; below, the signal fades, since averaged units cancel where they do not "
        "agree. Re-estimated statistics bring it back in layers with BatchNorm, and in no others.",
        [r for r in records if r.metric == "activation variance"],
        {"networks": group_label(run), "task": task_of},
        lambda found: layer_profile(_by_way(found), way, reference=1.0),
    )


def aligned_depth_figure(run: Run) -> Figure | None:
    """Draw how good a task's own network is when layers up to one are merged, aligned or not."""
    if not aligned(run, "depth"):
        return None
    records = [r for r in both(run, "depth", "depth") if r.how.get("mode") == "first"]
    return make_figure(
        "aligned-depth",
        "Which layers can be shared, aligned",
        "The layers up to this one are merged; the others stay those of the task's own network, so "
        "that the task label is used. Statistics are re-estimated where there is BatchNorm. The "
        "dashed line is the network as it was.",
        judged(run, records),
        {"networks": group_label(run), "task": task_of},
        lambda found: layer_profile(
            found,
            _order,
            reference=next((r.value for r in found if r.how.get("index") == 0), None),
        ),
    )


def _order(record: Record) -> str:
    return _ORDER[bool(record.how.get("aligned"))]


def _by_way(records: Sequence[Record]) -> list[Record]:
    return sorted(records, key=lambda record: WAYS.index(way(record)))


def _line(records: Sequence[Record]) -> Variant | None:
    metric = records[0].metric
    found = means(records, lambda record: (way(record), float(record.how["t"])))
    items = [
        Item(name, t, mean, f"{name}, t = {t:g}: {metric} {mean.said(metric)}")
        for (name, t), mean in sorted(found.items(), key=lambda entry: entry[0][1])
    ]
    names = [name for name in WAYS if any(item.series == name for item in items)]
    if not items:
        return None
    return Variant(partial(_chart, items, names, metric), _said(records[0], items, names))


def _chart(items: Sequence[Item], names: Sequence[str], metric: str, width: int) -> Chart:
    x = alt.X(
        "at:Q",
        title="t, the share of the second network",
        axis=alt.Axis(tickCount=5, format=".2~f"),
        scale=alt.Scale(nice=False),
    )
    scale = scale_of(metric, [item.mean for item in items])
    return lines(items, names, x, axis_title(metric), scale, width)


def _said(record: Record, items: Sequence[Item], names: Sequence[str]) -> str:
    metric, parts = record.metric, []
    for name in names:
        line = [item for item in items if item.series == name]
        worst = (min if metric == "accuracy" else max)(line, key=lambda item: item.mean.value)
        ends = [amount(item.mean.value, metric) for item in (line[0], line[-1])]
        inner = amount(worst.mean.value, metric)
        parts.append(f"{name}: {ends[0]} to {ends[1]}, worst {inner} at t = {worst.at:g}")
    where = f"on {shown(record.task)} between two networks"
    return f"{metric} {where}, as they are and aligned. {'; '.join(parts)}."
