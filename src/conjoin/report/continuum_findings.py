"""What the continuum of a run shows, in sentences: the same voice for good and for bad results.

The best single network is that of the point which was chosen on validation data. It is compared by
the intervals of its differences; where there is none, numbers stand side by side.
"""

import math
from collections.abc import Iterator, Sequence

from conjoin.report.choice import compared
from conjoin.report.continuum import (
    Continuum,
    Point,
    What,
    continuum_of,
    point_of,
    reference_values,
)
from conjoin.report.findings import Finding
from conjoin.report.formats import amount, describe_interval, listing, quoted
from conjoin.report.means import mean_of
from conjoin.report.run_folder import Run, TaskInfo
from conjoin.report.view_means import loses

__all__ = ["continuum_findings", "continuum_headline"]

FIGURE = "continuum"

_WHO = {
    "independent": "independent specialists, one for each task, which has to be known",
    "two-headed": "the two-headed network, for which the task has to be known",
    "all data": "one network on all data",
}
"""What a reference is, by its name in the run."""


def continuum_headline(run: Run) -> str | None:
    """Say in one sentence what the best single network has; None if no point was chosen."""
    continuum = continuum_of(run)
    point = continuum.chosen() if continuum else None
    if continuum is None or point is None:
        return None
    tasks = _trained(run, continuum, point, "one network")
    if not tasks:
        return None
    seeds = {s for t in tasks for s in continuum.at(point, "one network", t.name, t.metric)}
    over = "one seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
    parts = [f"{_of(continuum, point, 'one network', t)} on {quoted(t.name)}" for t in tasks]
    if float(point.strength) == 0:
        text = (
            "No strength of coupling gave a better single network on validation data than none: "
            f"the mean of independent networks has {listing(parts)} on test data ({over})"
        )
    else:
        text = (
            f"Networks that were trained together at strength {point.strength} "
            f"({quoted(point.profile)}), chosen on validation data, average to one that has "
            f"{listing(parts)} on test data ({over})"
        )
    against = continuum.info.references.get("independent")
    model = continuum.models.get((point, "one network"))
    found = _differences(run, model, against, tasks)
    return f"{text}; against independent specialists, it is {found}." if found else f"{text}."


def continuum_findings(run: Run) -> list[Finding]:
    """Say what the continuum shows, results first; nothing if the run has none."""
    continuum = continuum_of(run)
    if continuum is None:
        return []
    return [
        *_chosen(run, continuum),
        *_against(run, continuum),
        *_onset(run, continuum),
        *_cost(run, continuum),
        *_unseen(run, continuum),
        *_transfer(run, continuum),
        *_next(run, continuum),
    ]


def _chosen(run: Run, continuum: Continuum) -> Iterator[Finding]:
    chosen, point = continuum.info.chosen, continuum.chosen()
    if chosen is None or point is None:
        return
    count = len({p for p, what in continuum.models if what == "one network"})
    where = f"{quoted(chosen.profile)} at strength {chosen.strength}"
    if chosen.trainings is None:
        text = (
            f"On validation data, the best single network of {count} "
            f"point{'s' if count != 1 else ''} of the continuum is that of {where}."
        )
    else:
        trainings = f"{chosen.trainings} training{'s' if chosen.trainings != 1 else ''}"
        text = f"A search of {trainings} chose {where} on validation data"
        # The score of a regression is minus its loss.
        judged = {task.metric for task in run.tasks.values() if task.trained_on}
        metric = "accuracy" if judged == {"accuracy"} else "loss"
        tried = [
            f"{amount(t.score, metric)} at {quoted(t.profile)} {t.strength}" for t in chosen.tried
        ]
        text += f"; scores were {listing(tried)}." if tried else "."
    if float(point.strength) == 0:
        text += " That is no coupling at all: no other strength gave a better single network."
    yield Finding(text, "result", FIGURE)


def _against(run: Run, continuum: Continuum) -> Iterator[Finding]:
    """Compare the chosen network with the references, and what it gives with the task known."""
    point = continuum.chosen()
    if point is None:
        return
    tasks = _trained(run, continuum, point, "one network")
    name = f"the single network at strength {point.strength}"
    for reference, key in continuum.info.references.items():
        who = _WHO.get(reference, quoted(reference))
        model = continuum.models.get((point, "one network"))
        found = _differences(run, model, key, tasks)
        if found:
            yield Finding(f"Against {who}, {name} is {found}.", "result", FIGURE)
            continue
        pairs = [(task, reference_values(run, key, task.name)) for task in tasks] if key else []
        parts = [
            f"{_of(continuum, point, 'one network', task)} beside "
            f"{amount(mean_of(values.values()), task.metric)} on {quoted(task.name)}"
            for task, values in pairs
            if values and key != model
        ]
        if parts:
            text = f"Beside {who}, {name} has {listing(parts)}. No interval was computed for this."
            yield Finding(text, "result", FIGURE)


