"""Values in mergekit's YAML: a number, a gradient, or a list of these with filters."""

import math
from dataclasses import dataclass
from typing import Any

from conjoin.recipes.forms import MISSING, Fields, Missing, wrong
from conjoin.recipes.nodes import ListNode, Node, ScalarNode, TableNode
from conjoin.recipes.problems import Problems
from conjoin.recipes.scalar_forms import Text
from conjoin.recipes.values import Gradient, Rule, Scalar, Value

__all__ = ["MergekitValue", "substring"]

# mergekit reads YAML 1.1, where some words are booleans, and takes such a text for one too.
_WORDS = dict.fromkeys(("true", "yes", "on"), True) | dict.fromkeys(("false", "no", "off"), False)


def substring(text: str) -> str:
    """Give the shell pattern that matches what contains a text.

    >>> substring("mlp"), substring("a[0]")
    ('*mlp*', '*a[[]0]*')
    """
    return "*" + "".join(f"[{c}]" if c in "*?[" else c for c in text) + "*"


@dataclass(frozen=True)
class _Plain:
    """A number or boolean, or a list of them over the layers of the slice; also as text."""

    @property
    def expected(self) -> str:
        return "a number, true, false, or a list of these (a gradient)"

    def read(self, node: Node, problems: Problems) -> Scalar | Gradient | Missing:
        if isinstance(node, ScalarNode) and (number := _number(node)) is not None:
            return number
        if isinstance(node, ListNode) and node.items:
            numbers = [_number(item) for item in node.items]
            known = tuple(number for number in numbers if number is not None)
            if len(known) == len(numbers):
                return known[0] if len(known) == 1 else Gradient(known)
        return wrong(self, node, problems)

    def schema(self) -> dict[str, Any]:
        one = {"type": ["number", "boolean", "string"]}
        return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}


def _number(node: Node) -> Scalar | None:
    """The finite number or boolean that stands there, or that a text means."""
    value = node.value if isinstance(node, ScalarNode) else None
    if isinstance(value, str):
        if value.lower() in _WORDS:
            return _WORDS[value.lower()]
        try:
            value = float(value)
        except ValueError:
            return None
    return value if isinstance(value, bool | int | float) and math.isfinite(value) else None


_CONDITION = Fields(
    {"value": _Plain(), "filter": Text("a filter")}, "a value with filter", ("value",)
)


@dataclass(frozen=True)
class MergekitValue:
    """A value as mergekit has it.

    A list of tables {value, filter} gives the value of the first whose filter is a part of the
    tensor's name; without a filter, or with ``*``, it is for all.
    """

    @property
    def expected(self) -> str:
        """What is expected, in words."""
        return "a number, a list of numbers, or a list of tables {value, filter}"

    def read(self, node: Node, problems: Problems) -> Value | Missing:
        """Give the value, with filters as patterns."""
        tables = node.items if isinstance(node, ListNode) else (node,)
        if not any(isinstance(item, TableNode) for item in tables):
            plain = _Plain().read(node, problems)
            return MISSING if plain is MISSING else Value.of(plain, node.place)
        rules = []
        for item in tables:
            read = _CONDITION.read(item, problems)
            if read is MISSING or "value" not in read:
                return MISSING
            text = read["filter"].value if "filter" in read else "*"
            pattern = "*" if text == "*" else substring(text)
            rules.append(Rule(pattern, read["value"].value, item.place))
        return Value(tuple(rules))

    def schema(self) -> dict[str, Any]:
        """The same as JSON schema."""
        one, condition = _Plain().schema(), _CONDITION.schema()
        return {"anyOf": [one, condition, {"type": "array", "items": condition, "minItems": 1}]}
