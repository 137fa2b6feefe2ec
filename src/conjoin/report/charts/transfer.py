"""What a start is worth for learning an unseen task."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import altair as alt

from conjoin.records import Record
from conjoin.report.charts.figure import Chart, Figure, Variant
from conjoin.report.charts.marks import Item, lines, scale_of
from conjoin.report.charts.points import axis_title, in_order, means, shown, unique
from conjoin.report.charts.variants import make_figure, task_of
from conjoin.report.formats import amount
from conjoin.report.run_folder import Run

__all__ = ["transfer_figure"]


def transfer_figure(run: Run) -> Figure | None:
    """Draw a line per start, over the number of labelled examples."""
    records = run.view("transfer")
    # Two starts of one name would be one line.
    starts = in_order(str(record.how["start"]) for record in records)
    labels = dict(zip(starts, unique(starts), strict=True))
    return make_figure(
        "transfer",
        "As a start for a new task",
        "Each network is trained further on a few labelled examples of a task that none was "
        "trained on. Higher at few labels means that the start already knows something of use. "
        "With several seeds, a band reaches from the lowest to the highest.",
        records,
        {"task": task_of, "measure": lambda record: record.metric},
        partial(_variant, labels),
    )


def _variant(labels: dict[str, str], records: Sequence[Record]) -> Variant | None:
    metric = records[0].metric
    found = means(records, lambda r: (str(r.how["start"]), int(r.how["labels"])))
    items = [
        Item(labels[s], n, mean, f"{labels[s]}, {n:,} labels: {metric} {mean.said(metric)}")
        for (s, n), mean in sorted(found.items(), key=lambda entry: entry[0][1])
    ]
    if not items:
        return None
    names = [label for start, label in labels.items() if any(start == key for key, _ in found)]
    parts = []
    for name in names:
        line = [item for item in items if item.series == name]
        parts.append(
            f"{name}: {amount(line[0].mean.value, metric)} with {line[0].at:,g} labels, "
            f"{amount(line[-1].mean.value, metric)} with {line[-1].at:,g}"
        )
    said = f"{metric} on {shown(records[0].task)} after training further. {'; '.join(parts)}."
    return Variant(partial(_chart, items, names, metric), said)


def _chart(items: Sequence[Item], names: Sequence[str], metric: str, width: int) -> Chart:
    counts = sorted({item.at for item in items})
    # Counts grow by factors; symlog, since 0 labels is the start itself.
    kind: Literal["log", "symlog"] = "log" if counts[0] > 0 else "symlog"
    x = alt.X(
        "at:Q",
        title="labelled examples",
        scale=alt.Scale(type=kind, nice=False),
        axis=alt.Axis(values=counts, format=",d", labelOverlap="greedy"),
    )
    return lines(
        items, names, x, axis_title(metric), scale_of(metric, [i.mean for i in items]), width
    )
