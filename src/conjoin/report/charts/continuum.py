"""The centrepiece: accuracy over the strength of coupling, from independent networks to one."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from conjoin.report.charts.figure import Figure, Switch, Variant
from conjoin.report.charts.points import Mean, mean_over, shown, unique
from conjoin.report.charts.strengths import Mark, Panel, looks, panels, places_of
from conjoin.report.continuum import (
    WHATS,
    Continuum,
    Point,
    What,
    continuum_of,
    reference_values,
    strength_label,
)
from conjoin.report.formats import amount
from conjoin.report.run_folder import Run, TaskInfo

__all__ = ["continuum_figure"]

_WHOLE, _CLOSE = "all", "close-up"

_SAME_COLOR: dict[str, What] = {"independent": "specialists", "two-headed": "heads"}
"""A reference is one end of what a point gives, and has its colour."""


def continuum_figure(run: Run) -> Figure | None:
    """Draw what each strength gives, a panel per task and a variant per profile."""
    continuum = continuum_of(run)
    if continuum is None:
        return None
    profiles = [profile.name for profile in continuum.info.profiles]
    labels = dict(zip(profiles, unique(profiles), strict=True))
    variants: dict[tuple[str, ...], Variant] = {}
    # The profile of the chosen point is what a reader sees first.
    chosen = continuum.info.chosen
    order = sorted(profiles, key=lambda name: chosen is None or name != chosen.profile)
    for profile in order:
        for size, variant in _variants(run, continuum, profile, labels[profile]).items():
            variants[labels[profile], size] = variant
    if not variants:
        return None
    options = [tuple(dict.fromkeys(setting[i] for setting in variants)) for i in range(2)]
    kept = [i for i, found in enumerate(options) if len(found) > 1]
    switches = tuple(Switch(("profile", "range")[i], options[i]) for i in kept)
    close = " The close-up leaves out what lies below." if len(options[1]) > 1 else ""
    about = [
        f"{labels[p.name]}: {shown(p.about)}" for p in continuum.info.profiles if p.about.strip()
    ]
    profiles_said = f" Profiles: {'; '.join(about)}." if about else ""
    return Figure(
        "continuum",
        "From independent networks to one",
        "The networks are trained together, each on its own task, and pulled towards each other "
        "as strongly as the axis below says. The upward axis is stretched towards 100 %: each step "
        f"from 90 to 99 to 99.9 is as long.{close} A bar is drawn from the lowest to the highest "
        "seed where there are several. The dotted line marks the strength that was chosen on "
        f"validation data.{profiles_said}",
        switches,
        {tuple(setting[i] for i in kept): variant for setting, variant in variants.items()},
    )


def _variants(run: Run, continuum: Continuum, profile: str, label: str) -> dict[str, Variant]:
    """Give the drawing of all values, and a close-up where that leaves something out."""
    told = {what: f"{what} (task known)" if what in continuum.told else what for what in WHATS}
    curve = continuum.curve(profile)
    chosen = continuum.chosen()
    names = _reference_names(run, continuum, told)
    found: list[Panel] = []
    for task in sorted(run.tasks.values(), key=lambda task: not task.trained_on):
        marks = [
            _mark(told[what], strength, mean, task, what == "one network" and point == chosen)
            for what in WHATS
            for strength, point in curve.items()
            if (mean := mean_over(continuum.at(point, what, task.name, task.metric).values()))
        ]
        references = [
            (name, mean)
            for key, name in names.items()
            if (mean := mean_over(reference_values(run, key, task.name).values()))
        ]
        if marks:
            found.append(Panel(shown(task.heading), task.metric, marks, references))
    if not found:
        return {}
    used = {mark.series for panel in found for mark in panel.marks}
    lines = [told[what] for what in WHATS if told[what] in used]
    kinds = {value: name for name, value in continuum.info.references.items()}
    styles: list[tuple[str, str | None]] = []
    for key, name in names.items():
        of = _SAME_COLOR.get(str(kinds.get(key)))
        styles.append((name, told[of] if of else None))
    measured = [s for s in curve if any(m.strength == s for p in found for m in p.marks)]
    drawn, places = looks(lines, styles), places_of(measured)
    said = _said(label, found, measured, _chosen_strength(curve, chosen))
    variants = {_WHOLE: Variant(partial(panels, found, drawn, places), said)}
    near = [replace(panel, bottom=_bottom(panel)) for panel in found]
    if any(
        panel.bottom is not None and mark.mean.value < panel.bottom
        for panel in near
        for mark in panel.marks
    ):
        variants[_CLOSE] = Variant(partial(panels, near, drawn, places), f"Close-up: {said}")
    return variants


def _bottom(panel: Panel) -> float | None:
    """Give where a close-up ends: half as many errors more than the worst that is compared.

    That is the references, and the best of every line: what is merged fails at weak strengths.
    """
    if panel.metric != "accuracy":
        return None
    best: dict[str, float] = {}
    for mark in panel.marks:
        best[mark.series] = max(mark.mean.value, best.get(mark.series, 0.0))
    compared = [*best.values(), *(mean.value for _, mean in panel.references)]
    return 100.0 - 1.5 * (100.0 - min(compared))


def _mark(series: str, strength: str, mean: Mean, task: TaskInfo, chosen: bool) -> Mark:
    text = (
        f"{series}, strength {strength_label(strength)}{', chosen' if chosen else ''}, "
        f"{shown(task.name)}: {task.metric} {mean.said(task.metric)}"
    )
    return Mark(series, strength, mean, text, chosen)


def _reference_names(run: Run, continuum: Continuum, told: dict[What, str]) -> dict[str, str]:
    """Give key -> name in the legend of the references that were measured on some task."""
    keys = {
        key: f"{name} (reference)"
        for name, key in continuum.info.references.items()
        if key is not None and any(reference_values(run, key, task) for task in run.tasks)
    }
    taken = list(told.values())
    names = unique([*taken, *keys.values()])[len(taken) :]
    return dict(zip(keys, names, strict=True))


def _chosen_strength(curve: dict[str, Point], chosen: Point | None) -> str | None:
    return next((strength for strength, point in curve.items() if point == chosen), None)


def _said(label: str, found: Sequence[Panel], strengths: Sequence[str], chosen: str | None) -> str:
    parts = []
    for panel in found:
        lines = []
        for series in dict.fromkeys(mark.series for mark in panel.marks):
            line = {m.strength: m.mean.value for m in panel.marks if m.series == series}
            wanted = dict.fromkeys([next(iter(line)), chosen, next(reversed(line))])
            shown_points = [
                f"{amount(line[strength], panel.metric)} at {strength}"
                f"{' (chosen)' if strength == chosen else ''}"
                for strength in wanted
                if strength in line
            ]
            lines.append(f"{series} {', '.join(map(str, shown_points))}")
        lines += [f"{name} {amount(mean.value, panel.metric)}" for name, mean in panel.references]
        parts.append(f"{panel.title}, {panel.metric}: {'; '.join(lines)}")
    ends = f"{len(strengths)} strengths of coupling, profile {label}"
    return f"{ends}. {'. '.join(parts)}."
