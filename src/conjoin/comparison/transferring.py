"""Fine-tuning on a few labels of a domain that no network was trained on, from every start."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from torch import nn

from conjoin.comparison.measuring import Laboratory
from conjoin.comparison.rows import Family, Row
from conjoin.comparison.subject import TaskData
from conjoin.comparison.views import first_pairs, joined
from conjoin.measure.transfer import transfer
from conjoin.records import Record, read_records, write_json
from conjoin.stages import Stage

__all__ = ["SCRATCH", "measure_transfer"]

TRANSFER_VERSION = 1
"""Raised whenever a change of this file changes the numbers."""

SCRATCH = "a new network, never trained"

POOL = 2_000
"""Labels are drawn from so many training examples, at most."""


@dataclass(frozen=True)
class _Start:
    name: str
    stage: Stage
    load: Callable[[], nn.Module]


def measure_transfer(lab: Laboratory) -> list[Record]:
    """Fine-tune from every start on every unseen domain that has a training part."""
    records: list[Record] = []
    for task in lab.unseen.values():
        if not {"train", "validation", "test"} <= set(task.parts):
            continue
        starts = list(_starts(lab))
        update = lab.progress(f"transfer to {task.name}")
        for number, start in enumerate(starts):
            records += _from(lab, task, start)
            update(number + 1, len(starts))
    return records


def _from(lab: Laboratory, task: TaskData, start: _Start) -> list[Record]:
    settings = lab.settings
    used = {
        "start": start.name,
        "labels": list(settings.labels),
        "steps": settings.transfer_steps,
        "seed": lab.subject.seed,
    }
    inputs: dict[str, Stage] = {part: task.stages[part] for part in task.parts}
    stage = Stage("transfer", TRANSFER_VERSION, used, {"start": start.stage, **inputs})

    def make(out: Path, work: Path) -> None:  # noqa: ARG001 - a minute or so
        pool = joined(first_pairs(task.parts["train"](), POOL, task.name))
        found = transfer(
            {start.name: start.load()},
            pool,
            task.parts["validation"](),
            task.parts["test"](),
            task=task.name,
            labels=[count for count in settings.labels if count <= len(pool[1])],
            steps=settings.transfer_steps,
            seed=lab.subject.seed,
        )
        write_json(out / "records.json", found)

    return read_records(lab.cache.get(stage, make) / "records.json")


def _starts(lab: Laboratory) -> Iterator[_Start]:
    """Give every start once, though two groups may share a network."""
    seen: set[str] = set()
    named: Mapping[str, int] = _counts(lab)
    for family in lab.families():
        for row in family.group.rows:
            if not row.start or row.why_not(family) is not None:
                continue
            stage = _stage(lab, family, row)
            if stage.key in seen:
                continue
            seen.add(stage.key)
            several = named[row.name] > 1 and row.kind != "parent"
            name = f"{row.name} ({family.group.title})" if several else row.name
            yield _Start(name, stage, partial(_made, family, row))
    scratch = lab.subject.scratch
    if scratch is not None:
        yield _Start(SCRATCH, scratch.stage, scratch.load)


def _stage(lab: Laboratory, family: Family, row: Row) -> Stage:
    if row.kind == "parent":
        # The network alone: what group it is in does not matter.
        name = row.name.removesuffix(" alone")
        if name in family.networks:
            return family.networks[name].stage
    return lab.row_stage(family, row)


def _made(family: Family, row: Row) -> nn.Module:
    predictor = row.make(family)
    # Several heads: the first is as good a start as any, since all share their trunk.
    found = next(iter(predictor.values())) if isinstance(predictor, Mapping) else predictor
    return cast(nn.Module, found)


def _counts(lab: Laboratory) -> dict[str, int]:
    counts: dict[str, int] = {}
    for group in lab.subject.groups:
        for row in group.rows:
            counts[row.name] = counts.get(row.name, 0) + 1
    return counts
