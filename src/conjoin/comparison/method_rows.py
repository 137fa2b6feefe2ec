"""A row for every method of merging that applies to networks with a common ancestor.

Each is what the method gives by its defaults, its statistics re-estimated. A method that merges
changes of the base has a factor for all of them, and no default is right for every pair: for
these, the factor is chosen on validation data, and the choice stands in the record.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from conjoin.comparison.choosing import validation_score
from conjoin.comparison.family import Chosen, Family, Row
from conjoin.errors import MethodError
from conjoin.merging import merge
from conjoin.methods import METHODS, Method, Need

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
        )
        for method in METHODS.values()
        if _applies(method, count, base=base)
    )


def _applies(method: Method, count: int, *, base: bool) -> bool:
    try:
        method.check({}, base=base and Need.BASE in method.needs, weights=False, models=count)
    except MethodError:
        return False
    return True


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


def _merged(method: Method, family: Family, parameters: Mapping[str, Any]) -> nn.Module:
    base = family.group.base
    ancestor = base.load() if base is not None and Need.BASE in method.needs else None
    models = list(family.models().values())
    return family.repaired(merge(models, method, base=ancestor, parameters=parameters))
