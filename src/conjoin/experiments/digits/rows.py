"""The rows of the table: every combination that the experiment tries.

A row is one entry of `ROWS`: a name, a section, and a function that makes it out of the trained
networks. To add a row, add an entry.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from conjoin.evaluation import Predictor, evaluate
from conjoin.experiments.digits.network import PARTS, DigitNet
from conjoin.experiments.digits.shuffling import shuffled
from conjoin.experiments.digits.training import TwoHeaded, to_input
from conjoin.experiments.digits.trainings import Laboratory
from conjoin.merging import merge
from conjoin.repair import reestimate_batchnorm

__all__ = ["ROWS", "ROWS_VERSION", "SECTIONS", "Row", "Section"]

ROWS_VERSION = 2
"""Raised whenever a change of this file changes the numbers of a row."""

Pair = tuple[str, str]
DIFFERENT: Pair = ("first", "second")
SHARED: Pair = ("first", "second, shared start")
SAME_TASK: Pair = ("first", "first again")


@dataclass(frozen=True)
class Section:
    """A part of the table.

    Args:
        title: shown; ``{first}`` and ``{second}`` are the names of the tasks.
        tasks: which tasks its rows are measured on.
        networks: the trainings that its rows are made from.
    """

    title: str
    tasks: tuple[Literal[0, 1], ...]
    networks: tuple[str, ...]


SECTIONS = {
    "references": Section(
        "networks to compare with",
        (0, 1),
        ("first", "second", "second, shared start", "all data", "two-headed"),
    ),
    "different": Section("from different initializations", (0, 1), DIFFERENT),
    "shared": Section("from a shared initialization", (0, 1), SHARED),
    "same task": Section("{first} twice, from two initializations", (0,), SAME_TASK),
    "shuffled": Section("{first} and a shuffled copy of itself", (0,), ("first",)),
    "depth, different": Section(
        "first k parts averaged, the rest each task's own; different initializations",
        (0, 1),
        DIFFERENT,
    ),
    "depth, shared": Section(
        "first k parts averaged, the rest each task's own; shared initialization", (0, 1), SHARED
    ),
}


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Args:
        name: shown; ``{first}`` and ``{second}`` are the names of the tasks.
        section: key of `SECTIONS`.
        make: gives the network, ensemble, or network per task, from the trained networks.
        save: whether its network is worth a file.
    """

    name: str
    section: str
    make: Callable[[Laboratory], Predictor]
    save: bool = False

    @property
    def key(self) -> str:
        """Name of the row within the run."""
        return f"{self.section}: {self.name}"


def _alone(name: str, lab: Laboratory) -> nn.Module:
    return lab.network(name)


def _best_parent(lab: Laboratory) -> nn.Module:
    """Give the specialist with the better mean accuracy on the validation parts of both tasks."""
    data = {}
    for task in range(2):
        images = lab.images(task, "validation")
        data[str(task)] = (to_input(images.images), images.labels)
    parents = {name: lab.network(name) for name in DIFFERENT}
    records = evaluate(parents, data, split="validation")
    totals = {
        name: sum(r.value for r in records if r.model == name and r.metric == "accuracy")
        for name in parents
    }
    return parents[max(totals, key=lambda name: totals[name])]


def _ensemble(pair: Pair, lab: Laboratory) -> Predictor:
    return [lab.network(name) for name in pair]


def _two_headed(lab: Laboratory) -> Predictor:
    network = cast(TwoHeaded, lab.network("two-headed"))
    return {lab.tasks[task].name: network.for_task(f"task_{task}") for task in range(2)}


def _thread(pair: Pair, lab: Laboratory) -> nn.Module:
    """The thread's own attempt, word for word: parameters added up, buffers left as they were."""
    model1, model2 = (lab.network(name) for name in pair)
    model3 = lab.untrained("first")
    for p3, p1, p2 in zip(
        model3.parameters(), model1.parameters(), model2.parameters(), strict=True
    ):
        p3.data = p1.data + p2.data
    return model3.eval()


