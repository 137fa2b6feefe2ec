"""Every row of every group on every task, as cached stages."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from conjoin.atomic import write_bytes
from conjoin.checkpoints import open_checkpoint, save
from conjoin.comparison.choosing import comparable
from conjoin.comparison.costs import Usage, metered
from conjoin.comparison.family import Chosen, Family, Row
from conjoin.comparison.randomness import seeded
from conjoin.comparison.rows import predictor_of
from conjoin.comparison.subject import Group, Network, Part, Settings, Subject, TaskData
from conjoin.comparison.user_code import is_theirs, their_traceback
from conjoin.errors import ConjoinError, DataError, UserCodeError
from conjoin.evaluation import Outcomes, Predictor, outcomes
from conjoin.measure.calibration import calibration_error
from conjoin.records import Record, read_records, write_json
from conjoin.stages import Stage, StageCache

__all__ = [
    "MEASURING_VERSION",
    "Laboratory",
    "Measured",
    "Progress",
    "check_same_order",
    "row_key",
    "settings_of",
    "stored_outcomes",
]

MEASURING_VERSION = 2
"""Raised whenever a change of this file changes the numbers of a row."""

Progress = Callable[[str], Callable[[int, int], None]]
"""Given the title of a long job, gives what to call with (done, in all)."""


def row_key(group: Group, row: Row) -> str:
    """Name a row within the run."""
    return f"{group.key}: {row.name}"


@dataclass(frozen=True)
class Measured:
    """What is stored of a row for one seed.

    Args:
        folder: of its stage.
        key: of the row.
    """

    folder: Path
    key: str

    @property
    def records(self) -> list[Record]:
        """Its numbers on the validation and test parts."""
        return read_records(self.folder / "records.json")

    @property
    def cost(self) -> dict[str, Any]:
        """Seconds and bytes."""
        found: dict[str, Any] = json.loads((self.folder / "cost.json").read_text("utf-8"))
        return found

    @property
    def network(self) -> Path | None:
        """The file of its weights, if it is one that is kept."""
        path = self.folder / "network.safetensors"
        return path if path.exists() else None

    def outcomes(self, task: str, name: str) -> Tensor | None:
        """Give one of `loss`, `prediction`, `confidence`, `targets` on the test part [N]."""
        stored = open_checkpoint(self.folder / "outcomes.safetensors")
        key = f"{name}/{task}"
        return stored.get(key)


@dataclass(frozen=True)
class Laboratory:
    """Measures what there is of one seed, each thing once.

    Args:
        subject: networks and data.
        settings: how much is measured.
        cache: finished stages.
        progress: shows long jobs.
    """

    subject: Subject
    settings: Settings
    cache: StageCache
    progress: Progress

    def stage(self, stage: Stage, make: Callable[[Path], None]) -> Path:
        """Give the folder of a stage; make it, with the run's seed, if it is not there.

        A network may draw random numbers though it is in eval mode: the seed makes a run that was
        interrupted draw what it would have drawn.
        """

        def seeded_make(out: Path, work: Path) -> None:  # noqa: ARG001 - none takes hours
            try:
                with seeded(self.subject.seed):
                    make(out)
            except (ConjoinError, OSError, MemoryError):
                raise
            except Exception as error:
                if not is_theirs(error):
                    raise
                raise UserCodeError(
                    f"running a network raised an error:\n{their_traceback(error)}"
                ) from error

        return self.cache.get(stage, seeded_make)

    def families(self) -> Iterator[Family]:
        """Give each group with its data and with the specialist of each task."""
        for group in self.subject.groups:
            yield self.family(group)

    def family(self, group: Group) -> Family:
        """Give a group with its data and with the specialist of each task."""
        tasks = {name: self.subject.tasks[name] for name in group.tasks}
        own = group.own if group.own is not None else self._own(group, tasks)
        return Family(group, tasks, self.settings, self.subject.seed, own)

    def validated(self, network: Network, tasks: Mapping[str, TaskData]) -> list[Record]:
        """Measure a network on validation parts: what every choice is made on."""
        records = []
        for name, task in tasks.items():
            stage = Stage(
                "specialist",
                MEASURING_VERSION,
                {"network": network.name, "task": name, "seed": self.subject.seed},
                {"network": network.stage, "data": task.stages["validation"]},
            )

            def make(out: Path, name: str = name, task: TaskData = task) -> None:
                predictor = predictor_of(network.load())
                chosen = predictor.get(name) if isinstance(predictor, Mapping) else predictor
                records: list[Record] = []
                if chosen is not None:
                    found = outcomes(chosen, task.parts["validation"](), name)
                    how = {"view": "specialist"}
                    records = self._records(network.name, name, "validation", found, how)
                write_json(out / "records.json", records)

            records += read_records(self.stage(stage, make) / "records.json")
        return records

    def validated_family(self, family: Family) -> list[Record]:
        """Measure the specialist of each task on validation parts."""
        how = {"group": family.group.key}
        return [
            replace(record, how={**record.how, **how})
            for name in dict.fromkeys(family.own.values())
            for record in self.validated(family.networks[name], family.tasks)
        ]

    def _own(self, group: Group, tasks: Mapping[str, TaskData]) -> dict[str, str]:
        own = {}
        for name, task in tasks.items():
            metric, sign = ("loss", -1) if task.regression else ("accuracy", 1)
            scores = {
                network.name: comparable(sign * record.value)
                for network in group.networks.values()
                for record in self.validated(network, {name: task})
                if record.metric == metric
            }
            if scores:
                own[name] = max(scores, key=lambda network: scores[network])
        return own

    def row(self, family: Family, row: Row) -> Measured:
        """Make a row's network and measure it, unless that is done."""
        key = row_key(family.group, row)

        def make(out: Path) -> None:
            result, made = metered(lambda: row.make(family))
            chosen = result if isinstance(result, Chosen) else Chosen(result, {})
            predictor = chosen.predictor
            found, tested = metered(lambda: self._tested(predictor, family))
            records = []
            for (task, part), outcome in found.items():
                how = {
                    "view": "row",
                    "group": family.group.key,
                    "row": row.name,
                    "uses_task_label": isinstance(predictor, Mapping),
                    "networks": _networks(predictor, task),
                    **({"chosen": dict(chosen.choice)} if chosen.choice else {}),
                }
                records += self._records(key, task, part, outcome, how)
            write_json(out / "records.json", records)
            save(stored_outcomes(found), out / "outcomes.safetensors")
            cost = _cost(key, self.subject.seed, made, tested, predictor)
            write_bytes(out / "cost.json", json.dumps(cost).encode())
            if row.save and isinstance(predictor, nn.Module):
                save(predictor, out / "network.safetensors")

        return Measured(self.stage(self.row_stage(family, row), make), key)

    def row_stage(self, family: Family, row: Row) -> Stage:
        """Say what the numbers of a row depend on."""
        inputs = {f"network {name}": n.stage for name, n in family.networks.items()}
        if family.group.base is not None:
            inputs["base"] = family.group.base.stage
        for name, task in self._measured_tasks(family).items():
            parts: tuple[Part, ...] = ("train", "validation", "test")
            parts = parts if task.trained_on else ("test",)
            inputs |= {f"{p} {name}": task.stages[p] for p in parts if p in task.stages}
        settings = {
            "row": row_key(family.group, row),
            "version": row.version,
            # Their order decides what comes first, and how sums are rounded.
            "networks": list(family.networks),
            "tasks": list(family.tasks),
            "own": None if family.group.own is None else dict(family.group.own),
            "statistics": self.settings.statistics,
            "seed": self.subject.seed,
        }
        return Stage("row", MEASURING_VERSION, settings, inputs)

    def _measured_tasks(self, family: Family) -> dict[str, TaskData]:
        unseen = {n: task for n, task in self.subject.tasks.items() if not task.trained_on}
        return {**family.tasks, **unseen}

    def _tested(self, predictor: Predictor, family: Family) -> dict[tuple[str, Part], Outcomes]:
        found: dict[tuple[str, Part], Outcomes] = {}
        for name, task in self._measured_tasks(family).items():
            chosen = predictor.get(name) if isinstance(predictor, Mapping) else predictor
            if chosen is None:
                continue
            parts: tuple[Part, ...] = ("validation", "test") if task.trained_on else ("test",)
            for part in parts:
                found[name, part] = outcomes(chosen, task.parts[part](), name)
        return found

    def _records(
        self, model: str, task: str, part: Part, found: Outcomes, how: Mapping[str, Any]
    ) -> list[Record]:
        values = found.metrics()
        if found.confidence is not None and found.correct is not None and part == "test":
            values["calibration error"] = calibration_error(found.confidence, found.correct)
        return [
            Record(model, task, part, self.subject.seed, metric, value, len(found), how)
            for metric, value in values.items()
        ]

    @cached_property
    def unseen(self) -> dict[str, TaskData]:
        """Domains that no network was trained on."""
        return {n: task for n, task in self.subject.tasks.items() if not task.trained_on}


