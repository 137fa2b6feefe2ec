"""What happens layer by layer: depth of merging, activations, distances."""

from collections.abc import Callable, Sequence
from functools import partial

import altair as alt

from conjoin.records import Record
from conjoin.report.charts.figure import Chart, Figure, Variant
from conjoin.report.charts.marks import Item, profile, scale_of
from conjoin.report.charts.points import Mean, axis_title, in_order, means, shown, unique
from conjoin.report.charts.variants import (
    group_choice,
    group_label,
    make_figure,
    pair_labels,
    task_of,
)
from conjoin.report.formats import amount
from conjoin.report.run_folder import Run

__all__ = ["activations_figure", "depth_figure", "distances_figure", "layer_profile"]

_MODES = {"first": "all layers up to this one", "only": "this layer alone"}


def depth_figure(run: Run) -> Figure | None:
    """Draw how good each task is when more and more layers are shared."""
    records = [r for r in run.view("depth") if r.how.get("mode") in _MODES]
    starts = means(
        (r for r in records if r.how["mode"] == "first" and r.how["index"] == 0),
        lambda r: (r.metric, r.task),
    )
    return make_figure(
        "depth",
        "Which layers can be shared",
        "Some layers are merged; the others stay those of the task's own network, so that the task "
        "label is used. The dashed line is the network as it was. Where the points leave it, "
        "the layers of the two networks do not fit together.",
        records,
        {
            "task": task_of,
            "measure": lambda r: r.metric,
            "merged": lambda r: _MODES[str(r.how["mode"])],
        },
        lambda found: layer_profile(
            found,
            group_label(run),
            reference=_value(starts.get((found[0].metric, found[0].task))),
            bars=found[0].how["mode"] == "only",
        ),
    )


def activations_figure(run: Run) -> Figure | None:
    """Draw how much the activations of the merged network vary, and whether units agree."""
    records, group = run.view("activations"), group_label(run)
    several = {record.how.get("reestimated") for record in records} >= {True, False}
    split = group_choice(run, records, len({group(r) for r in records}) * (1 + several))

    def name(record: Record) -> str:
        if not several or "reestimated" not in record.how:
            return group(record)
        fresh = ("as merged", "re-estimated")[bool(record.how["reestimated"])]
        return fresh if split else f"{group(record)}, {fresh}"

    return make_figure(
        "activations",
        "What reaches each layer",
        "Variance: that of the merged network's activations, divided by the mean of its parents'. "
        "Below 1, the signal fades as it passes through the layers. Correlation: between the "
        "two parents, unit by unit. Near 0, units at one place do different things, and their "
        "mean does neither.",
        records,
        {
            "measure": lambda r: r.metric.removeprefix("activation "),
            **split,
            "task": task_of,
        },
        lambda found: layer_profile(
            found, name, reference=1.0 if found[0].metric == "activation variance" else 0.0
        ),
    )


def distances_figure(run: Run) -> Figure | None:
    """Draw how far apart the weights of each pair are."""
    records = run.view("distances")
    labels = pair_labels(run, records)
    return make_figure(
        "distances",
        "How far apart the weights are",
        "Relative distance: of the two networks' weights in this layer, divided by the norm of the "
        "first's. About 1.4 is the distance of weights that have nothing to do with each other.",
        records,
        {"measure": lambda r: r.metric, **group_choice(run, records, len(labels))},
        lambda found: layer_profile(found, lambda r: labels[r.model]),
    )


def _value(mean: Mean | None) -> float | None:
    return None if mean is None else mean.value


def layer_profile(
    records: Sequence[Record],
    series: Callable[[Record], str],
    *,
    reference: float | None = None,
    bars: bool = False,
) -> Variant | None:
    """Draw the records of one metric over their layers.

    Args:
        records: with ``index`` and ``layer`` in `how`.
        series: gives the name of the line that a record belongs to.
        reference, bars: as for `profile`.
    """
    metric = records[0].metric
    found = means(records, lambda r: (series(r), (int(r.how["index"]), str(r.how["layer"]))))
    if not found:
        return None
    # By their number in the network; two groups can have other layers at one number.
    layers = sorted(in_order(layer for _, layer in found), key=lambda layer: layer[0])
    names = in_order(name for name, _ in found)
    labels = dict(zip(names, unique(names), strict=True))
    titles = [shown(name) for _, name in layers]
    items = [
        Item(
            labels[name],
            layers.index(layer),
            mean,
            f"{labels[name]}, {shown(layer[1])}: {metric} {mean.said(metric)}",
        )
        for (name, layer), mean in found.items()
    ]
    chart = partial(_chart, items, list(labels.values()), titles, metric, reference, bars)
    return Variant(chart, _said(records[0], items, titles, list(labels.values())))


def _chart(
    items: Sequence[Item],
    names: Sequence[str],
    layers: Sequence[str],
    metric: str,
    reference: float | None,
    bars: bool,
    width: int,
) -> Chart:
    scale = scale_of(metric, [item.mean for item in items])
    if metric in ("cosine", "activation correlation", "unit correlation"):
        low = min(item.mean.low for item in items)
        scale = alt.Scale(domain=[min(low, 0.0), 1.0])
    return profile(
        items, names, layers, axis_title(metric), scale, width, reference=reference, bars=bars
    )


def _said(
    record: Record, items: Sequence[Item], layers: Sequence[str], names: Sequence[str]
) -> str:
    metric, parts = record.metric, []
    for name in names[:4]:
        line = sorted((item for item in items if item.series == name), key=lambda item: item.at)
        first, last = (
            f"{amount(i.mean.value, metric)} at {layers[int(i.at)]}" for i in (line[0], line[-1])
        )
        parts.append(f"{name}: {first}, {last}")
    more = f"; and {len(names) - 4} more" if len(names) > 4 else ""
    where = "" if record.split == "none" else f" on {shown(record.task)}"
    return f"{metric}{where}, layer by layer. {'; '.join(parts)}{more}."
