"""What a run folder says, read and checked; see ``docs/run-folder.md``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from conjoin.errors import DataError, InputError
from conjoin.records import Interval, Record, read_results

__all__ = [
    "COSTS",
    "RESULTS",
    "ChosenInfo",
    "ContinuumInfo",
    "Cost",
    "Folder",
    "GroupInfo",
    "Kind",
    "ProfileInfo",
    "RowInfo",
    "Run",
    "RunInfo",
    "Skipped",
    "TaskInfo",
    "TriedInfo",
    "read_run",
]

VIEWS = (
    "row", "specialist", "interpolation", "barrier", "plane", "depth", "activations", "distances",
    "alignment", "transfer", "continuum", "gap", "continuum transfer",
)  # fmt: skip
"""What a run may have; see ``docs/run-folder.md``."""

RESULTS = "results.json"
COSTS = "costs.json"

Name = Annotated[str, Field(min_length=1)]


def _strength(text: str) -> str:
    if not float(text) >= 0:  # NaN is none either
        raise ValueError(f"a strength is a number from 0 to inf, not {text!r}")
    return text


Strength = Annotated[str, AfterValidator(_strength)]
"""A strength of coupling as it is written, ``"0.1"`` or ``"inf"``: it is part of names."""

Kind = Literal["parent", "reference", "ensemble", "merge", "control"]
"""What a row is; see ``docs/run-folder.md``."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TaskInfo(_Strict):
    """A data set: how it is judged, and whether a network was trained on it."""

    name: Name
    metric: Literal["accuracy", "loss"] = "accuracy"
    trained_on: bool = True
    classes: list[str] | None = None
    counts: dict[str, int] = {}

    @property
    def heading(self) -> str:
        """Its name as the heading of a column.

        >>> TaskInfo(name="MNIST").heading, TaskInfo(name="USPS", trained_on=False).heading
        ('MNIST', 'USPS (unseen)')
        """
        return self.name if self.trained_on else f"{self.name} (unseen)"


class GroupInfo(_Strict):
    """A set of networks that are combined."""

    key: Name
    title: str
    models: list[str]
    tasks: list[str]


class RowInfo(_Strict):
    """A row of the table."""

    key: Name
    group: Name
    name: str
    about: str = ""
    uses_task_label: bool = False
    networks: int = 1
    kind: Kind = "merge"


class Skipped(_Strict):
    """A row or view that does not apply, and why."""

    group: str
    name: str
    reason: str


class ProfileInfo(_Strict):
    """How the strength of a continuum is spread over layers and time.

    `same_at_infinity` names the profile that this one equals where the strength is infinite.
    """

    name: Name
    about: str = ""
    same_at_infinity: str | None = None


class TriedInfo(_Strict):
    """A training of an automatic search, and the validation score that it got, in percent."""

    profile: Name
    strength: Strength
    score: float


class ChosenInfo(_Strict):
    """The point that was chosen on validation data; `trainings` is None if it is of a sweep."""

    profile: Name
    strength: Strength
    trainings: int | None = None
    tried: list[TriedInfo] = []


class ContinuumInfo(_Strict):
    """Coupled training from independent networks to one: which points there are."""

    profiles: list[ProfileInfo]
    strengths: list[Strength]
    chosen: ChosenInfo | None = None
    references: dict[str, str | None] = {}


class RunInfo(_Strict):
    """How a run was made."""

    experiment: Literal["compare", "continuum", "digits"]
    title: str
    command: str | None = None
    seeds: list[int]
    tasks: list[TaskInfo]
    groups: list[GroupInfo]
    rows: list[RowInfo]
    skipped: list[Skipped] = []
    specialists: dict[str, str] = {}
    settings: dict[str, Any] = {}
    versions: dict[str, str] = {}
    hashes: dict[str, str] = {}
    continuum: ContinuumInfo | None = None


class Cost(_Strict):
    """What a row took."""

    row: Name
    seed: int
    make_seconds: float
    test_seconds: float
    peak_bytes: int | None
    parameters: int


