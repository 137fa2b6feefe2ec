"""The user's loaders as tasks, checked before anything is measured.

One pass over validation and test parts hashes every example, so that a measurement is used again
only if nothing has changed; it also finds labels out of range. Of the training part, which may be
shuffled and augmented, some examples are drawn once, under a fixed seed, and kept in memory.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from conjoin.batches import Data, Inputs, batches, map_inputs, pair_of, read_logits, run_model
from conjoin.checkpoints import closest_name
from conjoin.comparison.digests import Digest, described
from conjoin.comparison.examples import first_pairs, joined
from conjoin.comparison.randomness import drawn as drawn_from
from conjoin.comparison.subject import Part, TaskData
from conjoin.comparison.user_code import as_text, their_traceback, users_code
from conjoin.errors import ConjoinError, DataError
from conjoin.evaluation import evaluating, outcomes
from conjoin.stages import Stage

__all__ = ["TaskSpec", "read_tasks"]

TaskSpec = Mapping[str, Any]
"""``{"train": data, "validation": data, "test": data}``, and optionally ``"trained_on": False`` for
a domain that no network was trained on, and ``"classes": [...]``, their names."""

_PARTS: tuple[Part, ...] = get_args(Part)
_KNOWN = (*_PARTS, "trained_on", "classes")
_OFTEN = {"val": "validation", "valid": "validation", "dev": "validation", "eval": "validation"}

BATCH = 500

STATISTICS_BATCH = 250
"""Size of the batches that statistics are made of, whatever the loader's."""

Progress = Callable[[str], Callable[[int, int], None]]


@dataclass(frozen=True)
class _Seen:
    """What a part of the data is, of which no example is kept."""

    stage: Stage
    count: int
    regression: bool


def read_tasks(
    data: Mapping[str, Any],
    model: nn.Module,
    *,
    statistics: int,
    pool: int,
    progress: Progress,
) -> dict[str, TaskData]:
    """Check data and give them as tasks.

    Args:
        data: task -> `TaskSpec`; or the `TaskSpec` of a single task.
        model: one of the networks; each part's first batch is run through it.
        statistics: how many training examples are drawn.
        pool: how many of a task that no network was trained on.
        progress: shows the pass over the data.

    Raises:
        DataError: a part is missing, empty, or does not fit the model; labels out of range.
        UserCodeError: a loader, or the model, raised.
    """
    if not isinstance(data, Mapping) or not data:
        raise DataError(
            f"data must be {{task: {{'train': ..., 'validation': ..., 'test': ...}}}}, not "
            f"{'empty' if isinstance(data, Mapping) else type(data).__name__}"
        )
    # A single task may be given without a name.
    several = any(isinstance(spec, Mapping) for spec in data.values())
    tasks: dict[str, TaskData] = {}
    for key, spec in (data if several else {"task": data}).items():
        name = as_text(str(key))
        if not name or name in tasks:
            raise DataError(f"a task's name is {'empty' if not name else f'there twice: {name!r}'}")
        _check_spec(name, spec)
        drawn = statistics if spec.get("trained_on", True) else pool
        tasks[name] = _task(name, spec, model, drawn, progress)
    if not any(task.trained_on for task in tasks.values()):
        raise DataError("every task is marked 'trained_on': False; at least one must be trained on")
    return tasks


