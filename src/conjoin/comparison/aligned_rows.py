"""Rows of networks that are brought into one order first, and of merges that look at data."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from torch import nn
from torch.nn.modules.conv import _ConvNd

from conjoin.comparison.family import Chosen, Family, Row
from conjoin.fitting import FitReport, merge_with_data, route
from conjoin.merging import merge
from conjoin.modules import TaskNetworks
from conjoin.repairing import has_batchnorm, repair

__all__ = ["ALIGNED_ROWS"]

PRIVATE = 0.05
"""Share of the weights that each task has of its own at most, in its smallest layers."""

MOST = 2000
"""Examples of each task that statistics, and fits, are made on; fewer if the settings say so."""


def _validation(family: Family) -> dict[str, Any]:
    return {name: task.parts["validation"]() for name, task in family.tasks.items()}


def _aligned(method: str, family: Family) -> Chosen:
    """The mean of networks in one order, its statistics put right if that is better."""
    models = list(family.models().values())
    pairs = zip(family.alignments(method), models, strict=True)
    parents = [one.apply(model) for one, model in pairs]
    repaired, report = repair(
        merge(parents),
        parents,
        family.own_data(MOST),
        validation=_validation(family),
        examples=len(family.tasks) * MOST,
    )
    return Chosen(repaired, {"repair": report.chosen})


def _fitted(method: str, family: Family) -> tuple[nn.Module, FitReport]:
    """One network, fitted to what each does on its own data."""
    chosen = method == "least_squares" and len(family.tasks) > 1
    return merge_with_data(
        list(family.models().values()),
        family.own_data(MOST),
        method,
        align=family.alignments("activations"),
        weights="auto" if chosen else None,
        validation=_validation(family) if chosen else None,
        examples=len(family.tasks) * MOST,
        seed=family.seed,
    )


def _by_least_squares(family: Family) -> tuple[nn.Module, FitReport]:
    return family.once("least squares", lambda: _fitted("least_squares", family))


def _shares(family: Family) -> list[float]:
    """How much each network counts: what was chosen on validation data for one network of all."""
    return list(_by_least_squares(family)[1].settings["weights"])


def _with_least_squares(family: Family) -> Chosen:
    choice = {"shares": _shares(family)} if len(family.tasks) > 1 else {}
    return Chosen(_by_least_squares(family)[0], choice)


def _with_regmean(family: Family) -> Chosen:
    return Chosen(_fitted("regmean", family)[0], {})


def _with_private_layers(family: Family) -> Chosen:
    """The same with the last third of the layers kept apart, for each task the one of its own."""
    model = next(iter(family.models().values()))
    layers = sum(isinstance(part, nn.Linear | _ConvNd) for part in model.modules())
    merged, third = _private(family, private=max(1, layers // 3), batchnorm="keep")
    return _told(merged, family, third)


def _with_small_layers(family: Family) -> Chosen:
    """The same with BatchNorm and the smallest layers of each task's own."""
    merged, layers = _small_layers(family)
    return _told(merged, family, layers)


def _routed(family: Family) -> Chosen:
    """The same, each example going through the network of the task that it seems to be of."""
    merged, layers = _small_layers(family)
    routed, report = route(merged, family.own_data(MOST), examples=len(family.tasks) * MOST)
    inferred = zip(family.networks, report.accuracy.values(), strict=True)
    return Chosen(
        routed,
        {"layers": layers, "inferred rightly": {name: round(share, 4) for name, share in inferred}},
    )


def _small_layers(family: Family) -> tuple[TaskNetworks, int]:
    model = next(iter(family.models().values()))
    norms: Literal["keep", "private"] = "private" if has_batchnorm(model) else "keep"
    return family.once("small layers", lambda: _private(family, private=PRIVATE, batchnorm=norms))


def _told(merged: TaskNetworks, family: Family, layers: int) -> Chosen:
    numbers = {name: str(number) for number, name in enumerate(family.networks)}
    networks = {task: merged.for_task(numbers[name]) for task, name in family.own.items()}
    return Chosen(networks, {"layers": layers, "shares": _shares(family)})


def _private(
    family: Family, *, private: int | float, batchnorm: Literal["keep", "private"]
) -> tuple[TaskNetworks, int]:
    """Merge with private layers; the tasks' names are numbers, since those of networks may be any.

    Returns:
        The networks, and how many layers of theirs are private.
    """
    merged, report = merge_with_data(
        list(family.models().values()),
        family.own_data(MOST),
        private=private,
        batchnorm=batchnorm,
        align=family.alignments("activations"),
        weights=_shares(family),
        examples=len(family.tasks) * MOST,
        seed=family.seed,
    )
    assert isinstance(merged, TaskNetworks)
    return merged, len(report.settings["private"])


def _lacks_data(family: Family) -> str | None:
    lacking = [name for name, task in family.tasks.items() if "train" not in task.parts]
    if lacking:
        return f"{', '.join(lacking)} has no training part to look at"
    return "it needs two networks" if len(family.networks) < 2 else None


def _lacks_tasks(family: Family) -> str | None:
    if len(set(family.own.values())) < len(family.networks):
        return "not every network has a task of its own"
    return _lacks_data(family)


ALIGNED_ROWS: Sequence[Row] = (
    *(
        Row(
            f"aligned by {method}, mean, repaired",
            "merge",
            f"hidden units put into one order by {method}, weights averaged, statistics put right "
            "where it helps on validation data",
            partial(_aligned, method),
            _lacks_data,
            save=True,
        )
        for method in ("weights", "activations")
    ),
    Row(
        "RegMean, aligned",
        "merge",
        "aligned; then each layer's weights from the second moments of its inputs in each network "
        "(Jin et al., 2023); statistics re-estimated where there is BatchNorm",
        _with_regmean,
        _lacks_data,
        save=True,
    ),
    Row(
        "least squares, aligned",
        "merge",
        "aligned; then layer after layer fitted to what each network does on its own data, on the "
        "merged network's own inputs; shares of the tasks chosen on validation data",
        _with_least_squares,
        _lacks_data,
        save=True,
        version=2,
    ),
    Row(
        "least squares, last third of the layers per task",
        "merge",
        "the same with the last third of the layers kept apart for each task",
        _with_private_layers,
        _lacks_tasks,
        version=3,
    ),
    Row(
        "least squares, small layers per task",
        "merge",
        "the same with BatchNorm and the smallest layers, up to 5 % of all weights and one at "
        "least, of each task's own; all other weights are shared",
        _with_small_layers,
        _lacks_tasks,
        version=3,
    ),
    Row(
        "least squares, small layers per task, task inferred",
        "merge",
        "the same; but nobody says the task: it is inferred from what the first layer gives, by a "
        "rule from unlabelled training inputs",
        _routed,
        _lacks_tasks,
        version=3,
    ),
)
