"""`continuum`: your network, your data -> coupled at every strength, measured, in one folder."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from numbers import Real
from os import PathLike
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from conjoin.arguments import as_whole
from conjoin.batches import Data, batches
from conjoin.checkpoints import match_names
from conjoin.comparison.checks import check_calls, run_folder, settings_or_default
from conjoin.comparison.continuum import HEADS, SPECIALISTS, validation_score
from conjoin.comparison.data import TaskSpec, read_tasks
from conjoin.comparison.measuring import Laboratory, Progress
from conjoin.comparison.networks import Source, digest_of, fresh
from conjoin.comparison.randomness import seeded
from conjoin.comparison.rows import parent_row
from conjoin.comparison.running import About, measure_subjects
from conjoin.comparison.source_code import code_digest, structure_digest
from conjoin.comparison.subject import (
    Continuum,
    CoupledPoint,
    Group,
    Settings,
    Subject,
    TaskData,
)
from conjoin.comparison.transferring import POOL
from conjoin.coupling.training import Recipe
from conjoin.errors import DataError, InputError
from conjoin.report.run_folder import Run
from conjoin.stages import Stage, StageCache
from conjoin.sweeping.points import (
    STRENGTHS,
    Point,
    Profile,
    find_profile,
    points_of,
    profile_info,
    profiles_for,
)
from conjoin.sweeping.search import find_strength
from conjoin.sweeping.trainings import Loss, Trainings, squared_error

__all__ = ["continuum"]

ALL_DATA = "one network on all data"


def continuum(
    model: nn.Module | Source,
    data: Mapping[str, TaskSpec],
    *,
    out: str | PathLike[str],
    epochs: int,
    heads: str | Sequence[str] = (),
    strengths: float | Sequence[float] | str = STRENGTHS,
    profiles: str | Sequence[str] = ("uniform",),
    seeds: int = 1,
    learning_rate: float = 0.05,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
    scheduler: Callable[[Optimizer, int], LRScheduler] | None = None,
    loss: Loss | None = None,
    clip: float | None = 5.0,
    batch_size: int = 128,
    steps: int | None = None,
    settings: Settings | None = None,
    device: str | torch.device = "cpu",
    title: str | None = None,
    progress: Progress | None = None,
    notice: Callable[[str], None] = print,
) -> Run:
    """Train a network for each task, coupled at every strength, and measure what comes of it.

    For every strength from 0 (independent) to infinity (one tensor for all): the specialists, the
    single network that is their mean, the network with a head for each task, how far the layers
    are apart over training, and what an unseen domain makes of it; beside them, one network on all
    data. What is finished is cached: the same call goes on where it was interrupted.

    Args:
        model: the network that all start from: a module, or a class or function without arguments
            that makes one (then every seed has another start).
        data: task -> ``{"train": ..., "validation": ..., "test": ...}``, as for `conjoin.compare`;
            two or more tasks that are trained on. A training part that is a pair of tensors is
            shuffled; a loader is gone through as it is, so let it shuffle. The cache knows a
            training part by some of its examples: use another folder for other data.
        out: the folder; made if it is missing, gone on with if it is there.
        epochs: of every training.
        heads: pattern or patterns of the tensors behind the trunk, such as ``"classifier.*"``: the
            network with heads keeps them private, and so does the profile ``trunk``.
        strengths: one or several from 0 to infinity, or ``"auto"``: the ends, and the best that a
            search with five trainings finds on the validation data of the first seed.
        profiles: one or several of ``uniform``, ``upstream``, ``trunk``, ``tied finish`` and
            ``pooled norm``; ``"upstream:0.1,1"`` is trained at those strengths only.
        seeds: repetitions.
        learning_rate: the highest of a one-cycle schedule of SGD with Nesterov momentum .9.
        optimizer, scheduler: in the place of that: makers, given the parameters; given the
            optimizer and the number of all steps.
        loss: of outputs and targets; by default cross-entropy, and for a task whose targets are
            floating-point numbers the mean squared error, which it is measured by.
        clip: largest norm of a gradient; None does not clip.
        batch_size: for training parts that are a pair of tensors.
        steps: of an epoch; by default what the longest training part has.
        settings: how much is measured.
        device: where networks are trained and run.
        title: of the page.
        progress: shows long jobs.
        notice: called with a line for people.

    Returns:
        The run as it lies in the folder; `conjoin.write_report` makes its page.

    Raises:
        InputError, DataError, MismatchError: something does not fit; nothing was trained.
        TrainingError: a training diverged.

    >>> import tempfile
    >>> def part(count, flip):
    ...     x = torch.randn(count, 4)
    ...     return x, ((x[:, 0] > 0) ^ flip).long()
    >>> data = {name: {p: part(40, flip) for p in ("train", "validation", "test")}
    ...         for name, flip in (("one", False), ("other", True))}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = continuum(nn.Linear(4, 2), data, out=folder, epochs=1, batch_size=20,
    ...                     strengths=[0, 1, math.inf])
    >>> run.info.continuum.strengths
    ['0', '1', 'inf']
    """
    chosen, out = settings_or_default(settings), run_folder(out)
    seeds, epochs = as_whole(seeds, "seeds", 1), as_whole(epochs, "epochs", 1)
    batch_size = as_whole(batch_size, "batch_size", 1)
    steps = steps if steps is None else as_whole(steps, "steps", 1)
    _check_positive(learning_rate=learning_rate, clip=1.0 if clip is None else clip)
    check_calls(
        optimizer=optimizer, scheduler=scheduler, loss=loss, progress=progress, notice=notice
    )
    if isinstance(loss, type):
        raise InputError(f"loss is a function of outputs and targets, such as {loss.__name__}()")
    heads = [heads] if isinstance(heads, str) else list(heads)
    known = profiles_for(heads)
    listed = [profiles] if isinstance(profiles, str) else profiles
    used = [find_profile(text, known) for text in listed]
    if isinstance(strengths, str) and strengths != "auto":
        raise InputError(f"strengths are numbers, or 'auto', not {strengths!r}")
    if isinstance(strengths, int | float):
        strengths = [strengths]
    where = torch.device(device)
    with seeded():
        example = _start(model, 0)
        for pattern in heads:
            match_names(pattern, dict(example.named_parameters()))
        tasks = read_tasks(
            data, example, statistics=chosen.statistics, pool=POOL, progress=progress or _silent
        )
    trained = [name for name, task in tasks.items() if task.trained_on]
    if len(trained) < 2:
        raise DataError(f"coupling needs two tasks that are trained on; there is {trained}")
    parts = {name: _training_part(data, name) for name in trained}
    recipe = Recipe(
        epochs,
        steps or max(_length(part, name, batch_size) for name, part in parts.items()),
        optimizer or partial(_sgd, learning_rate),
        scheduler if optimizer or scheduler else partial(_one_cycle, learning_rate),
        clip,
    )
    squared = [name for name in trained if loss is None and tasks[name].regression]
    usual: Loss = F.cross_entropy if loss is None else loss
    losses = {name: squared_error if name in squared else usual for name in trained}
    code = _code(model, optimizer, scheduler, usual, learning_rate, squared)
    cache = StageCache(out / "cache", notice=notice)

    def trainings(seed: int) -> Trainings:
        return Trainings(
            partial(_start, model, seed),
            parts,
            recipe,
            losses,
            batch_size,
            seed,
            {"code": code, **{name: tasks[name].stages["train"] for name in trained}},
            where,
            cache,
            progress or _silent,
        )

    with cache.locked():
        found = None
        numbers = STRENGTHS if isinstance(strengths, str) else tuple(strengths)
        if isinstance(strengths, str):
            lab = _laboratory(trainings(0), tasks, chosen, None)
            found, tried = _searched(lab, trainings(0), used[0], heads, notice)
            numbers = (0.0, math.inf, *tried)
        points = points_of(used, numbers)
        if heads:
            ends = Point(known["trunk"], math.inf)
            points = (*(p for p in points if p.name != ends.name), ends)
        labs = (
            _laboratory(one, tasks, chosen, _continuum(one, points, used, heads, found))
            for one in map(trainings, range(seeds))
        )
        about = About(
            "continuum",
            str(title or f"{' and '.join(trained)}: from independent networks to one"),
            specialists={},
            settings={"epochs": epochs, "steps": recipe.steps, "batch_size": batch_size},
            device=str(where),
        )
        return measure_subjects(labs, out, about)


def _laboratory(
    trainings: Trainings,
    tasks: Mapping[str, TaskData],
    settings: Settings,
    continuum: Continuum | None,
) -> Laboratory:
    names = tuple(trainings.data)
    group = Group(
        "references",
        "networks to compare with",
        {ALL_DATA: trainings.all_data(ALL_DATA)},
        names,
        (parent_row(ALL_DATA, kind="reference", shown=ALL_DATA),),
        views=(),
        own=dict.fromkeys(names, ALL_DATA),
    )
    subject = Subject(trainings.seed, tasks, (group,), continuum=continuum)
    return Laboratory(subject, settings, trainings.cache, trainings.progress)


def _continuum(
    trainings: Trainings,
    points: Sequence[Point],
    profiles: Sequence[Profile],
    heads: Sequence[str],
    found: Mapping[str, Any] | None,
) -> Continuum:
    names, free = [point.name for point in points], Point(profiles[0], 0.0).name
    references = {
        "independent": f"{free}: {SPECIALISTS}" if free in names else None,
        "two-headed": f"trunk inf: {HEADS}" if "trunk inf" in names else None,
        "all data": f"references: {ALL_DATA}",
    }
    measured = tuple(_coupled_point(trainings, point, heads) for point in points)
    return Continuum(measured, profile_info(profiles), references, found)


def _coupled_point(trainings: Trainings, point: Point, heads: Sequence[str]) -> CoupledPoint:
    networks = trainings.coupled(point)
    return CoupledPoint(
        point.profile.name,
        f"{point.strength:g}",
        networks,
        {task: task for task in networks},
        partial(trainings.gaps, point),
        tuple(heads),
    )


def _searched(
    lab: Laboratory,
    trainings: Trainings,
    profile: Profile,
    heads: Sequence[str],
    notice: Callable[[str], None],
) -> tuple[dict[str, Any], list[float]]:
    def score(strength: float) -> float:
        point = _coupled_point(trainings, Point(profile, strength), heads)
        value = validation_score(lab, point)
        notice(f"strength {strength:.3g}: {value:.4g} on validation data (one network)")
        return value

    found = find_strength(score)
    tried = [
        {"profile": profile.name, "strength": f"{s:g}", "score": value} for s, value in found.tried
    ]
    best = {"profile": profile.name, "strength": f"{found.strength:g}"}
    return {**best, "trainings": len(tried), "tried": tried}, [s for s, _ in found.tried]


def _check_positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not isinstance(number, Real) or not float(number) > 0:
            also = "; None does not clip" if name == "clip" else ""
            raise InputError(f"{name} is a number above 0, not {number!r:.80}{also}")


def _start(model: nn.Module | Source, seed: int) -> nn.Module:
    return copy.deepcopy(model) if isinstance(model, nn.Module) else fresh(model, seed)


def _training_part(data: Mapping[str, TaskSpec], name: str) -> Data:
    if "train" not in data[name]:
        raise DataError(f"the data of {name!r} have no 'train' part to train on")
    part: Data = data[name]["train"]
    return part


def _length(part: Data, name: str, batch_size: int) -> int:
    """Give the steps of an epoch."""
    if batches(part, batch_size) is not part:
        return max(1, len(part[1]) // batch_size)  # type: ignore[index]
    try:
        return max(1, len(part))  # type: ignore[arg-type]
    except TypeError:
        raise InputError(
            f"the training part of {name!r} has no length; say how many steps an epoch has: steps="
        ) from None


def _sgd(rate: float, parameters: Iterable[nn.Parameter]) -> Optimizer:
    return torch.optim.SGD(parameters, rate, momentum=0.9, nesterov=True, weight_decay=5e-4)


def _one_cycle(rate: float, optimizer: Optimizer, total: int) -> LRScheduler:
    return OneCycleLR(optimizer, rate, total_steps=total, cycle_momentum=False)


def _code(
    model: nn.Module | Source,
    optimizer: Callable[..., Any] | None,
    scheduler: Callable[..., Any] | None,
    loss: Loss,
    rate: float,
    squared: Sequence[str],
) -> Stage:
    """Say what the start and the loop depend on."""
    is_module = isinstance(model, nn.Module)
    start = (
        f"{digest_of(model)} {structure_digest(model)}" if is_module else code_digest(model)  # type: ignore[arg-type]
    )
    made = {"optimizer": optimizer, "scheduler": scheduler, "loss": loss}
    digests = {name: None if f is None else code_digest(f) for name, f in made.items()}
    other = {"squared error": list(squared)} if squared else {}
    return Stage("start", 1, {"start": start, "rate": rate, **digests, **other})


def _silent(title: str) -> Callable[[int, int], None]:  # noqa: ARG001
    return lambda done, total: None  # noqa: ARG005
