"""What may stand in mergekit's YAML."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from conjoin.recipes.forms import ByShape, Fields, Form, Found, ListOf, Missing, TableOf
from conjoin.recipes.mergekit_parameters import KNOWN
from conjoin.recipes.mergekit_values import MergekitValue
from conjoin.recipes.native import OF_BOTH
from conjoin.recipes.nodes import Node, TableNode
from conjoin.recipes.problems import Problems
from conjoin.recipes.scalar_forms import Choice, Flag, LayerRange, Text, Whole
from conjoin.recipes.template_form import Template
from conjoin.recipes.values import Value

__all__ = ["MERGEKIT_FORM"]

_DTYPES = tuple(
    prefix + name
    for prefix in ("", "torch.")
    for name in ("bfloat16", "float16", "float32", "float64")
)

_PATH = ByShape(
    Text("a path"), Fields({"path": Text("a path"), "revision": Text()}, "a path", ("path",))
)
_MODEL = ByShape(
    Text("a model"),
    Fields({"model": _PATH, "lora": _PATH, "override_architecture": Text()}, "a model", ("model",)),
)


@dataclass(frozen=True)
class _Parameters(TableOf):
    """Parameters, of which those that no method has are not read: it is the name that is wrong."""

    def read(self, node: Node, problems: Problems) -> dict[str, Found[Any]] | Missing:
        """Give the values that can be read, each with its place; of unknown ones an empty one."""
        if not isinstance(node, TableNode):
            return super().read(node, problems)
        known = {key: inner for key, inner in node.entries.items() if key in KNOWN}
        read = super().read(TableNode(known, node.place, node.keys), problems)
        assert isinstance(read, dict)
        unread = {key: Found(Value(()), node.keys[key]) for key in node.entries if key not in KNOWN}
        return read | unread


_VALUES = _Parameters(MergekitValue(), "of parameters")
_TO_PARAMETERS = dict.fromkeys(
    KNOWN, "mergekit ignores this parameter here; write it one level deeper, under `parameters:`"
)
_OF_A_MODEL = {
    "revision": "mergekit ignores this key; write `model: NAME@REVISION`",
    **_TO_PARAMETERS,
}
_MODELS = ListOf(
    Fields({"model": _MODEL, "parameters": _VALUES}, "a model", ("model",), _OF_A_MODEL), "models"
)
_SOURCE = Fields(
    {"model": _MODEL, "layer_range": LayerRange(), "parameters": _VALUES},
    "a source",
    ("model", "layer_range"),
    _OF_A_MODEL,
)
_SLICES = ListOf(
    Fields(
        {"sources": ListOf(_SOURCE, "sources"), "base_model": _MODEL, "parameters": _VALUES},
        "a slice",
        ("sources",),
        {
            "residual_weight": "mergekit ignores this key; leave it out",
            "merge_method": "mergekit ignores this key here; all slices are merged by one method, "
            "which stands at the top of the recipe",
            **_TO_PARAMETERS,
        },
    ),
    "slices",
)
_ROW = ByShape(
    Text("a model"),
    Fields(
        {
            "kind": Choice(("zero", "model_token")),
            "model": ByShape(Text("a model"), Fields({"model": _PATH, "lora": _PATH}, "a model")),
            "lora": _PATH,
            "token": Text("a token"),
            "token_id": Whole(),
        },
        "whose row it is",
    ),
)
_TOKENIZER = Fields(
    {
        "source": _MODEL,
        "tokens": TableOf(Fields({"source": _ROW, "force": Flag()}, "a token"), "{token: ...}"),
        "pad_to_multiple_of": Whole(),
    },
    "a tokenizer",
)
_INPUTS: Mapping[str, Form] = {"models": _MODELS, "slices": _SLICES}
MERGEKIT_FORM = Fields(
    {
        "merge_method": Text("a method"),
        **_INPUTS,
        "modules": TableOf(Fields({**_INPUTS, "parameters": _VALUES}, "a module"), "of modules"),
        "base_model": _MODEL,
        "parameters": _VALUES,
        "dtype": Choice(_DTYPES, "dtype"),
        "out_dtype": Choice(_DTYPES, "dtype"),
        "tokenizer_source": _MODEL,
        "tokenizer": _TOKENIZER,
        "chat_template": Template(),
        "name": Text("a name"),
        **OF_BOTH,
    },
    "a recipe of mergekit",
    ("merge_method",),
    {
        **_TO_PARAMETERS,
        "random_seed": "mergekit ignores this key; write `seed:`",
        "int8_mask": "mergekit ignores this key here; leave it out",
    },
)
