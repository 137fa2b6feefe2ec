"""Accuracy and loss along the straight line between two networks."""

from collections.abc import Sequence
from functools import partial

import altair as alt

from conjoin.records import Record
from conjoin.report.charts.figure import Chart, Figure, Variant
from conjoin.report.charts.marks import Item, lines, scale_of
from conjoin.report.charts.points import axis_title, means, shown
from conjoin.report.charts.variants import (
    group_choice,
    make_figure,
    pair_labels,
    reestimated,
    task_of,
)
from conjoin.report.formats import amount
from conjoin.report.run_folder import Run

__all__ = ["interpolation_figure"]


def interpolation_figure(run: Run) -> Figure | None:
    """Draw a line per pair of networks, over the share t of the second."""
    records = run.view("interpolation")
    labels = pair_labels(run, records)
    return make_figure(
        "interpolation",
        "From one network to the other",
        "The weights are (1 - t) times those of the first network and t times those of the second. "
        "A valley in accuracy, or a hill of loss, between the two is a barrier: their mean lies "
        "in it. With several seeds, a band reaches from the lowest to the highest.",
        records,
        {
            **group_choice(run, records, len(labels)),
            "task": task_of,
            "measure": lambda record: record.metric,
            "statistics": reestimated,
        },
        partial(_variant, labels),
    )


def _variant(labels: dict[str, str], records: Sequence[Record]) -> Variant | None:
    metric = records[0].metric
    found = means(records, lambda record: (record.model, float(record.how["t"])))
    items = [
        Item(labels[pair], t, mean, f"{labels[pair]}, t = {t:g}: {metric} {mean.said(metric)}")
        for (pair, t), mean in sorted(found.items(), key=lambda entry: entry[0][1])
    ]
    if not items:
        return None
    names = [label for pair, label in labels.items() if any(pair == key for key, _ in found)]
    return Variant(partial(_chart, items, names, metric), _said(records[0], items, names, metric))


def _chart(items: Sequence[Item], names: Sequence[str], metric: str, width: int) -> Chart:
    x = alt.X(
        "at:Q",
        title="t, the share of the second network",
        axis=alt.Axis(tickCount=5, format=".2~f"),
        scale=alt.Scale(nice=False),
    )
    return lines(
        items, names, x, axis_title(metric), scale_of(metric, [i.mean for i in items]), width
    )


def _said(record: Record, items: Sequence[Item], names: Sequence[str], metric: str) -> str:
    parts = []
    for name in names[:4]:
        line = [item for item in items if item.series == name]
        worst = (min if metric == "accuracy" else max)(line, key=lambda item: item.mean.value)
        ends = [amount(item.mean.value, metric) for item in (line[0], line[-1])]
        inner = amount(worst.mean.value, metric)
        parts.append(f"{name}: {ends[0]} to {ends[1]}, worst {inner} at t = {worst.at:g}")
    more = f"; and {len(names) - 4} more" if len(names) > 4 else ""
    fresh = f", {reestimated(record)}" if "reestimated" in record.how else ""
    what = f"{metric} on {shown(record.task)} along the segment{fresh}"
    return f"{what}. {'; '.join(parts)}{more}."