def _onset(run: Run, continuum: Continuum) -> Iterator[Finding]:
    """Say from which strength on the mean of the networks is as good as the networks."""
    for profile in continuum.info.profiles:
        entries = []
        for strength, point in continuum.curve(profile.name).items():
            merged = _mean(run, continuum, point, "one network")
            alone = _mean(run, continuum, point, "specialists")
            if merged is not None and alone is not None and merged[1] == alone[1]:
                entries.append((strength, merged[0], alone[0], merged[1]))
        if len(entries) < 2:
            continue
        working = [loses(one, own, metric)[1] == "little" for _, one, own, metric in entries]
        yield Finding(_onset_text(profile.name, entries, working), "result", FIGURE)


def _onset_text(
    profile: str, entries: Sequence[tuple[str, float, float, str]], working: Sequence[bool]
) -> str:
    def said(index: int) -> str:
        _, one, own, metric = entries[index]
        return f"{amount(one, metric)} in place of {amount(own, metric)}"

    where, metric = f"with {quoted(profile)}", entries[0][3]
    little = "a point" if metric == "accuracy" else "a tenth of the loss"
    start = next((i for i in range(len(working)) if all(working[i:])), None)
    if start is not None:
        text = f"Averaging costs less than {little} from strength {entries[start][0]} on {where}"
        text += f" ({said(start)} there, mean over tasks)"
        if start > 0:
            text += f"; at {entries[start - 1][0]} it is {said(start - 1)}"
        return f"{text}."
    if any(working):
        inside = [entries[i][0] for i in range(len(working)) if working[i]]
        return (
            f"Averaging costs less than {little} {where} at strength {listing(inside)} only; at "
            f"{entries[-1][0]} one network has {said(len(entries) - 1)} (mean over tasks)."
        )
    sign = 1 if metric == "accuracy" else -1
    lost = [sign * (own - one) for _, one, own, _ in entries]
    best = min(range(len(lost)), key=lambda i: math.inf if math.isnan(lost[i]) else lost[i])
    return (
        f"Averaging costs {little} or more at every strength {where}; least at "
        f"{entries[best][0]}, where one network has {said(best)} (mean over tasks)."
    )


def _cost(run: Run, continuum: Continuum) -> Iterator[Finding]:
    """Say what coupling does to the networks themselves, at the chosen strength and at most."""
    key, origin = continuum.info.references.get("independent"), continuum.independent()
    if origin is None:
        return
    chosen = continuum.chosen()
    profile = chosen.profile if chosen else origin.profile
    last = next(reversed(continuum.curve(profile).values()), None)
    parts = []
    for point in dict.fromkeys((chosen, last)):
        if point is None or point == origin:
            continue
        tasks = _trained(run, continuum, point, "specialists")
        found = _differences(run, continuum.models.get((point, "specialists")), key, tasks)
        if not found:
            pairs = [(task, continuum.at(origin, "specialists", task.name, task.metric))
                     for task in tasks]  # fmt: skip
            found = listing(
                [
                    f"at {_of(continuum, point, 'specialists', task)} beside "
                    f"{amount(mean_of(values.values()), task.metric)} on {quoted(task.name)}"
                    for task, values in pairs
                    if values
                ]
            )
        if found:
            parts.append(f"at strength {point.strength} they are {found}")
    if parts:
        text = f"What coupling does to the specialists, against training alone: {'; '.join(parts)}."
        yield Finding(text, "result", FIGURE)


def _unseen(run: Run, continuum: Continuum) -> Iterator[Finding]:
    origin, point = continuum.independent(), continuum.chosen()
    for task in run.tasks.values():
        if task.trained_on or point is None:
            continue
        if not continuum.at(point, "one network", task.name, task.metric):
            continue
        text = (
            f"On {quoted(task.name)}, which no network was trained on, the single network at "
            f"strength {point.strength} has {_of(continuum, point, 'one network', task)}"
        )
        last = next(reversed(continuum.curve(point.profile).values()), None)
        who = {origin: "the mean of independent networks"}
        if last is not None:
            who.setdefault(last, f"that at strength {last.strength}")
        beside = [
            f"{_of(continuum, other, 'one network', task)} for {name}"
            for other, name in who.items()
            if other is not None
            and other != point
            and continuum.at(other, "one network", task.name, task.metric)
        ]
        key = continuum.info.references.get("all data")
        values = reference_values(run, key, task.name) if key else {}
        if values:
            shown = amount(mean_of(values.values()), task.metric)
            beside.append(f"{shown} for one network on all data")
        text += f", beside {listing(beside)}." if beside else "."
        model = continuum.models.get((point, "one network"))
        base = continuum.models.get((origin, "one network")) if origin else None
        for against, name in ((base, who[origin]), (key, "one network on all data")):
            found = _differences(run, model, against, [task])
            text += f" Against {name}, it is {found}." if found else ""
        yield Finding(text, "result", FIGURE)


