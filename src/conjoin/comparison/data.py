"""The user's loaders as tasks, checked before anything is measured.

One pass over validation and test parts hashes every example, so that a measurement is used again
only if nothing has changed; it also finds labels out of range. Of the training part, which may be
shuffled and augmented, some examples are drawn once, under a fixed seed, and kept in memory.
"""

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from conjoin.batches import Data, Inputs, batches, map_inputs, pair_of, run_model, size_of
from conjoin.checkpoints import closest_name
from conjoin.comparison.subject import Part, TaskData
from conjoin.comparison.user_code import users_code
from conjoin.comparison.views import first_pairs
from conjoin.errors import ConjoinError, DataError
from conjoin.evaluation import evaluating, outcomes
from conjoin.stages import Stage

__all__ = ["TaskSpec", "read_tasks"]

TaskSpec = Mapping[str, Any]
"""``{"train": data, "validation": data, "test": data}``, and optionally ``"trained_on": False`` for
a domain that no network was trained on, and ``"classes": [...]``, their names."""

_PARTS: tuple[Part, ...] = get_args(Part)
_KNOWN = (*_PARTS, "trained_on", "classes")

BATCH = 500


def read_tasks(
    data: Mapping[str, Any],
    model: nn.Module,
    *,
    drawn: int,
    progress: Callable[[str], Callable[[int, int], None]],
) -> dict[str, TaskData]:
    """Check data and give them as tasks.

    Args:
        data: task -> `TaskSpec`; or the `TaskSpec` of a single task.
        model: one of the networks; each part's first batch is run through it.
        drawn: how many training examples are drawn.
        progress: shows the pass over the data.

    Raises:
        DataError: a part is missing, empty, or does not fit the model; labels out of range.
        UserCodeError: a loader, or the model, raised.
    """
    if not isinstance(data, Mapping) or not data:
        raise DataError(
            f"data must be {{task: {{'train': ..., 'validation': ..., 'test': ...}}}}, not "
            f"{type(data).__name__}"
        )
    # A single task may be given without a name.
    named = {"task": data} if any(part in data for part in _PARTS) else data
    tasks = {}
    for name, spec in named.items():
        tasks[str(name)] = _task(str(name), spec, model, drawn, progress)
    if not any(task.trained_on for task in tasks.values()):
        raise DataError("every task is marked 'trained_on': False; at least one must be trained on")
    return tasks


def _task(
    name: str,
    spec: Any,
    model: nn.Module,
    drawn: int,
    progress: Callable[[str], Callable[[int, int], None]],
) -> TaskData:
    _check_spec(name, spec)
    trained_on = bool(spec.get("trained_on", True))
    parts: dict[Part, Callable[[], Data]] = {}
    stages: dict[Part, Stage] = {}
    counts: dict[Part, int] = {}
    regression = False
    held: tuple[Part, ...] = ("validation", "test")
    for part in held:
        if part not in spec:
            continue
        where = f"{name}, {part} part"
        outputs, regression = _try(spec[part], model, where)
        digest, count = _read(spec[part], where, outputs, progress(f"reading {where}"))
        parts[part] = partial(_Theirs, spec[part], where)
        counts[part] = count
        stages[part] = Stage("data", 1, {"sha256": digest})
    if "train" in spec:
        where = f"{name}, training part"
        _try(spec["train"], model, where)
        with _fixed_randomness(), users_code(f"the data of {where}"):
            kept = first_pairs(spec["train"], drawn, where)
        parts["train"] = lambda: kept
        digest, count = _digest(kept, where, None)
        stages["train"] = Stage("data", 1, {"sha256": digest})
        counts["train"] = _length(spec["train"], count)
    classes = spec.get("classes")
    shown = None if classes is None else tuple(str(label) for label in classes)
    return TaskData(name, parts, stages, trained_on, regression, shown, counts)


