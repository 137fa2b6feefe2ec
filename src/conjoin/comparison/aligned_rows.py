"""Rows of networks that are brought into one order first, and of merges that look at data."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from conjoin.alignment import align
from conjoin.batches import Inputs
from conjoin.comparison.examples import first_pairs
from conjoin.comparison.family import Chosen, Family, Row
from conjoin.fitting import merge_with_data
from conjoin.merging import merge
from conjoin.repairing import repair
from conjoin.symmetry import find_symmetries

__all__ = ["ALIGNED_ROWS", "PRIVATE"]

COMPARED = 500
"""Examples of each task that activations are compared on."""

PRIVATE = (1, 3, 5)
"""So many of the last layers are kept for each task; one row for each."""


def _inputs(family: Family, count: int) -> dict[str, list[Inputs]]:
    """Give training inputs of each network's own tasks; of all tasks if it has none of its own."""
    found = {}
    for name in family.networks:
        own = [task for task, network in family.own.items() if network == name]
        found[name] = [
            inputs
            for task in own or family.tasks
            for inputs, _ in first_pairs(
                family.tasks[task].parts["train"](), count, task, batch_size=250
            )
        ]
    return found


def _validation(family: Family) -> dict[str, Any]:
    return {name: task.parts["validation"]() for name, task in family.tasks.items()}


def _aligned(method: str, family: Family) -> Chosen:
    """The mean of networks in one order, its statistics put right if that is better."""
    models = list(family.models().values())
    inputs = _inputs(family, family.settings.statistics)
    example = family.examples(next(iter(family.tasks)))
    compared = [b for part in _inputs(family, COMPARED).values() for b in part]
    found = align(
        models,
        symmetries=find_symmetries(models[0], example, seed=family.seed),
        data=None if method == "weights" else compared,
        method=method,
        seed=family.seed,
    )
    parents = [one.apply(model) for one, model in zip(found, models, strict=True)]
    repaired, report = repair(
        merge(parents), parents, list(inputs.values()), validation=_validation(family)
    )
    return Chosen(repaired, {"repair": report.chosen})


def _with_data(method: str, family: Family) -> Chosen:
    """One network, fitted to what each does on its own data; all choices on validation data."""
    merged, report = merge_with_data(
        list(family.models().values()),
        list(_inputs(family, family.settings.statistics).values()),
        method,
        weights="auto" if method == "least_squares" else None,
        validation=_validation(family),
        examples=family.settings.statistics,
        seed=family.seed,
    )
    return Chosen(merged, report.settings)


def _with_private_layers(private: int, family: Family) -> Chosen:
    """The same with the last layers kept apart, for each task the one of its own network."""
    merged, report = merge_with_data(
        list(family.models().values()),
        list(_inputs(family, family.settings.statistics).values()),
        private=private,
        names=list(family.networks),
        align="activations",
        examples=family.settings.statistics,
        seed=family.seed,
    )
    networks: dict[str, nn.Module] = {
        task: merged.for_task(name)  # type: ignore[operator]
        for task, name in family.own.items()
    }
    return Chosen(networks, report.settings)


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
            start=method == "activations",
        )
        for method in ("weights", "activations")
    ),
    Row(
        "RegMean, aligned",
        "merge",
        "aligned; then each layer's weights from the second moments of its inputs in each network "
        "(Jin et al., 2023); statistics re-estimated where there is BatchNorm",
        partial(_with_data, "regmean"),
        _lacks_data,
        save=True,
    ),
    Row(
        "least squares, aligned",
        "merge",
        "aligned; then layer after layer fitted to what each network does on its own data, on the "
        "merged network's own inputs; alignment and shares chosen on validation data",
        partial(_with_data, "least_squares"),
        _lacks_data,
        save=True,
        start=True,
    ),
    *(
        Row(
            f"least squares, last {count} layers per task" if count > 1 else
            "least squares, last layer per task",
            "merge",
            f"the same with the last {count} layers kept apart for each task"
            if count > 1 else "the same with the last layer kept apart for each task",
            partial(_with_private_layers, count),
            _lacks_tasks,
        )
        for count in PRIVATE
    ),
)  # fmt: skip