def _task(name: str, spec: TaskSpec, model: nn.Module, drawn: int, progress: Progress) -> TaskData:
    trained_on = bool(spec.get("trained_on", True))
    classes = _classes(name, spec.get("classes"))
    parts: dict[Part, Callable[[], Data]] = {}
    seen: dict[Part, _Seen] = {}
    counts: dict[Part, int] = {}
    held: tuple[Part, ...] = ("validation", "test")
    for part in held:
        if part in spec:
            theirs = _Theirs(spec[part], f"{name}, {part} part")
            seen[part] = _read(theirs, model, classes, progress)
            parts[part] = partial(_given, theirs)
            counts[part] = seen[part].count
    if "train" in spec:
        theirs = _Theirs(spec["train"], f"{name}, training part")
        kept, seen["train"] = _drawn(theirs, model, drawn, check_labels=not trained_on)
        parts["train"] = partial(_given, kept)
        found = seen["train"].count  # fewer than were asked for are all that there are
        known = found if found < drawn else _length(spec["train"])
        if known is not None:
            counts["train"] = known
    judged = [one for part, one in seen.items() if part != "train" or not trained_on]
    if len({one.regression for one in judged}) > 1:
        raise DataError(f"{name}: the targets of one part are labels, of another floating-point")
    stages = {part: one.stage for part, one in seen.items()}
    return TaskData(name, parts, stages, trained_on, seen["test"].regression, classes, counts)


def _given(data: Data) -> Data:
    return data


def _check_spec(name: str, spec: Any) -> None:
    if not isinstance(spec, Mapping):
        raise DataError(
            f"the data of {name!r} must be a mapping with 'train', 'validation' and 'test', not "
            f"{type(spec).__name__}"
        )
    for key in spec:
        if key not in _KNOWN:
            close = _OFTEN.get(str(key)) or closest_name(str(key), _KNOWN)
            hint = f"; did you mean {close!r}?" if close else ""
            raise DataError(
                f"the data of {name!r} have a part {key!r}; known are {', '.join(_KNOWN)}{hint}"
            )
    if not isinstance(spec.get("trained_on", True), bool):
        raise DataError(f"'trained_on' of {name!r} is True or False, not {spec['trained_on']!r}")
    needed = ("validation", "test") if spec.get("trained_on", True) else ("test",)
    for part in needed:
        if part not in spec:
            raise DataError(
                f"the data of {name!r} have no {part} part. What is chosen - the best parent, a "
                "weight - is chosen on validation data, and test data are kept for the table. "
                "Divide what you have: torch.utils.data.random_split(dataset, [0.8, 0.2])"
            )
    for part in _PARTS:
        if part in spec:
            _check_part(f"{name}, {part} part", spec[part])


def _check_part(where: str, data: Any) -> None:
    if isinstance(data, Iterator):
        raise DataError(
            f"{where}: a {type(data).__name__} can be gone through only once, but every network is "
            "run on the data; give a loader, or a list of its batches"
        )
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        raise DataError(
            f"{where}: {type(data).__name__} is a data set of single examples; give a loader of "
            "it: torch.utils.data.DataLoader(dataset, batch_size=100)"
        )
    can_be_gone_through = isinstance(data, Iterable) or hasattr(data, "__getitem__")
    if isinstance(data, Mapping | str) or not can_be_gone_through:
        raise DataError(
            f"{where}: expected a loader of (inputs, labels), or that pair, not "
            f"{type(data).__name__}"
        )


def _classes(name: str, classes: Any) -> tuple[str, ...] | None:
    if classes is None:
        return None
    if isinstance(classes, str | Mapping) or not isinstance(classes, Iterable):
        raise DataError(f"'classes' of {name!r} is a list of their names, not {classes!r}")
    return tuple(as_text(str(label)) for label in classes)


@dataclass(frozen=True, eq=False)
class _Theirs:
    """The user's data, with the same examples each time; errors of theirs are shown as theirs."""

    data: Data
    where: str

    def __iter__(self) -> Iterator[Any]:
        iterator: Iterator[Any] | None = None
        while True:
            with users_code(f"the data of {self.where}"):
                iterator = iterator or drawn_from(batches(self.data, BATCH))
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
            yield batch