@dataclass(frozen=True)
class Run:
    """A run folder in memory.

    Args:
        folder: where it lies.
        info: how it was made.
        records: measured values.
        intervals: differences between rows.
        costs: seconds and bytes of each row; empty if the file is missing.
        seconds: of the whole run, if it is known.
        device: on which it ran, if it is known.
    """

    folder: Path
    info: RunInfo
    records: tuple[Record, ...]
    intervals: tuple[Interval, ...] = ()
    costs: tuple[Cost, ...] = ()
    seconds: float | None = None
    device: str | None = None
    _views: dict[str, tuple[Record, ...]] = field(default_factory=dict, repr=False, compare=False)

    def __repr__(self) -> str:
        rows, seeds = len(self.info.rows), len(self.info.seeds)
        counts = f"{len(self.records)} records of {rows} rows and {seeds} seeds"
        return f"Run({str(self.folder)!r}, {self.info.experiment}: {counts})"

    def view(self, name: str) -> tuple[Record, ...]:
        """Give the records of a view, such as ``"interpolation"``, in their order; maybe none.

        Raises:
            InputError: there is no such view.
        """
        if name not in self._views:
            here = dict.fromkeys(str(r.how["view"]) for r in self.records if "view" in r.how)
            if name not in VIEWS and name not in here:
                raise InputError(f"there is no view {name!r}; this run has {', '.join(here)}")
            self._views[name] = tuple(r for r in self.records if r.how.get("view") == name)
        return self._views[name]

    @cached_property
    def tasks(self) -> Mapping[str, TaskInfo]:
        """Tasks by name."""
        return {task.name: task for task in self.info.tasks}

    @cached_property
    def rows(self) -> Mapping[str, RowInfo]:
        """Rows by key, in the order of the table."""
        return {row.key: row for row in self.info.rows}

    @cached_property
    def groups(self) -> Mapping[str, GroupInfo]:
        """Groups by key."""
        return {group.key: group for group in self.info.groups}

    @cached_property
    def interval_of(self) -> Mapping[tuple[str, str, str, str], Interval]:
        """Intervals by model, model that it is compared with, task and metric."""
        names = ((i.model, i.against, i.task, i.metric) for i in self.intervals)
        return dict(zip(names, self.intervals, strict=True))

    @cached_property
    def _measured(self) -> tuple[Mapping[str, None], ...]:
        """Models, tasks and metrics of all that was measured, in their order."""
        models = [record.model for record in self.records]
        models += [name for i in self.intervals for name in (i.model, i.against)]
        metrics = [record.metric for record in self.records]
        return dict.fromkeys(models), dict.fromkeys(self.tasks), dict.fromkeys(metrics)

    def interval(self, model: str, against: str, task: str, metric: str) -> Interval | None:
        """Give the interval of a difference, if it was computed.

        Raises:
            InputError: the run has no such row, task or metric.
        """
        models, tasks, metrics = self._measured
        for what, name, known in (
            ("row", model, models),
            ("row to compare with", against, models),
            ("task", task, tasks),
            ("metric", metric, metrics),
        ):
            if name not in known:
                shown = ", ".join(list(known)[:20])
                raise InputError(f"this run has no {what} {name!r}; there are {shown}")
        return self.interval_of.get((model, against, task, metric))


Folder = str | PathLike[str] | Run
"""The folder of a run, or the run in memory."""


def read_run(folder: str | PathLike[str]) -> Run:
    """Read the folder of a run.

    Raises:
        DataError: it is no such folder, or a file in it is malformed; the message says which.
    """
    folder = Path(folder)
    path = folder / RESULTS
    if not path.is_file():
        raise DataError(
            f"{folder} is not the folder of a run: it has no {RESULTS}; name a folder that "
            "conjoin compare, conjoin digits or conjoin.continuum has written"
        )
    results = read_results(path)
    try:
        info = RunInfo.model_validate(dict(results.run))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in ("run", *first["loc"]))
        raise DataError(
            f"{path} is not of this version of conjoin: {where}: {first['msg']}; run the "
            "command again, it reuses what is cached"
        ) from error
    costs, seconds, device = _costs(folder / COSTS)
    return Run(folder, info, results.records, results.intervals, costs, seconds, device)


def _costs(path: Path) -> tuple[tuple[Cost, ...], float | None, str | None]:
    if not path.exists():
        return (), None, None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        costs = tuple(Cost.model_validate(row) for row in document["rows"])
        return costs, document.get("seconds"), document.get("device")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not a costs file of conjoin: {error}") from error
