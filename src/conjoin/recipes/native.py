"""The format of a recipe: which keys it has, and what may stand there.

The reader and the JSON schema are both made of these forms.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from conjoin.checkpoints import Kind
from conjoin.methods import METHODS, Method
from conjoin.recipes.forms import ByShape, Fields, Form, ListOf, Missing, TableOf, wrong
from conjoin.recipes.nodes import Node, ScalarNode
from conjoin.recipes.parameters import parameter_forms, per_model_parameters
from conjoin.recipes.problems import Problems
from conjoin.recipes.scalar_forms import Choice, Flag, LayerRange, Size, Text, Whole
from conjoin.recipes.template_form import Template

__all__ = ["OF_BOTH", "Choosing", "FreeText", "recipe_form"]

_DTYPES = ("bfloat16", "float16", "float32", "float64")
_MODEL = Text("a model (a path, or an id of the Hub)")
_PARAMETERS_OF_ALL = (
    "this is one for all models; write it under `parameters:` of the recipe or the slice"
)


@dataclass(frozen=True)
class Choosing:
    """One of the models that the recipe lists: its name, its number from 0, or ``base``."""

    @property
    def expected(self) -> str:
        """What is expected, in words."""
        return "the name of a model, or its number (the first is 0)"

    def read(self, node: Node, problems: Problems) -> str | int | Missing:
        """Give the name or number."""
        value = node.value if isinstance(node, ScalarNode) else None
        if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
            return wrong(self, node, problems)
        return value

    def schema(self) -> dict[str, Any]:
        """The same as JSON schema."""
        return {"type": ["string", "integer"], "minimum": 0, "minLength": 1}


@dataclass(frozen=True)
class FreeText:
    """Any single value, as text."""

    @property
    def expected(self) -> str:
        """What is expected, in words."""
        return "text"

    def read(self, node: Node, problems: Problems) -> str | Missing:
        """Give the text."""
        if not isinstance(node, ScalarNode) or node.value is None:
            return wrong(self, node, problems)
        value = node.value
        return str(value).lower() if isinstance(value, bool) else str(value)

    def schema(self) -> dict[str, Any]:
        """The same as JSON schema."""
        return {"type": ["string", "number", "boolean"]}


def _vocabulary() -> Fields:
    row = Fields(
        {"from": Choosing(), "token": Text("a token"), "row": Whole(), "everywhere": Flag()},
        "a row",
        ("from",),
    )
    return Fields(
        {
            "of": Choosing(),
            "tokens": TableOf(ByShape(Choosing(), row), "{token: model}"),
            "multiple": Whole(),
            "tensors": ListOf(Text("a pattern"), "patterns"),
        },
        "a vocabulary",
        ("of",),
    )


OF_BOTH: Mapping[str, Form] = {
    "keep": TableOf(Choosing(), "{pattern: model}"),
    "kinds": TableOf(Choice(tuple(kind.value for kind in Kind), "kind"), "{pattern: kind}"),
    "only_some": Choice(("refuse", "keep", "drop")),
    "layers": Text("a pattern"),
    "nonfinite": Choice(("refuse", "allow")),
    "seed": Whole(),
    "output": Fields(
        {
            "shard_size": Size(),
            "format": Choice(("safetensors", "torch"), "format"),
            "files_from": Choosing(),
            "metadata": TableOf(FreeText(), "{key: text}"),
            "chat_template": Template(),
        },
        "the output",
    ),
}
"""Keys that may stand in a recipe of mergekit's too, which ignores them."""


def recipe_form(method: Method | None) -> Fields:
    """Give the form of a recipe.

    Args:
        method: the method, if it is known; it decides which parameters there are.

    >>> list(recipe_form(None).forms)[:3]
    ['method', 'base', 'models']
    """
    values = parameter_forms(method)
    own = {name: form for name, form in values.items() if name in per_model_parameters(method)}
    source: dict[str, Form] = {"model": _MODEL, "align": Text("a file"), "entry": Text("an entry")}
    named = {**source, "name": Text("a name")}
    no_weight = {}
    if method is not None and "weight" not in values:
        no_weight = {"weight": f"{method.name} takes no weights; leave it out, or use linear"}
    elsewhere = {**dict.fromkeys(set(values) - set(own), _PARAMETERS_OF_ALL), **no_weight}
    model = Fields({**named, **own}, "a model", ("model",), elsewhere)
    in_slice = Fields({**named, "layers": LayerRange(), **own}, "a model", ("model",), elsewhere)
    parameters = Fields(values, "the parameters", (), no_weight)
    a_slice = Fields(
        {
            "models": ListOf(ByShape(_MODEL, in_slice), "models"),
            "base_layers": LayerRange(),
            "parameters": parameters,
        },
        "a slice",
        ("models",),
    )
    to_parameters = dict.fromkeys(values, "this is a parameter; write it under `parameters:`")
    return Fields(
        {
            "method": Choice(tuple(METHODS), "method"),
            "base": ByShape(_MODEL, Fields(source, "the base", ("model",))),
            "models": ListOf(ByShape(_MODEL, model), "models"),
            "parameters": parameters,
            "slices": ListOf(a_slice, "slices"),
            "arithmetic": Choice(("float32", "float64"), "dtype"),
            "dtype": Choice(_DTYPES, "dtype"),
            "vocabulary": ByShape(Choosing(), _vocabulary()),
            **OF_BOTH,
        },
        "a recipe",
        ("method",),
        to_parameters,
    )