def _read(
    data: _Theirs, model: nn.Module, classes: tuple[str, ...] | None, progress: Progress
) -> _Seen:
    """Go through a part once: does it fit the model, and what is its hash?"""
    outputs, regression = _try(data, model, judged=True)
    update = progress(f"reading {data.where}")
    digest, highest = Digest(), 0
    for batch in data:
        inputs, targets = pair_of(batch, data.where)
        if not regression:
            highest = max(highest, _checked_labels(targets, outputs, data.where))
        digest.add(inputs, targets, data.where)
    if classes is not None and highest >= len(classes):
        raise DataError(
            f"{data.where}: labels reach to {highest}, but 'classes' has {len(classes)} names"
        )
    update(digest.count, digest.count)
    stage = Stage("data", 1, {"sha256": digest.hexdigest()})
    return _Seen(stage, digest.count, regression)


def _drawn(
    data: _Theirs, model: nn.Module, count: int, *, check_labels: bool
) -> tuple[list[tuple[Inputs, Tensor]], _Seen]:
    """Draw training examples, in batches of one size where their shapes allow it."""
    # The labels of a task that networks were trained on are not used.
    outputs, regression = _try(data, model, judged=check_labels)
    kept = first_pairs(data, count, data.where)
    found = sum(len(targets) for _, targets in kept)
    # Batches of several shapes, such as texts, stay as they are.
    with suppress(DataError, RuntimeError):
        kept = first_pairs(joined(kept), count, data.where, batch_size=STATISTICS_BATCH)
    if len(kept) > 1 and len(kept[-1][1]) == 1:
        kept = kept[:-1]  # BatchNorm has no variance of a single example
    digest = Digest()
    for inputs, targets in kept:
        if check_labels and not regression:
            _checked_labels(targets, outputs, data.where)
        digest.add(inputs, targets, data.where)
    sizes = [len(targets) for _, targets in kept]
    stage = Stage("data", 1, {"sha256": digest.hexdigest(), "batches": sizes})
    return kept, _Seen(stage, found, regression)


def _try(data: _Theirs, model: nn.Module, *, judged: bool) -> tuple[int | None, bool]:
    """Run two examples; give the number of outputs (None: no matter), and if it is a regression.

    Args:
        data: a part of it.
        model: what is run.
        judged: whether outputs are compared with targets, so that the two must fit.
    """
    first = next(iter(data), None)
    if first is None:
        raise DataError(f"{data.where}: it gave no batch; a loader can be used up: pass a list")
    inputs, targets = pair_of(first, data.where)
    few = map_inputs(inputs, lambda tensor: tensor[:2])
    try:
        with torch.no_grad(), evaluating([model]):
            outputs = run_model(model, few)
    except ConjoinError:
        raise
    except Exception as error:
        raise DataError(
            f"{data.where}: the model {type(model).__name__} does not take its inputs "
            f"({described(inputs)}):\n{their_traceback(error)}"
        ) from error
    regression = targets.is_floating_point()
    if not judged:
        return None, regression
    if targets.dim() > 1 and not regression:
        raise DataError(
            f"{data.where}: comparing takes one label for each example, not labels "
            f"{list(targets.shape)}; conjoin.evaluate and conjoin.measure.interpolate take these"
        )
    outputs = read_logits(outputs)
    outcomes(model, [(few, targets[:2])], data.where)  # its errors say what is expected
    return (None if regression else int(outputs.shape[1])), regression


def _checked_labels(labels: Tensor, outputs: int | None, where: str) -> int:
    """Give the highest label; raise if one has no output. Outputs None: any number."""
    if not len(labels):
        return 0
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (outputs is not None and high >= outputs):
        raise DataError(
            f"{where}: labels reach from {low} to {high}, but the model has {outputs} outputs, "
            f"for labels 0 to {(outputs or 0) - 1}"
        )
    return high


def _length(data: Data) -> int | None:
    """Give the number of examples of data that are not gone through, where they tell."""
    if isinstance(data, tuple) and len(data) == 2 and isinstance(data[1], Tensor):
        return len(data[1])
    sampler = getattr(data, "sampler", None)
    try:
        return None if sampler is None else len(sampler)
    except TypeError:  # of a stream
        return None
