"""Rows of networks that are brought into one order first, and of merges that look at data."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from conjoin.alignment import Alignment, align
from conjoin.batches import Inputs
from conjoin.comparison.examples import first_pairs
from conjoin.comparison.family import Chosen, Family, Row
from conjoin.errors import InputError, TraceError
from conjoin.fitting import merge_with_data
from conjoin.merging import merge
from conjoin.repairing import repair

__all__ = ["ALIGNED_ROWS"]

COMPARED = 500
"""Examples of each task that activations are compared on."""

MOST = 2000
"""Examples of each task that statistics, and fits, are made on; fewer if the settings say so."""


def _inputs(family: Family, count: int) -> dict[str, list[tuple[Inputs, Tensor]]]:
    """Give training data of each network's own tasks; of all tasks if it has none of its own.

    With labels, which nothing looks at, since several inputs could be taken for inputs and labels.
    """
    found = {}
    for name in family.networks:
        own = [task for task, network in family.own.items() if network == name]
        found[name] = [
            pair
            for task in own or family.tasks
            for pair in first_pairs(
                family.tasks[task].parts["train"](), count, task, batch_size=250
            )
        ]
    return found


def _validation(family: Family) -> dict[str, Any]:
    return {name: task.parts["validation"]() for name, task in family.tasks.items()}


def _count(family: Family) -> int:
    return min(MOST, family.settings.statistics)


def _alignments(method: str, family: Family) -> list[Alignment]:
    """Align the networks of a family, once for all rows."""
    if method not in family.alignments:
        models = list(family.models().values())
        compared = [b for part in _inputs(family, COMPARED).values() for b in part]
        family.alignments[method] = align(
            models,
            symmetries=family.symmetries,
            data=None if method == "weights" else compared,
            method=method,
            seed=family.seed,
        )
    return family.alignments[method]


def _aligned(method: str, family: Family) -> Chosen:
    """The mean of networks in one order, its statistics put right if that is better."""
    models = list(family.models().values())
    pairs = zip(_alignments(method, family), models, strict=True)
    parents = [one.apply(model) for one, model in pairs]
    inputs = _inputs(family, _count(family))
    repaired, report = repair(
        merge(parents), parents, list(inputs.values()), validation=_validation(family)
    )
    return Chosen(repaired, {"repair": report.chosen})


def _with_data(method: str, family: Family) -> Chosen:
    """One network, fitted to what each does on its own data; shares chosen on validation data."""
    chosen = method == "least_squares" and len(family.tasks) > 1
    merged, report = merge_with_data(
        list(family.models().values()),
        list(_inputs(family, _count(family)).values()),
        method,
        align=_alignments("activations", family),
        weights="auto" if chosen else None,
        validation=_validation(family) if chosen else None,
        examples=_count(family),
        seed=family.seed,
    )
    return Chosen(merged, {"shares": report.settings["weights"]} if chosen else {})


def _with_private_layers(family: Family) -> Chosen:
    """The same with the last third of the layers kept apart, for each task the one of its own."""
    models = list(family.models().values())
    private = max(1, sum(isinstance(m, nn.Linear | _ConvNd) for m in models[0].modules()) // 3)
    merged, _ = merge_with_data(
        models,
        list(_inputs(family, _count(family)).values()),
        private=private,
        names=list(family.networks),
        align=_alignments("activations", family),
        examples=_count(family),
        seed=family.seed,
    )
    networks: dict[str, nn.Module] = {
        task: merged.for_task(name)  # type: ignore[operator]
        for task, name in family.own.items()
    }
    return Chosen(networks, {"layers": private})


def _if_it_can_be(make: Callable[[Family], Chosen], family: Family) -> Chosen:
    """Make a row of networks that may be of any kind: if they are not fit for it, leave it out."""
    try:
        return make(family)
    except InputError as error:
        raise TraceError(str(error)) from error


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
            partial(_if_it_can_be, partial(_aligned, method)),
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
        partial(_if_it_can_be, partial(_with_data, "regmean")),
        _lacks_data,
        save=True,
    ),
    Row(
        "least squares, aligned",
        "merge",
        "aligned; then layer after layer fitted to what each network does on its own data, on the "
        "merged network's own inputs; shares of the tasks chosen on validation data",
        partial(_if_it_can_be, partial(_with_data, "least_squares")),
        _lacks_data,
        save=True,
    ),
    Row(
        "least squares, last third of the layers per task",
        "merge",
        "the same with the last third of the layers kept apart for each task",
        partial(_if_it_can_be, _with_private_layers),
        _lacks_tasks,
    ),
)
