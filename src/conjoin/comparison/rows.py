"""The rows of the table: everything that a comparison makes out of a group of networks.

A row is one entry of `ROWS`: a name, a sentence about it, a function from the `Family` to a
predictor, and one that says why it does not apply. Table, figures, page and files have it then.
"""

import copy
from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from conjoin.comparison.aligned_rows import ALIGNED_ROWS
from conjoin.comparison.choosing import validation_score
from conjoin.comparison.family import Chosen, Family, Row, RowKind
from conjoin.comparison.shuffling import shuffled
from conjoin.evaluation import Predictor
from conjoin.merging import merge
from conjoin.modules import MultiHead
from conjoin.repairing import reestimate_batchnorm

__all__ = [
    "BEST_PARENT",
    "MEAN",
    "ROWS",
    "SHUFFLED",
    "best_of",
    "parent_row",
    "predictor_of",
    "rows_for",
]

BEST_PARENT = "best single parent (chosen on validation data)"

SHUFFLED = "specialist averaged with a shuffled copy of itself"


def parent_row(name: str, *, kind: RowKind = "parent", shown: str | None = None) -> Row:
    """Give the row of a network as it was given."""
    return Row(
        shown or f"{name} alone",
        kind,
        "a network as it was given" if kind == "parent" else "a network to compare with",
        partial(_alone, name),
        start=True,
    )


def best_of(names: Sequence[str] | None) -> Row:
    """Give the row of the best network on validation data, of all or of some by name."""
    return Row(
        BEST_PARENT,
        "reference",
        "the network with the best mean over all tasks on their validation parts",
        partial(_best_parent, names),
        version=2,
    )


def rows_for(names: Sequence[str]) -> tuple[Row, ...]:
    """Give the rows of a group: each network alone, then `ROWS`."""
    return (*(parent_row(name) for name in names), *ROWS)


def _alone(name: str, family: Family) -> Predictor:
    return predictor_of(family.networks[name].load())


def predictor_of(network: nn.Module) -> Predictor:
    """Give a network as what can be evaluated: one with several heads is told the task."""
    if isinstance(network, MultiHead):
        return {task: network.for_task(task) for task in network.heads}
    return network


def _best_parent(names: Sequence[str] | None, family: Family) -> Chosen:
    models = {name: m for name, m in family.models().items() if names is None or name in names}
    totals = {name: validation_score(model, family) for name, model in models.items()}
    best = max(totals, key=lambda name: totals[name])
    return Chosen(models[best], {"network": best})


def _ensemble(family: Family) -> Predictor:
    return list(family.models().values())


def _thread(family: Family) -> nn.Module:
    """The thread's own attempt: parameters added up, buffers left as they are in a new network."""
    models = list(family.models().values())
    result = copy.deepcopy(models[0])
    for part in result.modules():
        if isinstance(part, _BatchNorm):
            part.reset_running_stats()
    with torch.no_grad():
        sums = zip(*(model.parameters() for model in models), strict=True)
        for parameter, found in zip(result.parameters(), sums, strict=True):
            parameter.copy_(torch.stack([tensor.detach() for tensor in found]).sum(0))
    return result


def _merged(method: str, family: Family) -> nn.Module:
    return merge(list(family.models().values()), method)


def _repaired(method: str, family: Family) -> nn.Module:
    return family.repaired(_merged(method, family))


def _with_shuffled_copy(family: Family) -> Predictor:
    """Average the specialist of each task with itself, its units in another order."""
    found: dict[str, nn.Module] = {}
    for task, name in family.own.items():
        network = family.networks[name].load()
        averaged = merge([network, shuffled(network, family.examples(task), family.seed)])
        if family.why_not_reestimate() is None:
            averaged = reestimate_batchnorm(averaged, *family.statistics([task]))
        found[task] = averaged
    return found if len(family.tasks) > 1 else next(iter(found.values()))


SHARES = tuple(round(0.1 * step, 1) for step in range(1, 10))
"""Shares of the second network that `_weighted` tries. The ends are no combination: they are the
networks alone, which have rows of their own."""


def _weighted(family: Family) -> Chosen:
    """The best point between two networks, by the mean over tasks on validation data."""
    models = list(family.models().values())

    def at(share: float) -> nn.Module:
        return family.repaired(merge(models, "linear", weights=[1 - share, share]))

    # Made again at the end, rather than kept: networks may be large.
    best = max(SHARES, key=lambda share: validation_score(at(share), family))
    return Chosen(at(best), {"share": best, "of": list(family.networks)[1]})


def _lacks_batchnorm(family: Family) -> str | None:
    if not family.normalized:
        return "the networks have no BatchNorm: this is the same as the sum"
    return None


def _lacks_specialist(family: Family) -> str | None:
    lacking = [task for task in family.tasks if task not in family.own]
    return f"no network can be run on {', '.join(lacking)}" if lacking else None


def _not_two(family: Family) -> str | None:
    if len(family.networks) != 2:
        return f"it is for two networks, and there are {len(family.networks)}"
    return None


ROWS: tuple[Row, ...] = (
    best_of(None),
    Row(
        "ensemble of outputs",
        "ensemble",
        "all networks run side by side, their probabilities averaged: costs as many networks",
        _ensemble,
    ),
    Row(
        "the thread's code: sum, buffers left fresh",
        "control",
        "parameters() added up; BatchNorm's buffers forgotten, as in a new network",
        _thread,
        _lacks_batchnorm,
        save=True,
    ),
    Row("sum", "merge", "weights added up", partial(_merged, "sum"), save=True),
    Row("mean", "merge", "weights averaged", partial(_merged, "mean"), save=True, start=True),
    Row(
        "mean + re-estimated statistics",
        "merge",
        "weights averaged; BatchNorm statistics from unlabelled training inputs of all tasks",
        partial(_repaired, "mean"),
        Family.why_not_reestimate,
        save=True,
        start=True,
    ),
    Row(
        "weighted mean (chosen on validation data)",
        "merge",
        "the best of nine points between the two networks on validation data, statistics "
        "re-estimated where there is BatchNorm",
        _weighted,
        _not_two,
        save=True,
        version=2,
    ),
    *ALIGNED_ROWS,
    Row(
        SHUFFLED,
        "control",
        "the best network of each task, averaged with itself after its hidden units were put into "
        "another order: what it loses is lost to the order alone; statistics re-estimated where "
        "there is BatchNorm",
        _with_shuffled_copy,
        _lacks_specialist,
    ),
)

MEAN = "mean"
"""Name of the row that the others are compared with besides the specialists."""
