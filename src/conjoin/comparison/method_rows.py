"""A row for every method of merging that applies to networks with a common ancestor.

Each is what the method gives by its defaults, its statistics re-estimated. A method that merges
changes of the base has a factor for all of them, and no default is right for every pair: for
these, the factor is chosen on validation data, and the choice stands in the record. One that gives
a network for each task is told the task when it is tested, and marked so.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from conjoin.comparison.choosing import validation_score
from conjoin.comparison.family import Chosen, Family, Row
from conjoin.errors import MethodError
from conjoin.evaluation import Predictor
from conjoin.merging import merge
from conjoin.methods import METHODS, Method, Need
from conjoin.repairing import reestimate_batchnorm

__all__ = ["SCALES", "method_rows"]

SCALES = (0.3, 0.5, 0.7, 1.0, 1.5)
"""Factors of the merged changes that are tried on validation data."""


def method_rows(count: int, *, base: bool) -> tuple[Row, ...]:
    """Give the rows of all methods that can merge so many networks.

    Args:
        count: of networks.
        base: whether they have a common ancestor.
    """
    return tuple(
        Row(
            method.name,
            "merge",
            _about(method),
            partial(_chosen, method.name),
            _lacks_network if method.per_task else _applies,
            version=2 if method.per_task or method.is_random else 1,
        )
        for method in METHODS.values()
        if _fits(method, count, base=base)
    )


def _fits(method: Method, count: int, *, base: bool) -> bool:
    try:
        method.check({}, base=base and Need.BASE in method.needs, weights=False, models=count)
    except MethodError:
        return False
    return True


def _applies(_: Family) -> str | None:
    return None


def _lacks_network(family: Family) -> str | None:
    lacking = [task for task in family.tasks if task not in family.own]
    return f"no network can be run on {', '.join(lacking)}" if lacking else None


def _about(method: Method) -> str:
    choice = "; s chosen on validation data" if _has_scale(method) else ""
    return f"{method.formula}{choice}; statistics re-estimated where there is BatchNorm"


def _has_scale(method: Method) -> bool:
    return "scale" in method.defaults and Need.BASE in method.needs


def _chosen(name: str, family: Family) -> Chosen:
    method = METHODS[name]
    if not _has_scale(method):
        return Chosen(_merged(method, family, {}), {})
    # Made again at the end, rather than kept: networks may be large.
    best = max(
        SCALES,
        key=lambda scale: validation_score(_merged(method, family, {"scale": scale}), family),
    )
    return Chosen(_merged(method, family, {"scale": best}), {"scale": best})


def _merged(method: Method, family: Family, parameters: Mapping[str, Any]) -> Predictor:
    base = family.group.base
    ancestor = base.load() if base is not None and Need.BASE in method.needs else None
    models = list(family.models().values())

    def merged(task: int | None = None) -> nn.Module:
        own = {} if task is None else {"task": task}
        return merge(models, method, base=ancestor, parameters={**parameters, **own})

    if not method.per_task:
        return family.repaired(merged())
    # One network for each task: that of the model which was trained for it.
    names, found = list(family.networks), {}
    for task, name in family.own.items():
        network = merged(task=names.index(name))
        if family.why_not_reestimate() is None:
            network = reestimate_batchnorm(network, *family.statistics([task]))
        found[task] = network
    return found