def _networks(predictor: Predictor, task: str) -> int:
    chosen = predictor[task] if isinstance(predictor, Mapping) else predictor
    return 1 if isinstance(chosen, nn.Module) else len(chosen)


def stored_outcomes(found: Mapping[tuple[str, Part], Outcomes]) -> dict[str, Tensor]:
    """Give what each test example got: for intervals, pictures and calibration."""
    tensors: dict[str, Tensor] = {}
    for (task, part), outcome in found.items():
        if part != "test":
            continue
        tensors[f"loss/{task}"] = outcome.loss.float()
        tensors[f"targets/{task}"] = outcome.targets
        if outcome.prediction is not None and outcome.confidence is not None:
            tensors[f"prediction/{task}"] = outcome.prediction.to(torch.int32)
            tensors[f"confidence/{task}"] = outcome.confidence
    return tensors


def _cost(key: str, seed: int, made: Usage, tested: Usage, predictor: Predictor) -> dict[str, Any]:
    peaks = [usage.peak_bytes for usage in (made, tested) if usage.peak_bytes is not None]
    return {
        "row": key,
        "seed": seed,
        "make_seconds": round(made.seconds, 4),
        "test_seconds": round(tested.seconds, 4),
        "peak_bytes": max(peaks) if peaks else None,
        "parameters": sum(p.numel() for p in _parameters(predictor)),
    }


def _parameters(predictor: Predictor) -> list[nn.Parameter]:
    """Give every parameter once, though two tasks may share a trunk."""
    if isinstance(predictor, nn.Module):
        return list(predictor.parameters())
    members = predictor.values() if isinstance(predictor, Mapping) else predictor
    found = {id(p): p for member in members for p in _parameters(member)}
    return list(found.values())


def check_same_order(rows: Iterable[Measured], task: str) -> None:
    """Raise if rows saw the test examples in different orders: they could not be compared."""
    first: Tensor | None = None
    for measured in rows:
        targets = measured.outcomes(task, "targets")
        if targets is None:
            continue
        if first is None:
            first = targets
        elif not torch.equal(first, targets):
            raise DataError(
                f"the test part of {task!r} gives its examples in another order each time, so that "
                "networks cannot be compared example by example; make its loader with shuffle=False"
            )


def settings_of(settings: Settings) -> dict[str, Any]:
    """Give the settings as JSON values."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}
