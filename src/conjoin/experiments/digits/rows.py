"""What the experiment compares: groups of trained networks, and the rows of the table for each.

Most rows are those of every comparison (`conjoin.comparison.rows`); those of this file need more
than the networks of a pair. Adding a row is adding one entry.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import cast

import torch
from torch import nn

from conjoin.batches import Data
from conjoin.comparison.family import Family, Row
from conjoin.comparison.measuring import Laboratory
from conjoin.comparison.method_rows import method_rows
from conjoin.comparison.rows import ROWS, SHUFFLED, best_of, parent_row
from conjoin.comparison.shuffling import random_order
from conjoin.comparison.subject import Group, Network, Part, Subject, TaskData, View
from conjoin.evaluation import Predictor
from conjoin.experiments.digits.coupled import Chosen, Sweep, continuum_of
from conjoin.experiments.digits.network import PARTS
from conjoin.experiments.digits.training import TwoHeaded, to_input
from conjoin.experiments.digits.trainings import FINE_TUNED, TRAININGS, Trainer
from conjoin.merging import merge
from conjoin.repairing import reestimate_batchnorm
from conjoin.stages import Stage
from conjoin.symmetry.permutations import Permutations

__all__ = ["specialist_accuracy", "subject_of"]

ALL_DATA, TWO_HEADED = "one network on all data", "two-headed network (shared trunk)"
ALL_DATA_KEY = f"references: {ALL_DATA}"
SHUFFLED_COPY = "the shuffled copy"

SHUFFLING_VERSION = 2
"""Raised whenever the shuffled copy has other weights."""

PAIR_ROWS = tuple(row for row in ROWS if row.kind != "reference" and row.name != SHUFFLED)
"""The rows of a pair of specialists; "best single parent" stands among the references, and a
shuffled copy has a group of its own."""

EXAMPLES = 8
"""Images that a network is traced on."""

TWIN_VIEWS: tuple[View, ...] = ("interpolation", "activations", "distances", "alignment")
"""The curves of two networks for one task."""


def subject_of(
    trainer: Trainer,
    *,
    table: bool = True,
    methods: bool = False,
    sweep: Sweep | None = None,
    chosen: Chosen | None = None,
) -> Subject:
    """Give all that is compared for a seed; networks are trained when they are asked for.

    Args:
        trainer: trains them.
        table: whether separately trained networks are combined; else there are only the references
            of the continuum.
        methods: whether specialists are fine-tuned from one network, and merged by every method.
        sweep: what is trained of the continuum.
        chosen: the strength that a search has found.
    """
    tasks = {task.name: _task_data(trainer, number) for number, task in enumerate(trainer.tasks)}
    groups = tuple(_groups(trainer)) if table else (_all_data_alone(trainer),)
    return Subject(
        trainer.seed,
        tasks,
        (*groups, _fine_tuned(trainer)) if methods else groups,
        continuum=None if sweep is None else continuum_of(trainer, sweep, chosen, ALL_DATA_KEY),
        scratch=Network("scratch", _scratch_stage(trainer), partial(_untrained, trainer)),
    )


def specialist_accuracy(lab: Laboratory, trainer: Trainer, name: str) -> float | None:
    """Give a specialist's accuracy on its own validation part; None for a network of both tasks.

    Args:
        lab: measures it.
        trainer: of the network.
        name: one of `TRAININGS` or `FINE_TUNED`.
    """
    tasks = {**TRAININGS, **FINE_TUNED}[name].tasks
    if len(tasks) != 1:
        return None
    task = trainer.tasks[tasks[0]].name
    found = lab.validated(_network(trainer, name), {task: lab.subject.tasks[task]})
    return next(record.value for record in found if record.metric == "accuracy")


def _groups(trainer: Trainer) -> Iterator[Group]:
    first, second = (task.name for task in trainer.tasks[:2])
    networks = {name: _network(trainer, name) for name in TRAININGS}
    one, two, two_shared, again, all_data, two_headed = networks.values()
    both = (first, second)
    alone = {network.name: network for network in (one, two, two_shared)}
    yield Group(
        "references",
        "networks to compare with",
        {**alone, ALL_DATA: all_data, TWO_HEADED: two_headed},
        both,
        (*(parent_row(name) for name in alone), best_of(both), *_joint_rows(both)),
        views=(),
        own={first: first, second: second},
    )
    pairs = [
        ("different", "different initializations", two, None),
        # The network on all data has the same start: a plane through three that are not far apart.
        ("shared", "a shared initialization", two_shared, all_data),
    ]
    for key, start, other, third in pairs:
        plane = None if third is None else {n.name: n for n in (one, other, third)}
        yield Group(
            key,
            f"from {start}",
            {first: one, other.name: other},
            both,
            PAIR_ROWS,
            own={first: first, second: other.name},
            plane=plane,
        )
    copied = _shuffled_copy(trainer, one)
    copy_row = parent_row(SHUFFLED_COPY, kind="control", shown=f"{SHUFFLED_COPY} alone")
    twins = [
        ("same task", f"{first} twice, from two initializations", again, ()),
        ("shuffled", f"{first} and a shuffled copy of itself", copied, (copy_row,)),
    ]
    for key, title, twin, rows in twins:
        yield Group(
            key,
            title,
            {first: one, twin.name: twin},
            (first,),
            tuple(replace(row, start=False) for row in (*rows, *PAIR_ROWS)),
            views=TWIN_VIEWS,
            own={first: first},
        )
    for key, start, other, _ in pairs:
        yield Group(
            f"depth, {key}",
            f"first k parts averaged, {start.removeprefix('a ')}",
            {first: one, other.name: other},
            both,
            tuple(_depth_row(count) for count in range(len(PARTS) + 1)),
            views=(),
            own={first: first, second: other.name},
        )


def _all_data_alone(trainer: Trainer) -> Group:
    both = tuple(task.name for task in trainer.tasks[:2])
    network = _network(trainer, "all data")
    rows = (parent_row(ALL_DATA, kind="reference", shown=ALL_DATA),)
    return Group(
        "references", "networks to compare with", {ALL_DATA: network}, both, rows, views=(),
        own=dict.fromkeys(both, ALL_DATA),
    )  # fmt: skip


def _fine_tuned(trainer: Trainer) -> Group:
    """Specialists with a common ancestor, merged by every method there is."""
    both = tuple(task.name for task in trainer.tasks[:2])
    base, *pair = (_network(trainer, name) for name in FINE_TUNED)
    networks = {network.name: network for network in pair}
    rows = (*(parent_row(name) for name in networks), _base_row(base), *TOGETHER)
    return Group(
        "fine-tuned",
        "fine-tuned from one network, merged by every method",
        networks,
        both,
        (*rows, *method_rows(len(networks), base=True)),
        views=(),
        own=dict(zip(both, networks, strict=True)),
        base=base,
    )


TOGETHER = tuple(row for row in ROWS if row.kind == "ensemble")


def _base_row(base: Network) -> Row:
    about = "the network that both were fine-tuned from: half of the images of both tasks"
    return Row(f"their base: {base.name}", "reference", about, _base_alone)


def _base_alone(family: Family) -> Predictor:
    assert family.group.base is not None
    return family.group.base.load()


def _joint_rows(tasks: tuple[str, str]) -> tuple[Row, ...]:
    """Give the rows of the networks that were trained on both tasks."""
    about = "one trunk trained on both tasks, with a head of its own for each"
    return (
        parent_row(ALL_DATA, kind="reference", shown=ALL_DATA),
        Row(TWO_HEADED, "reference", about, partial(_two_headed, tasks), start=True),
    )


def _network(trainer: Trainer, name: str) -> Network:
    shown = {"all data": ALL_DATA, "two-headed": TWO_HEADED}.get(name) or trainer.title(name)
    return Network(shown, trainer.network_stage(name), partial(_loaded, trainer, name))


def _loaded(trainer: Trainer, name: str) -> nn.Module:
    return _fast(trainer.network(name)).to(trainer.device)


def _untrained(trainer: Trainer) -> nn.Module:
    return _fast(trainer.untrained("first")).to(trainer.device).eval()


def _scratch_stage(trainer: Trainer) -> Stage:
    return Stage("scratch", 1, {"width": trainer.width, "seed": trainer.seed})


def _fast(module: nn.Module) -> nn.Module:
    """Put the convolutions' weights into the order of memory that runs faster."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _shuffled_copy(trainer: Trainer, network: Network) -> Network:
    @cache
    def order() -> Permutations:
        examples = trainer.images(0, "validation").images[:EXAMPLES]
        return random_order(trainer.network("first"), to_input(examples), trainer.seed)

    def load() -> nn.Module:
        return _fast(order().apply(trainer.network("first"))).to(trainer.device)

    stage = Stage("shuffled", SHUFFLING_VERSION, {"seed": trainer.seed}, {"of": network.stage})
    return Network(SHUFFLED_COPY, stage, load)


