"""Coupled networks at every strength: what is measured of each point of the continuum."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import nn

from conjoin.atomic import write_bytes
from conjoin.comparison.choosing import comparable
from conjoin.comparison.differences import differences
from conjoin.comparison.family import Family, Row
from conjoin.comparison.measuring import Laboratory, Measured
from conjoin.comparison.subject import Continuum, CoupledPoint, Group, Subject
from conjoin.comparison.transferring import tune_from, why_not_transfer
from conjoin.errors import NonFiniteError
from conjoin.evaluation import Predictor, outcomes
from conjoin.merging import merge
from conjoin.records import Interval, Record
from conjoin.repairing import reestimate_batchnorm
from conjoin.stages import Stage

__all__ = [
    "GROUP",
    "HEADS",
    "ONE",
    "SPECIALISTS",
    "PointMeasured",
    "continuum_differences",
    "continuum_info",
    "measure_continuum",
    "measure_point",
    "validation_score",
]

GROUP, SPECIALISTS, ONE, HEADS = "continuum", "specialists", "one network", "heads"
ROWS = (ONE, HEADS, SPECIALISTS)

SCORE_VERSION = 2
"""Raised whenever a change of the code changes a score on validation data."""


@dataclass(frozen=True)
class PointMeasured:
    """What was measured of a point for one seed.

    Args:
        records: accuracy and loss, gaps over training, transfer.
        stored: row -> what each test example got.
    """

    records: list[Record]
    stored: dict[str, Measured]


def measure_continuum(lab: Laboratory, skip: Callable[[str, str, str], None]) -> PointMeasured:
    """Measure every point of one seed.

    Args:
        lab: measures it.
        skip: called with (group, point, reason) for a point that cannot be measured.
    """
    records: list[Record] = []
    stored: dict[str, Measured] = {}
    if lab.subject.continuum is None:
        return PointMeasured(records, stored)
    points = lab.subject.continuum.points
    update = lab.progress("the continuum")
    for number, point in enumerate(points):
        try:
            found = measure_point(lab, point)
        except NonFiniteError as error:
            skip(GROUP, point.name, str(error))
            continue
        records += found.records
        stored |= found.stored
        update(number + 1, len(points))
    return PointMeasured(records, stored)


def measure_point(lab: Laboratory, point: CoupledPoint) -> PointMeasured:
    """Measure the specialists, the one network, the network with heads, the gaps, and transfer."""
    family = lab.family(_group(point))
    records: list[Record] = []
    stored: dict[str, Measured] = {}
    known = {"group": GROUP, "profile": point.profile, "strength": point.strength}
    for row in _rows(point):
        measured = lab.row(family, row)
        stored[measured.key] = measured
        how = {**known, "view": "continuum", "what": row.name}
        kept = ("uses_task_label", "networks")
        records += [
            replace(record, how={**how, **{name: record.how[name] for name in kept}})
            for record in measured.records
        ]
    records += list(_gaps(lab, point, known))
    if point.transfer:
        records += list(_transfer(lab, family, point, known))
    return PointMeasured(records, stored)


def validation_score(lab: Laboratory, point: CoupledPoint) -> float:
    """Give the mean over tasks of the one network's accuracy on validation data.

    The test part is not looked at: this is what a strength is chosen by.
    """
    family = lab.family(_group(point))
    inputs = {f"network {name}": n.stage for name, n in family.networks.items()}
    for name, task in family.tasks.items():
        inputs |= {f"{part} {name}": task.stages[part] for part in ("train", "validation")}
    settings = {"statistics": lab.settings.statistics, "seed": family.seed}

    def make(out: Path) -> None:
        module = _one_network(family)
        scores = [
            outcomes(module, task.parts["validation"](), name).metrics()
            for name, task in family.tasks.items()
        ]
        values = [found.get("accuracy", -found["loss"]) for found in scores]
        write_bytes(out / "score.json", json.dumps(fmean(values)).encode())

    folder = lab.stage(Stage("score", SCORE_VERSION, settings, inputs), make)
    return float(json.loads((folder / "score.json").read_text("utf-8")))


def continuum_differences(
    subject: Subject, stored: Mapping[str, Sequence[Measured]]
) -> list[Interval]:
    """Compare every point with the references, example by example.

    Args:
        subject: of the first seed.
        stored: row -> what is stored of it, a seed each; rows of the table and of all points.
    """
    continuum = subject.continuum
    if continuum is None:
        return []
    wanted = [key for key in continuum.references.values() if key is not None and key in stored]
    keys = [f"{point.name}: {what}" for point in continuum.points for what in ROWS]
    against = {key: [other for other in wanted if other != key] for key in keys if key in stored}
    used = {key: stored[key] for key in dict.fromkeys((*against, *wanted))}
    return differences(used, subject.tasks, dict.fromkeys(subject.tasks, against))


def continuum_info(
    subject: Subject, continuum: Continuum, records: Sequence[Record]
) -> dict[str, Any]:
    """Give what the run says of its continuum; see ``docs/run-folder.md``.

    Unless a search has chosen one, the chosen point is that with the best one network on
    validation data: mean over tasks and seeds.
    """
    chosen = continuum.chosen
    if chosen is None:
        best = _best_point(subject, continuum, records)
        where = {"profile": best.profile, "strength": best.strength}
        chosen = {**where, "trainings": None, "tried": []}
    return {
        "profiles": [dict(profile) for profile in continuum.profiles],
        "strengths": sorted({point.strength for point in continuum.points}, key=float),
        "chosen": dict(chosen),
        "references": dict(continuum.references),
    }


def _best_point(subject: Subject, continuum: Continuum, records: Sequence[Record]) -> CoupledPoint:
    scores: dict[str, list[float]] = {}
    for record in records:
        how = record.how
        is_one = how.get("view") == "continuum" and how["what"] == ONE
        if not is_one or record.split != "validation":
            continue
        regression = subject.tasks[record.task].regression
        if record.metric == ("loss" if regression else "accuracy"):
            value = -record.value if regression else record.value
            scores.setdefault(f"{how['profile']} {how['strength']}", []).append(value)
    lacking = [float("nan")]
    return max(continuum.points, key=lambda p: comparable(fmean(scores.get(p.name, lacking))))


def _group(point: CoupledPoint) -> Group:
    return Group(
        point.name,
        f"coupled, {point.name}",
        point.networks,
        tuple(point.own),
        (),
        views=(),
        own=point.own,
    )


def _rows(point: CoupledPoint) -> list[Row]:
    rows = [
        Row(SPECIALISTS, "parent", "each task by its own coupled network", _specialists),
        Row(
            ONE,
            "merge",
            "their mean, statistics re-estimated: no task label",
            _one_network,
            save=True,
        ),
    ]
    if point.heads:
        about = "the merged trunk with each network's own classifier and statistics"
        rows.append(Row(HEADS, "merge", about, partial(_with_heads, point.heads)))
    return rows


def _specialists(family: Family) -> Predictor:
    models = family.models()
    return {task: models[name] for task, name in family.own.items()}


def _one_network(family: Family) -> nn.Module:
    return family.repaired(merge(list(family.models().values())))


def _with_heads(heads: Sequence[str], family: Family) -> Mapping[str, nn.Module]:
    """Merge the trunk; each task keeps its own classifier, and statistics of its own data."""
    predictors = {}
    for task, name in family.own.items():
        models = family.models()
        mine = models.pop(name)
        merged = merge([mine, *models.values()], keep=dict.fromkeys(heads, 0))
        if family.why_not_reestimate() is None:
            merged = reestimate_batchnorm(merged, *family.statistics([task]))
        predictors[task] = merged
    return predictors


def _gaps(lab: Laboratory, point: CoupledPoint, known: Mapping[str, Any]) -> Sequence[Record]:
    history = point.gaps()
    steps = max((step for step, _ in history), default=0)
    return [
        Record(
            point.name, "weights", "none", lab.subject.seed, "gap", gap, 0,
            {**known, "view": "gap", "layer": layer, "index": index, "step": step, "steps": steps},
        )
        for step, gaps in history
        for index, (layer, gap) in enumerate(gaps.items())
    ]  # fmt: skip


def _transfer(
    lab: Laboratory, family: Family, point: CoupledPoint, known: Mapping[str, Any]
) -> Sequence[Record]:
    records = []
    row = next(row for row in _rows(point) if row.name == ONE)
    load: Callable[[], nn.Module] = partial(_one_network, family)
    for task in lab.unseen.values():
        if why_not_transfer(task) is not None:
            continue
        for record in tune_from(lab, task, point.name, lab.row_stage(family, row), load):
            kept = {name: record.how[name] for name in ("labels", "rate")}
            model = f"{point.name}: transfer at {record.how['labels']} labels"
            how = {**known, "view": "continuum transfer", **kept}
            records.append(replace(record, model=model, how=how))
    return records
