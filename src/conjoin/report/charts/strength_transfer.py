"""What one network of each strength is worth for learning an unseen task."""

from functools import partial

from conjoin.records import Record
from conjoin.report.charts.figure import Figure, Switch, Variant
from conjoin.report.charts.points import Mean, in_order, means, shown, unique
from conjoin.report.charts.strengths import Mark, Panel, looks, panels, places_of
from conjoin.report.continuum import Point, curve, point_of, strength_label, strengths_of
from conjoin.report.formats import amount
from conjoin.report.run_folder import Run

__all__ = ["strength_transfer_figure"]


def strength_transfer_figure(run: Run) -> Figure | None:
    """Draw a line per profile over the strength, a panel per number of labels."""
    info = run.info.continuum
    if info is None:
        return None
    by_task: dict[str, list[tuple[Point, Record]]] = {}
    for record in run.view("continuum transfer"):
        point, task = point_of(info, record), run.tasks.get(record.task)
        if point is None or task is None or record.metric != task.metric:
            continue
        if isinstance(record.how.get("labels"), int):
            by_task.setdefault(task.name, []).append((point, record))
    tasks = list(by_task)
    titles = dict(zip(tasks, unique(tasks), strict=True))
    found = {titles[task]: _variant(run, task, pairs) for task, pairs in by_task.items()}
    variants: dict[tuple[str, ...], Variant]
    variants = {(title,): variant for title, variant in found.items() if variant is not None}
    if not variants:
        return None
    options = tuple(key[0] for key in variants)
    switches = (Switch("task", options),) if len(options) > 1 else ()
    return Figure(
        "continuum-transfer",
        "As a start for a new task, by strength",
        "The one network of each strength is trained further on a few labelled examples of a task "
        "that none was trained on; each panel has another number of labels. Profiles share "
        "what they have in common: strength 0, and some infinity. A bar is drawn from the lowest "
        "to the highest seed where there are several.",
        switches,
        variants if switches else {(): next(iter(variants.values()))},
    )


def _variant(run: Run, task: str, pairs: list[tuple[Point, Record]]) -> Variant | None:
    info = run.info.continuum
    if info is None:
        return None
    point_by_id = {id(record): point for point, record in pairs}
    found: dict[tuple[Point, int], Mean] = means(
        (record for _, record in pairs), lambda r: (point_by_id[id(r)], int(r.how["labels"]))
    )
    if not found:
        return None
    metric = run.tasks[task].metric
    strengths = strengths_of(info, [point for point, _ in found])
    profiles = in_order(profile.name for profile in info.profiles)
    names = dict(zip(profiles, unique(profiles), strict=True))
    drawn: list[Panel] = []
    for labels in sorted({labels for _, labels in found}):
        measured = {point for point, count in found if count == labels}
        marks = []
        for profile in profiles:
            for strength, point in curve(info, strengths, measured, profile).items():
                mean = found[point, labels]
                text = (
                    f"{names[profile]}, strength {strength_label(strength)}, {labels:,} labels of "
                    f"{shown(task)}: {metric} {mean.said(metric)}"
                )
                marks.append(Mark(names[profile], strength, mean, text))
        drawn.append(Panel(f"{shown(task)}, {labels:,} labels", metric, marks))
    used = {mark.series for panel in drawn for mark in panel.marks}
    lines = [name for name in names.values() if name in used]
    places = places_of([s for s in strengths if any(point.strength == s for point, _ in found)])
    return Variant(partial(panels, drawn, looks(lines, []), places), _said(task, metric, drawn))


def _said(task: str, metric: str, drawn: list[Panel]) -> str:
    parts = []
    for panel in drawn:
        lines = []
        for name in in_order(mark.series for mark in panel.marks):
            line = [mark for mark in panel.marks if mark.series == name]
            ends = [f"{amount(m.mean.value, metric)} at {m.strength}" for m in (line[0], line[-1])]
            lines.append(f"{name} {' to '.join(ends)}")
        parts.append(f"{panel.title}: {'; '.join(lines)}")
    return f"{metric} on {shown(task)} after training further. {'. '.join(parts)}."
