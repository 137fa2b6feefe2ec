"""Forms of single values: text, numbers, sizes, ranges of layers."""

import math
import re
from dataclasses import dataclass
from typing import Any

from conjoin.recipes.forms import MISSING, Missing, wrong
from conjoin.recipes.nodes import ListNode, Node, ScalarNode
from conjoin.recipes.problems import Problems, unknown

__all__ = ["Choice", "Flag", "LayerRange", "Number", "Size", "Text", "Whole"]


@dataclass(frozen=True)
class Text:
    """Text that is not empty. A lone number is taken as it is written only between quotes."""

    what: str = "text"

    @property
    def expected(self) -> str:
        """What is expected, in words."""
        return self.what

    def read(self, node: Node, problems: Problems) -> str | Missing:
        """Give the text."""
        if isinstance(node, ScalarNode) and isinstance(node.value, str) and node.value.strip():
            return node.value
        is_number = isinstance(node, ScalarNode) and isinstance(node.value, int | float)
        return wrong(self, node, problems, "; put it between quotes" if is_number else "")

    def schema(self) -> dict[str, Any]:
        """The same as JSON schema."""
        return {"type": "string", "pattern": r"\S", "description": self.what}


@dataclass(frozen=True)
class Number:
    """A finite number, from `low` to `high`."""

    low: float = -math.inf
    high: float = math.inf

    @property
    def expected(self) -> str:
        """What is expected, in words."""
        if math.isinf(self.low) and math.isinf(self.high):
            return "a number"
        return f"a number from {self.low:g} to {self.high:g}"

    def read(self, node: Node, problems: Problems) -> float | Missing:
        """Give the number."""
        value = node.value if isinstance(node, ScalarNode) else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            return wrong(self, node, problems)
        if not math.isfinite(value):
            return wrong(self, node, problems, "; it has to be finite")
        return float(value) if self.low <= value <= self.high else wrong(self, node, problems)

    def schema(self) -> dict[str, Any]:
        """The same as JSON schema."""
        schema: dict[str, Any] = {"type": "number"}
        for key, bound in (("minimum", self.low), ("maximum", self.high)):
            if math.isfinite(bound):
                schema[key] = bound
        return schema


@dataclass(frozen=True)
class Whole:
    """A whole number of at least 0, and less than 2**63."""

    @property
    def expected(self) -> str:
        """What is expected, in words."""
        return "a whole number of at least 0"

    def read(self, node: Node, problems: Problems) -> int | Missing:
        """Give the number."""
        value = node.value if isinstance(node, ScalarNode) else None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
            return wrong(self, node, problems)
        return value

    def schema(self) -> dict[str, Any]:
        """The same as JSON schema."""
        return {"type": "integer", "minimum": 0, "exclusiveMaximum": 2**63}


@dataclass(frozen=True)
class Flag:
    """true or false."""

    @property
    def expected(self) -> str:
        """What is expected, in words."""
        return "true or false"

    def read(self, node: Node, problems: Problems) -> bool | Missing:
        """Give the truth value."""
        if isinstance(node, ScalarNode) and isinstance(node.value, bool):
            return node.value
        hint = ""
        if isinstance(node, ScalarNode) and node.word:
            hint = " (yes, no, on and off are words in a recipe)"
        return wrong(self, node, problems, hint)

    def schema(self) -> dict[str, Any]:
        """The same as JSON schema."""
        return {"type": "boolean"}


@dataclass(frozen=True)
class Choice:
    """One of several words."""

    options: tuple[str, ...]
    what: str = "value"

    @property
    def expected(self) -> str:
        """What is expected, in words."""
        return "one of " + ", ".join(self.options)

    def read(self, node: Node, problems: Problems) -> str | Missing:
        """Give the word."""
        if not isinstance(node, ScalarNode) or not isinstance(node.value, str):
            return wrong(self, node, problems)
        if node.value not in self.options:
            problems.add(node.place, unknown(self.what, node.value, self.options))
            return MISSING
        return node.value

    def schema(self) -> dict[str, Any]:
        """The same as JSON schema."""
        return {"enum": list(self.options)}


_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)B\s*")
_POWERS = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4}


@dataclass(frozen=True)
class Size:
    """Bytes: a whole number, or text with a unit: 5 GB (10**9 bytes), 4 GiB (2**30 bytes)."""

    @property
    def expected(self) -> str:
        """What is expected, in words."""
        return "a size of at least 1 byte, like 5 GB or 512 MiB"

    def read(self, node: Node, problems: Problems) -> int | Missing:
        """Give the number of bytes."""
        value = node.value if isinstance(node, ScalarNode) else None
        if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
            value = round(float(match[1]) * (1024 if match[3] else 1000) ** _POWERS[match[2]])
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            return wrong(self, node, problems)
        return value

    def schema(self) -> dict[str, Any]:
        """The same as JSON schema."""
        pattern = rf"^{_SIZE.pattern}$"
        return {
            "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": pattern}]
        }


@dataclass(frozen=True)
class LayerRange:
    """``[first, end]``: the layers first, ..., end - 1."""

    @property
    def expected(self) -> str:
        """What is expected, in words."""
        return "two whole numbers [first, end] with first < end, the end not included"

    def read(self, node: Node, problems: Problems) -> tuple[int, int] | Missing:
        """Give first and end."""
        items = node.items if isinstance(node, ListNode) else ()
        numbers = [
            item.value
            for item in items
            if isinstance(item, ScalarNode)
            and isinstance(item.value, int)
            and not isinstance(item.value, bool)
        ]
        if len(items) != 2 or len(numbers) != 2:
            return wrong(self, node, problems)
        first, end = numbers
        if not 0 <= first < end:
            problems.add(node.place, f"expected {self.expected}, found [{first}, {end}]")
            return MISSING
        return first, end

    def schema(self) -> dict[str, Any]:
        """The same as JSON schema."""
        item = {"type": "integer", "minimum": 0}
        return {"type": "array", "items": item, "minItems": 2, "maxItems": 2}
