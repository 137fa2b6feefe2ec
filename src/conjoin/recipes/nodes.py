"""A recipe as a tree of nodes that know their place, from YAML or from Python's own types."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from conjoin.recipes.problems import Place, Problems

__all__ = ["ListNode", "Node", "ScalarNode", "TableNode", "describe", "from_python", "plain"]

_DEEPEST = 200  # parts of a key path; the parts of a pattern in it count too


@dataclass(frozen=True)
class ScalarNode:
    """A single value: None, a boolean, a number or text.

    `word` is text without quotes that YAML 1.1 would take for a boolean: yes, no, on, off.
    """

    value: bool | int | float | str | None
    place: Place
    word: bool = False
    size: int = 1


@dataclass(frozen=True)
class ListNode:
    """Nodes in a row."""

    items: tuple["Node", ...]
    place: Place

    @cached_property
    def size(self) -> int:
        """How many nodes there are, counting an aliased one each time."""
        return 1 + sum(item.size for item in self.items)


@dataclass(frozen=True)
class TableNode:
    """Nodes by key. `keys` has the place of every key."""

    entries: Mapping[str, "Node"]
    place: Place
    keys: Mapping[str, Place] = field(default_factory=dict)

    @cached_property
    def size(self) -> int:
        """How many nodes there are, counting an aliased one each time."""
        return 1 + sum(item.size for item in self.entries.values())


Node = ScalarNode | ListNode | TableNode


def describe(node: Node) -> str:
    """Say what was found, for a message.

    >>> describe(ScalarNode("yes", Place(), word=True))
    "the word 'yes'"
    >>> describe(ListNode((), Place()))
    'an empty list'
    """
    if isinstance(node, ListNode):
        return f"a list of {len(node.items)}" if node.items else "an empty list"
    if isinstance(node, TableNode):
        shown = ", ".join(list(node.entries)[:3]) + (", ..." if len(node.entries) > 3 else "")
        return f"a table with the keys {shown}" if node.entries else "an empty table"
    value = node.value
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        shown = value if len(value) <= 60 else value[:57] + "..."
        return f"the word {shown!r}" if node.word else f"the text {shown!r}"
    return f"the number {value}"


def from_python(value: Any, problems: Problems, place: Place | None = None) -> Node:
    """Turn mappings, sequences and single values into nodes whose places are key paths.

    >>> from_python({"method": "mean"}, Problems("")).entries["method"].place.key
    'method'
    """
    where = place or Place()
    if where.key.count(".") + where.key.count("[") > _DEEPEST:
        problems.stop(where, f"this is nested more than {_DEEPEST} deep; does it contain itself?")
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()  # a number of NumPy or torch, some of which are float as well
    if value is None or isinstance(value, bool | int | float | str):
        return ScalarNode(value, where)
    if hasattr(value, "__fspath__"):
        return ScalarNode(str(value), where)
    if isinstance(value, Mapping):
        entries: dict[str, Node] = {}
        keys: dict[str, Place] = {}
        for key, item in value.items():
            inner = Place(where.path, key=f"{where.key}.{key}".lstrip("."))
            if not isinstance(key, str):
                problems.add(where, f"expected text as key, found {key!r}")
                continue
            entries[key], keys[key] = from_python(item, problems, inner), inner
        return TableNode(entries, where, keys)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        items = (
            from_python(item, problems, Place(where.path, key=f"{where.key}[{i}]"))
            for i, item in enumerate(value)
        )
        return ListNode(tuple(items), where)
    problems.add(where, f"expected a mapping, a list, text, a number or None, found {value!r}")
    return ScalarNode(None, where)


def plain(node: Node) -> Any:
    """Give a tree of nodes as Python's own types.

    >>> plain(from_python({"method": "mean", "models": ("a", "b")}, Problems("")))
    {'method': 'mean', 'models': ['a', 'b']}
    """
    if isinstance(node, ListNode):
        return [plain(item) for item in node.items]
    if isinstance(node, TableNode):
        return {key: plain(item) for key, item in node.entries.items()}
    return node.value
