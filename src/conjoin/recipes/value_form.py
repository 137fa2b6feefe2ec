"""The form of a value of a parameter: one for all tensors, a gradient, or a table by pattern."""

from dataclasses import dataclass
from typing import Any

from conjoin.recipes.forms import MISSING, Fields, Form, Missing, wrong
from conjoin.recipes.nodes import ListNode, Node, ScalarNode, TableNode
from conjoin.recipes.problems import Problems
from conjoin.recipes.scalar_forms import Number
from conjoin.recipes.values import Gradient, Rule, Scalar, Value

__all__ = ["ValueForm"]


@dataclass(frozen=True)
class ValueForm:
    """A value for all tensors, a gradient over the layers, or a table of these by pattern."""

    scalar: Form

    @property
    def expected(self) -> str:
        """What is expected, in words."""
        return f"{self.scalar.expected}, a list of numbers (a gradient), or a table by pattern"

    def read(self, node: Node, problems: Problems) -> Value | Missing:
        """Give the value."""
        if isinstance(node, TableNode) and "gradient" not in node.entries:
            if not node.entries:
                return wrong(self, node, problems)
            rules = [
                Rule(pattern, value, node.keys[pattern])
                for pattern, item in node.entries.items()
                if (value := self._one(item, problems)) is not MISSING
            ]
            return Value(tuple(rules)) if len(rules) == len(node.entries) else MISSING
        value = self._one(node, problems)
        return MISSING if value is MISSING else Value.of(value, node.place)

    def _one(self, node: Node, problems: Problems) -> Scalar | Gradient | Missing:
        if isinstance(node, ScalarNode):
            if node.value is None:
                return wrong(self, node, problems)
            scalar: Scalar | Missing = self.scalar.read(node, problems)
            return scalar
        if not isinstance(self.scalar, Number):
            return wrong(self.scalar, node, problems, "; only numbers have gradients")
        if isinstance(node, ListNode):
            return _gradient(node, self.scalar, problems)
        read = _long(self.scalar).read(node, problems)
        if read is MISSING or "gradient" not in read:
            return MISSING
        gradient: Gradient = read["gradient"].value
        before, after = (read[k].value if k in read else None for k in ("before", "after"))
        return Gradient(gradient.values, before, after)

    def schema(self) -> dict[str, Any]:
        """The same as JSON schema."""
        one = [self.scalar.schema()]
        if isinstance(self.scalar, Number):
            one += [_Numbers(self.scalar).schema(), _long(self.scalar).schema()]
        table = {
            "type": "object",
            "minProperties": 1,
            "not": {"required": ["gradient"]},
            "additionalProperties": {"anyOf": one},
        }
        return {"anyOf": [*one, table]}


def _gradient(node: ListNode, number: Number, problems: Problems) -> Gradient | Missing:
    numbers = [number.read(item, problems) for item in node.items]
    if len(numbers) < 2:
        problems.add(
            node.place,
            f"a gradient over the layers needs at least 2 numbers, found {len(numbers)}; one "
            "number for all layers stands without brackets",
        )
        return MISSING
    values = tuple(value for value in numbers if value is not MISSING)
    return Gradient(values) if len(values) == len(numbers) else MISSING


@dataclass(frozen=True)
class _Numbers:
    """The numbers of a gradient."""

    number: Number

    @property
    def expected(self) -> str:
        return "a list of numbers (a gradient)"

    def read(self, node: Node, problems: Problems) -> Gradient | Missing:
        if not isinstance(node, ListNode):
            return wrong(self, node, problems)
        return _gradient(node, self.number, problems)

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.number.schema(), "minItems": 2}


def _long(number: Number) -> Fields:
    forms: dict[str, Form] = {"gradient": _Numbers(number), "before": number, "after": number}
    return Fields(forms, "a gradient", required=("gradient",))
