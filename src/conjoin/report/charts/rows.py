"""Every row of the table, task by task."""

from collections.abc import Sequence
from functools import partial

import altair as alt

from conjoin.report.charts.drawing import INK
from conjoin.report.charts.figure import Chart, Figure, Switch, Variant
from conjoin.report.charts.marks import data, is_narrow, names_axis, scale_of, series
from conjoin.report.charts.points import Mean, axis_title, in_order, means, shown, unique
from conjoin.report.formats import amount
from conjoin.report.run_folder import RowInfo, Run
from conjoin.report.table import title_of

__all__ = ["rows_figure"]

_ORDER = ("accuracy", "loss", "calibration error")
Found = dict[tuple[str, str], Mean]  # (row, task) ->


def rows_figure(run: Run) -> Figure | None:
    """Draw each row as a line with a point per task, under the title of its group."""
    records = [record for record in run.view("row") if record.split == "test"]
    metrics = [m for m in _ORDER if any(r.metric == m for r in records)]
    variants: dict[tuple[str, ...], Variant] = {}
    for metric in metrics:
        found = means(
            (r for r in records if r.metric == metric), lambda record: (record.model, record.task)
        )
        found = {k: v for k, v in found.items() if k[0] in run.rows and k[1] in run.tasks}
        if found:
            variants[(metric,)] = Variant(
                partial(_chart, run, metric, found), _said(run, metric, found)
            )
    if not variants:
        return None
    options = tuple(key[0] for key in variants)
    switches = (Switch("measure", options),) if len(options) > 1 else ()
    return Figure(
        "rows",
        "Every network and every combination",
        "A point per task. A bar is drawn from the lowest to the highest seed where there are "
        "several. The dashed lines are the specialists: each network on the task that it was "
        "trained on.",
        switches,
        variants if switches else {(): next(iter(variants.values()))},
    )


def _lines(run: Run, found: Found) -> list[RowInfo | str]:
    """Give the rows in their order, with the title of each group before its first."""
    present = [row for row in run.info.rows if any(key == row.key for key, _ in found)]
    result: list[RowInfo | str] = []
    for group in in_order(row.group for row in present):
        result.append(shown(title_of(run, group)))
        result += [row for row in present if row.group == group]
    return result


def _chart(run: Run, metric: str, found: Found, width: int) -> Chart:
    tasks = [task for task in run.tasks if any(t == task for _, t in found)]
    labels = dict(zip(tasks, unique(tasks), strict=True))
    listed = _lines(run, found)
    names = [line if isinstance(line, str) else shown(line.name) for line in listed]
    step = _step(width)
    points = []
    for at, line in enumerate(listed):
        for number, task in enumerate(tasks):
            mean = None if isinstance(line, str) else found.get((line.key, task))
            if mean is None:
                continue
            text = f"{names[at]}, {labels[task]}: {metric} {mean.said(metric)}"
            points.append(
                {
                    "series": labels[task],
                    "at": at + (number - (len(tasks) - 1) / 2) * min(5, 14 / len(tasks)) / step,
                    "value": mean.value,
                    "low": mean.low,
                    "high": mean.high,
                    "text": text,
                }
            )
    return _layers(
        points,
        _references(run, found, labels),
        list(labels.values()),
        listed,
        names,
        metric,
        scale_of(metric, list(found.values())),
        width,
    )


def _step(width: int) -> int:
    return 44 if is_narrow(width) else 25  # pixels of a row


def _references(run: Run, found: Found, labels: dict[str, str]) -> list[dict[str, object]]:
    keys = {task: (row, task) for task, row in run.info.specialists.items() if task in labels}
    return [
        {"series": labels[task], "value": found[key].value}
        for task, key in keys.items()
        if key in found
    ]


def _layers(
    points: list[dict[str, object]],
    references: list[dict[str, object]],
    tasks: Sequence[str],
    listed: Sequence[RowInfo | str],
    names: Sequence[str],
    metric: str,
    scale: alt.Scale,
    width: int,
) -> Chart:
    narrow = is_narrow(width)
    color, shape, _ = series(tasks, width, 20 if narrow else 290)
    titles = [at for at, line in enumerate(listed) if isinstance(line, str)]
    # On a phone, names stand above their lines: beside them they would take half of the width.
    axis = None if narrow else names_axis(names, 270, titles)
    y = alt.Y(
        "at:Q",
        scale=alt.Scale(
            domain=[len(names) - 0.5, -0.5 if not narrow else -0.3], nice=False, zero=False
        ),
        axis=axis,
    )
    x = alt.X("value:Q", title=axis_title(metric), scale=scale, axis=alt.Axis(tickCount=5))
    base = alt.Chart(data(points)).encode(y=y, color=color)
    parts = [
        alt.Chart(data(references))
        .mark_rule(strokeDash=[5, 3], opacity=0.75, aria=False)
        .encode(x=x, color=color),
        base.mark_rule(strokeWidth=4, opacity=0.35, aria=False).encode(
            x=alt.X("low:Q", title=axis_title(metric)), x2="high:Q"
        ),
        base.mark_point(filled=True, size=64, opacity=1).encode(
            x=x, shape=shape, description=alt.Description("text:N")
        ),
    ]
    if narrow:
        parts += [_names_above(names, titles, y, width, bold=bold) for bold in (False, True)]
    return alt.layer(*parts).properties(
        width=width,
        height=_step(width) * len(names) + 80,
        autosize=alt.AutoSizeParams(type="fit", contains="padding"),
    )


def _names_above(
    names: Sequence[str], titles: Sequence[int], y: alt.Y, width: int, *, bold: bool
) -> alt.Chart:
    rows: list[dict[str, object]] = [
        {"at": at, "name": name} for at, name in enumerate(names) if (at in titles) == bold
    ]
    mark = alt.Chart(data(rows)).mark_text(
        align="left",
        dy=8 if bold else -11,
        baseline="middle" if bold else "bottom",
        limit=width - 20,
        fontWeight="bold" if bold else "normal",
        color=INK,
        aria=False,
    )
    placed: alt.Chart = mark.encode(y=y, x=alt.value(0), text="name:N")
    return placed


def _said(run: Run, metric: str, found: Found) -> str:
    parts = []
    for task in in_order(task for _, task in found):
        of_task = {key: mean.value for (key, t), mean in found.items() if t == task}
        best = (max if metric == "accuracy" else min)(of_task, key=lambda key: of_task[key])
        worst = (min if metric == "accuracy" else max)(of_task, key=lambda key: of_task[key])
        parts.append(
            f"{shown(task)}: from {amount(of_task[worst], metric)} ({shown(run.rows[worst].name)}) "
            f"to {amount(of_task[best], metric)} ({shown(run.rows[best].name)})"
        )
    return f"{metric} of {len({key for key, _ in found})} rows. " + "; ".join(parts) + "."
