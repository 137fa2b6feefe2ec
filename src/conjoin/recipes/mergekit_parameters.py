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
from conjoin.recipes.recipe import Part
from conjoin.recipes.scalar_forms import Flag, Whole
from conjoin.recipes.values import Gradient, Rule, Scalar, Value

__all__ = [
    "KNOWN",
    "OF_A_MODEL",
    "OF_THE_METHOD",
    "by_names_of_models",
    "chained",
    "translate",
    "with_defaults",
]

OF_THE_METHOD: Mapping[str, tuple[str, ...]] = {
    "linear": ("normalize",),
    "slerp": ("t",),
    "passthrough": (),
    "task_arithmetic": ("normalize", "lambda", "rescale", "int8_mask"),
    "ties": ("normalize", "lambda", "rescale", "int8_mask"),
    "dare_linear": ("normalize", "lambda", "rescale", "int8_mask"),
    "dare_ties": ("normalize", "lambda", "rescale", "int8_mask"),
    "nuslerp": ("nuslerp_row_wise", "nuslerp_flatten"),
    "multislerp": ("normalize_weights", "eps"),
    "karcher": ("max_iter", "tol"),
    "model_stock": ("filter_wise",),
    "nearswap": ("t",),
    "arcee_fusion": (),
    "della": ("normalize", "lambda", "rescale", "int8_mask"),
    "della_linear": ("normalize", "lambda", "rescale", "int8_mask"),
    "breadcrumbs": ("normalize", "lambda", "rescale", "int8_mask"),
    "breadcrumbs_ties": ("normalize", "lambda", "rescale", "int8_mask"),
    "sce": ("select_topk", "int8_mask"),
    "ram": ("epsilon",),
    "ramplus_tl": ("r", "alpha", "epsilon"),
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
    "nuslerp": ("weight",),
    "multislerp": ("weight",),
    "karcher": (),
    "model_stock": (),
    "nearswap": (),
    "arcee_fusion": (),
    "della": ("weight", "density", "epsilon"),
    "della_linear": ("weight", "density", "epsilon"),
    "breadcrumbs": ("weight", "density", "gamma"),
    "breadcrumbs_ties": ("weight", "density", "gamma"),
    "sce": (),
    "ram": (),
    "ramplus_tl": (),
}
"""... and those that each model may have its own of."""

KNOWN = frozenset(
    key for table in (OF_THE_METHOD, OF_A_MODEL) for keys in table.values() for key in keys
)
"""All parameters that some method has."""

_AT_THE_TOP = ("dtype", "out_dtype", "tokenizer_source", "chat_template", "base_model")


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
        elif key in KNOWN:
            note(f"{found.place}: {key} is no parameter of {name} and changes nothing")
        elif key in _AT_THE_TOP:
            problems.add(
                found.place,
                f"{key!r} is no parameter, and mergekit ignores it here; write it at the top of "
                "the recipe",
            )
        else:
            told = unknown("parameter", key, [*of_model, *of_method])
            problems.add(found.place, f"{told}. mergekit ignores it")
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
    known: Scalar = bool(value) if isinstance(form, Flag) else float(value)
    if isinstance(form, Whole) and float(value).is_integer():
        known = int(value)
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


def chained(first: Mapping[str, Value], then: Mapping[str, Value]) -> dict[str, Value]:
    """Values of which the second are asked where the first say nothing."""
    both = {key: Value((*first[key].rules, *then[key].rules)) for key in first if key in then}
    return {**then, **first, **both}


def by_names_of_models(part: Part, values: Mapping[str, Value], method: Method) -> Part:
    """Say under every model of a slice what its slice and the recipe say of it with filters.

    A layer has one name in its model and another in the stack. mergekit looks up what a model may
    have its own of by the name in the model, at every level; a recipe does that only with what
    stands under the model.

    Args:
        part: the slice.
        values: of the recipe.
        method: of merging.
    """
    outer = chained(part.values, values)
    filtered = {
        key: value
        for key, value in outer.items()
        if key in OF_A_MODEL[method.name] and any(rule.pattern != "*" for rule in value.rules)
    }
    uses = tuple(replace(use, values=chained(use.values, filtered)) for use in part.uses)
    return replace(part, uses=uses)