def _check_spec(name: str, spec: Any) -> None:
    if not isinstance(spec, Mapping):
        raise DataError(
            f"the data of {name!r} must be a mapping with 'train', 'validation' and 'test', not "
            f"{type(spec).__name__}"
        )
    for key in spec:
        if key not in _KNOWN:
            close = closest_name(str(key), _KNOWN)
            hint = f"; did you mean {close!r}?" if close else ""
            raise DataError(
                f"the data of {name!r} have a part {key!r}; known are {', '.join(_KNOWN)}{hint}"
            )
    needed = ("validation", "test") if spec.get("trained_on", True) else ("test",)
    for part in needed:
        if part not in spec:
            raise DataError(
                f"the data of {name!r} have no {part} part. What is chosen - the best parent, a "
                "weight - is chosen on validation data, and test data are kept for the table. "
                "Divide what you have: torch.utils.data.random_split(dataset, [0.8, 0.2])"
            )


@dataclass(frozen=True, eq=False)
class _Theirs:
    """The user's data, which can be gone through again; errors of theirs are shown as theirs."""

    data: Data
    where: str

    def __iter__(self) -> Iterator[Any]:
        with users_code(f"the data of {self.where}"):
            iterator = iter(batches(self.data, BATCH))
        while True:
            with users_code(f"the data of {self.where}"):
                batch = next(iterator, None)
            if batch is None:
                return
            yield batch


def _try(data: Data, model: nn.Module, where: str) -> tuple[int | None, bool]:
    """Run the first batch; give the number of outputs (None: a regression), and which it is."""
    with _fixed_randomness(), users_code(f"the data of {where}"):
        first = next(iter(batches(data, BATCH)), None)
    if first is None:
        raise DataError(f"{where}: it gave no batch; a loader can be used up: pass a list")
    inputs, targets = pair_of(first, where)
    few = map_inputs(inputs, lambda tensor: tensor[:2])
    try:
        with torch.no_grad(), evaluating([model]):
            outputs = run_model(model, few)
    except ConjoinError:
        raise
    except Exception as error:
        raise DataError(
            f"{where}: the model {type(model).__name__} does not take its inputs "
            f"({_shapes(inputs)}): {type(error).__name__}: {error}"
        ) from error
    outcomes(model, [(few, targets[:2])], where)  # its errors say what targets and outputs must be
    regression = targets.is_floating_point()
    return (None if regression else int(outputs.shape[1])), regression


def _read(
    data: Data, where: str, outputs: int | None, on_done: Callable[[int, int], None]
) -> tuple[str, int]:
    with _fixed_randomness():
        digest, count = _digest(_Theirs(data, where), where, outputs)
    on_done(count, count)
    return digest, count


def _digest(data: Data, where: str, outputs: int | None) -> tuple[str, int]:
    digest, count = hashlib.sha256(), 0
    for batch in data:
        inputs, targets = pair_of(batch, where)
        if outputs is not None and len(targets):
            low, high = int(targets.min()), int(targets.max())
            if low < 0 or high >= outputs:
                raise DataError(
                    f"{where}: labels reach from {low} to {high}, but the model has {outputs} "
                    f"outputs, for labels 0 to {outputs - 1}"
                )
        for tensor in (*_tensors(inputs), targets):
            digest.update(f"{tensor.dtype} {list(tensor.shape[1:])}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        count += size_of(inputs)
    return digest.hexdigest(), count


def _tensors(inputs: Inputs) -> Sequence[Tensor]:
    if isinstance(inputs, Tensor):
        return [inputs]
    return list(inputs.values()) if isinstance(inputs, Mapping) else inputs


def _shapes(inputs: Inputs) -> str:
    return ", ".join(f"{t.dtype} {list(t.shape)}".removeprefix("torch.") for t in _tensors(inputs))


def _length(data: Data, known: int) -> int:
    """Give the number of training examples, where a loader tells."""
    dataset = getattr(data, "dataset", None)
    if dataset is not None and hasattr(dataset, "__len__"):
        return len(dataset)
    if isinstance(data, tuple) and isinstance(data[1], Tensor):
        return len(data[1])
    return known


@contextmanager
def _fixed_randomness() -> Iterator[None]:
    """Draw the same shuffled and augmented examples each time; put all generators back."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
