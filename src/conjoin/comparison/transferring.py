"""Fine-tuning on a few labels of a domain that no network was trained on, from every start."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from torch import nn

from conjoin.checkpoints import save
from conjoin.comparison.differences import differences
from conjoin.comparison.examples import first_pairs, joined
from conjoin.comparison.family import Chosen, Family, Row
from conjoin.comparison.measuring import Laboratory, Measured, stored_outcomes
from conjoin.comparison.rows import MEAN
from conjoin.comparison.subject import Part, TaskData
from conjoin.measure.transfer import transfer_outcomes
from conjoin.records import Interval, Record, read_records, write_json
from conjoin.stages import Stage

__all__ = [
    "POOL",
    "SCRATCH",
    "Tuned",
    "measure_transfer",
    "transfer_differences",
    "tune_from",
    "why_not_transfer",
]

TRANSFER_VERSION = 2
"""Raised whenever a change of this file changes the numbers."""

SCRATCH = "a new network, never trained"

POOL = 2_000
"""Labels are drawn from so many training examples, at most."""


@dataclass(frozen=True)
class Tuned:
    """What a start has become for one seed.

    Args:
        task: the unseen domain.
        labels: how many it was trained on.
        merged: whether the start is a combination of weights.
        measured: what each test example got.
    """

    task: str
    labels: int
    merged: bool
    measured: Measured


@dataclass(frozen=True)
class _Start:
    name: str
    stage: Stage
    load: Callable[[], nn.Module]
    merged: bool


def measure_transfer(lab: Laboratory) -> tuple[list[Record], list[Tuned]]:
    """Fine-tune from every start on every unseen domain that it can be done on."""
    records: list[Record] = []
    tuned: list[Tuned] = []
    for task in lab.unseen.values():
        if why_not_transfer(task) is not None:
            continue
        starts = list(_starts(lab))
        update = lab.progress(f"transfer to {task.name}")
        for number, start in enumerate(starts):
            folder = _from(lab, task, start)
            found = read_records(folder / "records.json")
            records += found
            for model, labels in dict.fromkeys((r.model, r.how["labels"]) for r in found):
                measured = Measured(folder / str(labels), model)
                tuned.append(Tuned(task.name, labels, start.merged, measured))
            update(number + 1, len(starts))
    return records, tuned


def tune_from(
    lab: Laboratory, task: TaskData, name: str, stage: Stage, load: Callable[[], nn.Module]
) -> list[Record]:
    """Fine-tune one network on few labels of an unseen domain.

    Args:
        lab: measures it.
        task: the unseen domain.
        name: of the start.
        stage: what its weights depend on.
        load: gives it.
    """
    folder = _from(lab, task, _Start(name, stage, load, merged=True))
    return read_records(folder / "records.json")


def transfer_differences(tuned: Sequence[Tuned], tasks: Mapping[str, TaskData]) -> list[Interval]:
    """Compare every combination of weights, as a start, with the other starts at as many labels."""
    found = []
    for task, labels in dict.fromkeys((t.task, t.labels) for t in tuned):
        rows: dict[str, list[Measured]] = {}
        same = [t for t in tuned if (t.task, t.labels) == (task, labels)]
        for one in same:
            rows.setdefault(one.measured.key, []).append(one.measured)
        against = {one.measured.key: list(rows) for one in same if one.merged}
        found += differences(rows, {task: tasks[task]}, {task: against})
    return found


def why_not_transfer(task: TaskData) -> str | None:
    """Say why nothing can be fine-tuned on an unseen domain; None if it can."""
    needed: tuple[Part, ...] = ("train", "validation")
    lacking = [part for part in needed if part not in task.parts]
    if lacking:
        return f"{task.name} has no {' and no '.join(lacking)} part to fine-tune with"
    return None


def _from(lab: Laboratory, task: TaskData, start: _Start) -> Path:
    settings = lab.settings
    used = {
        "start": start.name,
        "labels": list(settings.labels),
        "steps": settings.transfer_steps,
        "seed": lab.subject.seed,
    }
    inputs: dict[str, Stage] = {part: task.stages[part] for part in task.parts}
    stage = Stage("transfer", TRANSFER_VERSION, used, {"start": start.stage, **inputs})

    def make(out: Path) -> None:
        pool = joined(first_pairs(task.parts["train"](), POOL, task.name))
        found = transfer_outcomes(
            {start.name: start.load()},
            pool,
            task.parts["validation"](),
            task.parts["test"](),
            task=task.name,
            labels=[count for count in settings.labels if count <= len(pool[1])],
            steps=settings.transfer_steps,
            seed=lab.subject.seed,
        )
        records = []
        for one in found:
            how = {
                "view": "transfer", "start": one.start, "labels": one.labels, "rate": one.rate,
            }  # fmt: skip
            model, count = f"transfer: {one.start} at {one.labels} labels", len(one.outcomes)
            for metric, value in one.outcomes.metrics().items():
                seed = lab.subject.seed
                records.append(Record(model, task.name, "test", seed, metric, value, count, how))
            (out / str(one.labels)).mkdir()
            tensors = stored_outcomes({(task.name, "test"): one.outcomes})
            save(tensors, out / str(one.labels) / "outcomes.safetensors")
        write_json(out / "records.json", records)

    return lab.stage(stage, make)


def _starts(lab: Laboratory) -> Iterator[_Start]:
    """Give every start once, though two groups may share a network."""
    seen: set[str] = set()
    named: Mapping[str, int] = _counts(lab)
    for family in lab.families():
        for row in family.group.rows:
            if not row.start or row.why_not(family) is not None:
                continue
            if row.name == MEAN and family.why_not_reestimate() is None:
                continue  # the mean with re-estimated statistics stands for it
            stage = _stage(lab, family, row)
            if stage.key in seen:
                continue
            seen.add(stage.key)
            several = named[row.name] > 1 and row.kind != "parent"
            name = f"{row.name} ({family.group.title})" if several else row.name
            yield _Start(name, stage, partial(_made, family, row), row.kind == "merge")
    scratch = lab.subject.scratch
    if scratch is not None:
        yield _Start(SCRATCH, scratch.stage, scratch.load, merged=False)


def _stage(lab: Laboratory, family: Family, row: Row) -> Stage:
    if row.kind == "parent":
        # The network alone: what group it is in does not matter.
        name = row.name.removesuffix(" alone")
        if name in family.networks:
            return family.networks[name].stage
    return lab.row_stage(family, row)


def _made(family: Family, row: Row) -> nn.Module:
    made = row.make(family)
    predictor = made.predictor if isinstance(made, Chosen) else made
    # Several heads: the first is as good a start as any, since all share their trunk.
    found = next(iter(predictor.values())) if isinstance(predictor, Mapping) else predictor
    return cast(nn.Module, found)


def _counts(lab: Laboratory) -> dict[str, int]:
    counts: dict[str, int] = {}
    for group in lab.subject.groups:
        for row in group.rows:
            counts[row.name] = counts.get(row.name, 0) + 1
    return counts
