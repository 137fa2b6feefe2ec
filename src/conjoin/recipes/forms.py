"""What may stand in a recipe: forms that read a node, and describe themselves to an editor.

A form's `read` gives the value, or MISSING after it has noted a problem; its `schema` gives the
same rules as JSON schema, so that there is one description of the format and not two.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

from conjoin.recipes.nodes import ListNode, Node, ScalarNode, TableNode, describe
from conjoin.recipes.problems import Place, Problems, unknown

__all__ = [
    "MISSING",
    "ByShape",
    "Fields",
    "Form",
    "Found",
    "ListOf",
    "Missing",
    "TableOf",
    "wrong",
]

T = TypeVar("T")


class Missing(Enum):
    """The one value of a node that could not be read."""

    MISSING = "missing"


MISSING = Missing.MISSING
"""What `read` gives after it has noted a problem."""


@dataclass(frozen=True)
class Found(Generic[T]):
    """A value, and where it stands."""

    value: T
    place: Place


class Form(Protocol):
    """What may stand at some place of a recipe."""

    @property
    def expected(self) -> str:
        """What is expected, in words."""

    def read(self, node: Node, problems: Problems) -> Any:
        """Give the value of a node, or note what is wrong with it and give MISSING."""

    def schema(self) -> dict[str, Any]:
        """The same as JSON schema."""


def wrong(form: Form, node: Node, problems: Problems, hint: str = "") -> Missing:
    """Note that a node is not what the form expects, and give MISSING."""
    # A place without a file already is the key.
    key = f"{node.place.key}: " if node.place.path and node.place.key else ""
    problems.add(node.place, f"{key}expected {form.expected}, found {describe(node)}{hint}")
    return MISSING


@dataclass(frozen=True)
class ListOf:
    """A list of at least one."""

    item: Form
    what: str

    @property
    def expected(self) -> str:
        """What is expected, in words."""
        return f"a list of {self.what}"

    def read(self, node: Node, problems: Problems) -> list[Found[Any]] | Missing:
        """Give the items that can be read, each with its place."""
        if not isinstance(node, ListNode) or not node.items:
            return wrong(self, node, problems)
        read = [Found(self.item.read(item, problems), item.place) for item in node.items]
        return [found for found in read if found.value is not MISSING]

    def schema(self) -> dict[str, Any]:
        """The same as JSON schema."""
        return {"type": "array", "items": self.item.schema(), "minItems": 1}


@dataclass(frozen=True)
class TableOf:
    """A table whose keys are free (patterns, say)."""

    item: Form
    what: str

    @property
    def expected(self) -> str:
        """What is expected, in words."""
        return f"a table {self.what}"

    def read(self, node: Node, problems: Problems) -> dict[str, Found[Any]] | Missing:
        """Give the entries that can be read, each with its place."""
        if not isinstance(node, TableNode):
            return wrong(self, node, problems)
        read = {
            key: Found(self.item.read(item, problems), node.keys[key])
            for key, item in node.entries.items()
        }
        return {key: found for key, found in read.items() if found.value is not MISSING}

    def schema(self) -> dict[str, Any]:
        """The same as JSON schema."""
        return {"type": "object", "additionalProperties": self.item.schema()}


@dataclass(frozen=True)
class Fields:
    """A table with known keys.

    Args:
        forms: form of each key.
        what: what the table is.
        required: keys that must be there.
        elsewhere: key -> what to say of it instead of that it is unknown.
    """

    forms: Mapping[str, Form]
    what: str
    required: tuple[str, ...] = ()
    elsewhere: Mapping[str, str] = field(default_factory=dict)

    @property
    def expected(self) -> str:
        """What is expected, in words."""
        return f"{self.what}, a table with some of the keys {', '.join(self.forms)}"

    def read(self, node: Node, problems: Problems) -> dict[str, Found[Any]] | Missing:
        """Give the entries that can be read, each with its place."""
        if not isinstance(node, TableNode):
            return wrong(self, node, problems)
        read: dict[str, Found[Any]] = {}
        for key, item in node.entries.items():
            if key in self.forms:
                read[key] = Found(self.forms[key].read(item, problems), node.keys[key])
            elif key in self.elsewhere:
                problems.add(node.keys[key], f"{key}: {self.elsewhere[key]}")
            else:
                problems.add(node.keys[key], unknown("key", key, self.forms))
        for key in self.required:
            if key not in node.entries:
                problems.add(node.place, f"{self.what} needs the key {key!r}")
        return {key: found for key, found in read.items() if found.value is not MISSING}

    def schema(self) -> dict[str, Any]:
        """The same as JSON schema."""
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {key: form.schema() for key, form in self.forms.items()},
            "additionalProperties": False,
        }
        if self.required:
            schema["required"] = list(self.required)
        return schema


@dataclass(frozen=True)
class ByShape:
    """A single value, or a table: whichever stands there is read by its own form."""

    single: Form
    table: Form

    @property
    def expected(self) -> str:
        """What is expected, in words."""
        return f"{self.single.expected}, or {self.table.expected}"

    def read(self, node: Node, problems: Problems) -> Any:
        """Give what the form for this shape of node gives."""
        if isinstance(node, ListNode) or (isinstance(node, ScalarNode) and node.value is None):
            return wrong(self, node, problems)
        return (self.single if isinstance(node, ScalarNode) else self.table).read(node, problems)

    def schema(self) -> dict[str, Any]:
        """The same as JSON schema."""
        return {"anyOf": [self.single.schema(), self.table.schema()]}
