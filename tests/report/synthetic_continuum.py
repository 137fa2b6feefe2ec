"""A continuum as `conjoin digits --continuum` writes it, with numbers that no training made."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from synthetic_run import write_synthetic_run

from conjoin.records import Interval, Record, read_results, write_csv, write_json

STRENGTHS = ("0", "0.1", "1", "10", "inf")
LAYERS = ("block_1.0", "block_1.1", "block_2.0", "classifier")
STEPS = 40
LABELS = (10, 50, 200)
TEST = 2000
ALL_DATA = "references: one network on all data"
WHATS = ("one network", "heads", "specialists")

Value = Callable[[str, str, str, str, int], float]
"""(what, profile, strength, task, seed) -> accuracy."""


def hand_value(what: str, profile: str, strength: str, task: str, seed: int) -> float:
    """Give a number that can be worked by hand: seeds are 0.2 apart."""
    one = {"0": 40.0, "0.1": 90.0, "1": 96.0, "10": 94.0, "inf": 93.0}
    own = {"0": 97.0, "0.1": 97.0, "1": 97.5, "10": 96.0, "inf": 95.0}
    base = one[strength] if what == "one network" else own[strength]
    if what == "heads":
        base -= 0.5
    if profile != "uniform":
        base -= 1.0
    if task == "street numbers":
        base -= 5.0
    if task == "handwriting":
        base -= 20.0
    return base + 0.2 * seed


@dataclass(frozen=True)
class Options:
    """What the continuum has.

    Args:
        seeds: how many.
        unseen, references, gaps, transfer, rows: whether there are such.
        chosen: profile and strength, or None.
        trainings: of an automatic search.
        value: of every point.
        names: of the two profiles.
        half: of the intervals' width.
    """

    seeds: int = 2
    unseen: bool = True
    references: bool = True
    gaps: bool = True
    transfer: bool = True
    rows: bool = True
    chosen: tuple[str, str] | None = ("uniform", "1")
    trainings: int | None = None
    value: Value = hand_value
    names: tuple[str, str] = ("uniform", "upstream")
    hostile: bool = False
    half: float = 0.5
    strengths: tuple[str, ...] = field(default=STRENGTHS)


def write_continuum(folder: Path, options: Options | None = None) -> Path:
    """Write a run folder with a continuum of two profiles and five strengths, and give it back."""
    options = options or Options()
    write_synthetic_run(
        folder,
        seeds=options.seeds,
        unseen=options.unseen,
        groups=1,
        views=False,
        hostile=options.hostile,
    )
    path = folder / "results.json"
    written = read_results(path)
    run = dict(written.run)
    tasks = [task["name"] for task in run["tasks"]]
    trained = [task["name"] for task in run["tasks"] if task["trained_on"]]
    # Names of tasks in `value` are those of a run that is not hostile.
    plain = dict(zip(tasks, ("digits", "street numbers", "handwriting"), strict=False))
    records = [r for r in written.records if options.rows]
    intervals = list(written.intervals)
    points = list(_points(options))
    for profile, strength in points:
        for what in WHATS:
            for task in tasks if what == "one network" else trained:
                records += _measured(options, profile, strength, what, task, plain)
    if options.references:
        records += _all_data(options, tasks)
        intervals += _intervals(options, records, points, trained)
    if options.gaps:
        records += [record for point in points for record in _gaps(options, *point)]
    if options.transfer and options.unseen:
        records += [r for point in points for r in _transfer(options, *point, tasks[-1])]
    first, second = options.names
    run["seeds"] = list(range(options.seeds))
    run["continuum"] = {
        "profiles": [
            {"name": first, "about": "every layer alike", "same_at_infinity": None},
            {"name": second, "about": "falling with depth", "same_at_infinity": first},
        ],
        "strengths": list(options.strengths),
        "chosen": None if options.chosen is None else _chosen(options),
        "references": {
            "independent": f"{first} 0: specialists",
            "two-headed": f"{first} inf: heads",
            "all data": ALL_DATA if options.references else None,
        },
    }
    if options.references:
        run["rows"] = [*run["rows"], _row(run["rows"][0]["group"])]
    if not options.rows:
        run["rows"] = [row for row in run["rows"] if row["key"] == ALL_DATA]
        run["specialists"], run["skipped"] = {}, []
    write_json(path, records, run=run, intervals=intervals)
    write_csv(folder / "results.csv", records)
    return folder


def _points(options: Options) -> Iterator[tuple[str, str]]:
    first, second = options.names
    for strength in options.strengths:
        yield first, strength
    for strength in options.strengths:
        if strength not in ("0", "inf"):
            yield second, strength


def _chosen(options: Options) -> dict[str, object]:
    profile, strength = options.chosen
    tried = [{"profile": profile, "strength": s, "score": 90.0} for s in ("0.1", strength)]
    found = options.trainings is not None
    return {
        "profile": profile,
        "strength": strength,
        "trainings": options.trainings,
        "tried": tried if found else [],
    }


def _how(options: Options, profile: str, strength: str, **more: object) -> dict[str, object]:
    return {"profile": profile, "strength": strength, "group": "continuum", **more}


def _measured(
    options: Options, profile: str, strength: str, what: str, task: str, plain: dict[str, str]
) -> Iterator[Record]:
    told = what != "one network"
    how = _how(
        options,
        profile,
        strength,
        view="continuum",
        what=what,
        uses_task_label=told,
        networks=2 if what == "specialists" else 1,
    )
    which = "uniform" if profile == options.names[0] else "upstream"
    for seed in range(options.seeds):
        value = options.value(what, which, strength, plain[task], seed)
        model = f"{profile} {strength}: {what}"
        for split, shift in (("validation", 0.1), ("test", 0.0)):
            values = {"accuracy": value + shift, "loss": (100 - value) / 30}
            values["calibration error"] = 1.5
            for metric, number in values.items():
                yield Record(model, task, split, seed, metric, number, TEST, how)


def _all_data(options: Options, tasks: list[str]) -> Iterator[Record]:
    how = {"view": "row", "row": "one network on all data", "uses_task_label": False}
    for task, value in zip(tasks, (97.0, 92.0, 80.0), strict=False):
        for seed in range(options.seeds):
            yield Record(ALL_DATA, task, "test", seed, "accuracy", value, TEST, how)


def _intervals(
    options: Options,
    records: list[Record],
    points: list[tuple[str, str]],
    trained: list[str],
) -> Iterator[Interval]:
    values: dict[tuple[str, str], list[float]] = {}
    for record in records:
        if record.split == "test" and record.metric == "accuracy":
            values.setdefault((record.model, record.task), []).append(record.value)
    first = options.names[0]
    references = (f"{first} 0: specialists", f"{first} inf: heads", ALL_DATA)
    for profile, strength in points:
        for what in WHATS:
            model = f"{profile} {strength}: {what}"
            for against in references:
                for task in trained:
                    if model != against and (against, task) in values:
                        mine, theirs = (
                            sum(values[key, task]) / options.seeds for key in (model, against)
                        )
                        value, half = mine - theirs, options.half
                        yield Interval(
                            model,
                            against,
                            task,
                            "accuracy",
                            value,
                            value - half,
                            value + half,
                            0.95,
                            options.seeds,
                            TEST,
                        )


def hand_gap(strength: str, index: int, step: int) -> float:
    """Give the gap of a layer at a step of the training."""
    pull = float(strength)
    if math.isinf(pull):
        return 0.0
    return step / 400 * (1 + index / 4) / (1 + 10 * pull)


def _gaps(options: Options, profile: str, strength: str) -> Iterator[Record]:
    for seed in range(options.seeds):
        for number in range(1, STEPS + 1):
            for index, layer in enumerate(LAYERS):
                step = 10 * number
                how = _how(options, profile, strength, view="gap", layer=layer, index=index)
                how |= {"step": step, "steps": 10 * STEPS}
                value = hand_gap(strength, index, step) * (1 + seed)
                model = f"{profile} {strength}"
                yield Record(model, "weights", "none", seed, "gap", value, 0, how)


def _transfer(options: Options, profile: str, strength: str, task: str) -> Iterator[Record]:
    base = {"0": 50.0, "0.1": 60.0, "1": 65.0, "10": 63.0, "inf": 62.0}
    for labels in LABELS:
        how = _how(options, profile, strength, view="continuum transfer", labels=labels, rate=0.01)
        for seed in range(options.seeds):
            value = base.get(strength, 60.0) + labels / 10 + 0.5 * seed
            model = f"{profile} {strength}: transfer at {labels} labels"
            yield Record(model, task, "test", seed, "accuracy", value, TEST, how)


def _row(group: str) -> dict[str, object]:
    return {
        "key": ALL_DATA,
        "group": group,
        "name": "one network on all data",
        "about": "trained on both",
        "kind": "reference",
    }


def rewrite_run(folder: Path, change: Callable[[dict[str, object]], None]) -> Path:
    """Change what a written folder says of how it was made."""
    path = folder / "results.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document["run"])
    path.write_text(json.dumps(document), encoding="utf-8")
    return folder