def _transfer(run: Run, continuum: Continuum) -> Iterator[Finding]:
    """Say what the chosen network is worth as a start at the fewest labels."""
    origin, point = continuum.independent(), continuum.chosen()
    if point is None or origin is None or point == origin:
        return
    found: dict[str, dict[int, dict[Point, list[float]]]] = {}
    for record in run.view("continuum transfer"):
        of, task = point_of(continuum.info, record), run.tasks.get(record.task)
        labels = record.how.get("labels")
        if of not in (point, origin) or of is None or not isinstance(labels, int) or labels <= 0:
            continue
        if task is not None and record.metric == task.metric:
            by_point = found.setdefault(task.name, {}).setdefault(labels, {})
            by_point.setdefault(of, []).append(record.value)
    for name, by_labels in found.items():
        fewest = min((n for n, v in by_labels.items() if len(v) == 2), default=None)
        if fewest is None:
            continue
        task, values = run.tasks[name], by_labels[fewest]
        mine, theirs = (amount(mean_of(values[p]), task.metric) for p in (point, origin))
        pair = [f"{p.profile} {p.strength}: transfer at {fewest} labels" for p in (point, origin)]
        interval = compared(run, pair[0], pair[1], task)
        text = (
            f"Trained further on {fewest:,} labels of {quoted(name)}, the single network at "
            f"strength {point.strength} has {mine} and the mean of independent networks, {theirs}"
        )
        text += f": it is {describe_interval(interval)}." if interval else "."
        yield Finding(text, "result", "continuum-transfer")


def _next(run: Run, continuum: Continuum) -> Iterator[Finding]:
    point = continuum.chosen()
    if point is not None:
        finite = [
            float(p.strength)
            for p in continuum.curve(point.profile).values()
            if 0 < float(p.strength) < math.inf
        ]
        strength = float(point.strength)
        if len(finite) > 1 and strength in (finite[0], finite[-1]):
            side = "weakest" if strength == finite[0] else "strongest"
            yield Finding(
                f"Measure more strengths: the chosen one, {point.strength}, is the {side} of the "
                f"finite ones that were measured with {quoted(point.profile)}.",
                "next",
                FIGURE,
            )
    seeds = {seed for values in continuum.values.values() for seed in values}
    if len(seeds) == 1 and len({r.seed for r in run.view("row")}) != 1:  # said for rows already
        yield Finding(
            "Repeat this with more seeds: there is 1, so the intervals speak of these networks and "
            "not of others that were trained in the same way.",
            "next",
            FIGURE,
        )


def _trained(run: Run, continuum: Continuum, point: Point, what: What) -> list[TaskInfo]:
    """Give the tasks that were trained on and have a number of a point."""
    return [
        task
        for task in run.tasks.values()
        if task.trained_on and continuum.at(point, what, task.name, task.metric)
    ]


def _mean(run: Run, continuum: Continuum, point: Point, what: What) -> tuple[float, str] | None:
    """Give the mean over the trained tasks and its metric; None if one lacks or metrics differ."""
    tasks = [task for task in run.tasks.values() if task.trained_on]
    found = _trained(run, continuum, point, what)
    if not found or len(found) < len(tasks) or len({task.metric for task in tasks}) > 1:
        return None
    values = [continuum.at(point, what, task.name, task.metric).values() for task in found]
    return mean_of(map(mean_of, values)), found[0].metric


def _of(continuum: Continuum, point: Point, what: What, task: TaskInfo) -> str:
    values = continuum.at(point, what, task.name, task.metric)
    shown = amount(mean_of(values.values()), task.metric)
    return f"a loss of {shown}" if task.metric == "loss" else shown


def _differences(
    run: Run, model: str | None, against: str | None, tasks: Sequence[TaskInfo]
) -> str:
    """Describe the intervals of a model against another, task by task; empty if there is none."""
    if model is None or against is None or model == against:
        return ""
    found = [(task, compared(run, model, against, task)) for task in tasks]
    return listing([f"{describe_interval(i)} on {quoted(task.name)}" for task, i in found if i])