def _merged(method: str, pair: Pair, lab: Laboratory) -> nn.Module:
    return merge([lab.network(name) for name in pair], method)


def _merged_reestimated(
    method: str, pair: Pair, tasks: tuple[int, ...], lab: Laboratory
) -> nn.Module:
    return reestimate_batchnorm(_merged(method, pair, lab), *(_unlabelled(lab, t) for t in tasks))


def _shuffled_copy(lab: Laboratory) -> DigitNet:
    network = cast(DigitNet, lab.network("first"))
    return shuffled(network, torch.Generator().manual_seed(lab.seed))


def _with_shuffled_copy(lab: Laboratory) -> nn.Module:
    return merge([lab.network("first"), _shuffled_copy(lab)])


def _with_shuffled_copy_reestimated(lab: Laboratory) -> nn.Module:
    return reestimate_batchnorm(_with_shuffled_copy(lab), _unlabelled(lab, 0))


def _first_parts(count: int, pair: Pair, lab: Laboratory) -> Predictor:
    """Average the first `count` parts; each task keeps its own rest and its own statistics."""
    networks = [lab.network(name) for name in pair]
    predictors = {}
    for task in range(2):
        # Merging [own, other] with the rest kept of the own one; order does not matter to a mean.
        models = [networks[task], networks[1 - task]]
        keep = {f"{part}.*": 0 for part in PARTS[count:]}
        predictors[lab.tasks[task].name] = reestimate_batchnorm(
            merge(models, keep=keep), _unlabelled(lab, task)
        )
    return predictors


def _unlabelled(lab: Laboratory, task: int) -> list[Tensor]:
    """Give a few training images of a task, without labels, in batches."""
    images = lab.images(task, "train").images[: lab.reestimate]
    return [to_input(batch) for batch in torch.split(images, 250)]


def _pair_rows(section: str, pair: Pair) -> tuple[Row, ...]:
    """Give the rows that every pair of specialists for two tasks has."""
    return (
        Row("ensemble of outputs (two networks)", section, partial(_ensemble, pair)),
        Row("the thread's code: sum, buffers left fresh", section, partial(_thread, pair)),
        Row("sum", section, partial(_merged, "sum", pair), save=True),
        Row("mean", section, partial(_merged, "mean", pair), save=True),
        Row(
            "mean + re-estimated statistics",
            section,
            partial(_merged_reestimated, "mean", pair, (0, 1)),
            save=True,
        ),
    )


def _depth_rows(section: str, pair: Pair) -> tuple[Row, ...]:
    return tuple(Row(f"k = {k}", section, partial(_first_parts, k, pair)) for k in range(6))


ROWS: tuple[Row, ...] = (
    Row("{first} alone", "references", partial(_alone, "first")),
    Row("{second} alone", "references", partial(_alone, "second")),
    Row(
        "{second} alone, started as {first}",
        "references",
        partial(_alone, "second, shared start"),
    ),
    Row("best single parent (chosen on validation data)", "references", _best_parent),
    Row("one network on all data", "references", partial(_alone, "all data")),
    Row("two-headed network (shared trunk)", "references", _two_headed),
    *_pair_rows("different", DIFFERENT),
    *_pair_rows("shared", SHARED),
    Row("ensemble of outputs (two networks)", "same task", partial(_ensemble, SAME_TASK)),
    Row("mean", "same task", partial(_merged, "mean", SAME_TASK), save=True),
    Row(
        "mean + re-estimated statistics",
        "same task",
        partial(_merged_reestimated, "mean", SAME_TASK, (0,)),
        save=True,
    ),
    Row("the shuffled copy alone: the same function", "shuffled", _shuffled_copy),
    Row("mean", "shuffled", _with_shuffled_copy, save=True),
    Row("mean + re-estimated statistics", "shuffled", _with_shuffled_copy_reestimated, save=True),
    *_depth_rows("depth, different", DIFFERENT),
    *_depth_rows("depth, shared", SHARED),
)