def _two_headed(tasks: tuple[str, str], family: Family) -> Predictor:
    network = cast(TwoHeaded, family.networks[TWO_HEADED].load())
    return {name: network.for_task(f"task_{number}") for number, name in enumerate(tasks)}


def _depth_row(count: int) -> Row:
    return Row(
        f"k = {count}",
        "merge",
        f"the first {count} of {len(PARTS)} parts averaged, each task with its own rest and "
        "statistics",
        partial(_first_parts, count),
    )


def _first_parts(count: int, family: Family) -> Mapping[str, nn.Module]:
    """Average the first `count` parts; each task keeps its own rest and its own statistics."""
    predictors = {}
    for task in family.tasks:
        models = family.models()
        mine = models.pop(family.own[task])
        # Merging [own, other] with the rest kept of the own one; order does not matter to a mean.
        keep = {f"{part}.*": 0 for part in PARTS[count:]}
        merged = merge([mine, *models.values()], keep=keep)
        predictors[task] = reestimate_batchnorm(merged, *family.statistics([task]))
    return predictors


def _task_data(trainer: Trainer, number: int) -> TaskData:
    task = trainer.tasks[number]
    names: tuple[Part, ...] = ("train", "validation", "test")
    counts = {part: count for part in names if (count := task.counts[part]) is not None}
    return TaskData(
        task.name,
        {part: partial(_pair, trainer, number, part) for part in names},
        {part: trainer.images_stage(number, part) for part in names},
        trained_on=number < 2,
        counts=counts,
    )


MOST = 10_000
"""Training images that statistics and fine-tuning may use; more need not be unpacked for them."""


def _pair(trainer: Trainer, number: int, part: Part) -> Data:
    images = trainer.images(number, part)
    if part == "train":
        return to_input(images.images[:MOST]), images.labels[:MOST]
    return to_input(images.images), images.labels
