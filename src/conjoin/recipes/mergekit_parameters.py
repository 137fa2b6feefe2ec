"""Parameters of mergekit's methods as conjoin's: names, values and defaults."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from conjoin.methods import (
    MERGEKIT_DEFAULTS,
    MERGEKIT_IGNORED,
    MERGEKIT_NAMES,
    MERGEKIT_VALUES,
    Method,
)
from conjoin.recipes.forms import Form, Found
from conjoin.recipes.nodes import ScalarNode
from conjoin.recipes.parameters import parameter_forms
from conjoin.recipes.problems import Place, Problems, unknown
from conjoin.recipes.scalar_forms import Flag
from conjoin.recipes.values import Gradient, Rule, Scalar, Value

__all__ = ["OF_A_MODEL", "OF_THE_METHOD", "translate", "with_defaults"]

OF_THE_METHOD: Mapping[str, tuple[str, ...]] = {
    "linear": ("normalize",),
    "slerp": ("t",),
    "passthrough": (),
    "task_arithmetic": ("normalize", "lambda", "rescale", "int8_mask"),
    "ties": ("normalize", "lambda", "rescale", "int8_mask"),
    "dare_linear": ("normalize", "lambda", "rescale", "int8_mask"),
    "dare_ties": ("normalize", "lambda", "rescale", "int8_mask"),
}
"""mergekit's parameters of each method that are one for all models."""

OF_A_MODEL: Mapping[str, tuple[str, ...]] = {
    "linear": ("weight",),
    "slerp": (),
    "passthrough": ("scale",),
    "task_arithmetic": ("weight", "density"),
    "ties": ("weight", "density"),
    "dare_linear": ("weight", "density"),
    "dare_ties": ("weight", "density"),
}
"""... and those that each model may have its own of."""


def translate(
    table: Mapping[str, Found[Value]],
    method: Method,
    problems: Problems,
    note: Callable[[str], None],
    *,
    of_a_model: bool = False,
) -> dict[str, Value]:
    """Give our parameters for mergekit's.

    Args:
        table: mergekit's parameters at one level.
        method: the method.
        problems: where to note what cannot be used.
        note: called with what is left out without harm.
        of_a_model: whether they stand under a model, where only some may.
    """
    name = method.name
    of_method, of_model = OF_THE_METHOD[name], OF_A_MODEL[name]
    values: dict[str, Value] = {}
    for key, found in table.items():
        if key in MERGEKIT_IGNORED.get(name, ()):
            note(f"{key} changes nothing in the result of {name}")
        elif key in of_model or (key in of_method and not of_a_model):
            ours, value = _translated(key, found.value, method, problems)
            values[ours] = value
        elif key in of_method:
            problems.add(
                found.place,
                f"{key!r} is for all models; mergekit ignores it here. Write it under the "
                "`parameters:` of the recipe or of the slice",
            )
        elif any(key in (*OF_THE_METHOD[m], *OF_A_MODEL[m]) for m in OF_THE_METHOD):
            note(f"{found.place}: {key} is no parameter of {name} and changes nothing")
        else:
            problems.add(found.place, unknown("parameter", key, [*of_model, *of_method]))
    return values


def _translated(key: str, value: Value, method: Method, problems: Problems) -> tuple[str, Value]:
    """The name and the value of ours that mean the same."""
    name = method.name
    ours = "weight" if key == "weight" else MERGEKIT_NAMES.get(name, {}).get(key, key)
    table = MERGEKIT_VALUES.get(name, {}).get(key)
    form = parameter_forms(method)[ours]
    rules = [
        replace(rule, value=_converted(rule.value, form.scalar, table, rule.place, problems))
        for rule in value.rules
    ]
    return ours, Value(tuple(rules))


def _converted(
    value: Scalar | Gradient,
    form: Form,
    table: Mapping[Any, Any] | None,
    place: Place,
    problems: Problems,
) -> Scalar | Gradient:
    if isinstance(value, Gradient):
        return Gradient(
            tuple(_one(scalar, form, table, place, problems) for scalar in value.values)
        )
    return _one(value, form, table, place, problems)


def _one(
    value: Scalar, form: Form, table: Mapping[Any, Any] | None, place: Place, problems: Problems
) -> Scalar:
    if table is not None:
        mapped: Scalar = table[bool(value)]
        return mapped
    # In mergekit every parameter is a number: 1 is true, and true is 1.
    known = bool(value) if isinstance(form, Flag) else float(value)
    form.read(ScalarNode(known, place), problems)  # notes what is out of range
    return known


def with_defaults(values: Mapping[str, Value], method: Method) -> dict[str, Value]:
    """Fill in the defaults that mergekit has, for tensors that no filter of a table matches too."""
    filled = dict(values)
    for key, default in MERGEKIT_DEFAULTS.get(method.name, {}).items():
        rules = filled[key].rules if key in filled else ()
        if not any(rule.pattern == "*" for rule in rules):
            filled[key] = Value((*rules, Rule("*", default)))
    return filled
