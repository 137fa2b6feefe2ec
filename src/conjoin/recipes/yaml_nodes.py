"""YAML -> nodes with places. Nothing is ever constructed from a tag.

The tree is built from the parser's events, so that what the language offers beyond data can be
refused at its line: tags, a second document, a key twice, aliases that contain themselves or
multiply. Values without quotes mean what they mean in YAML 1.2, which is what most people expect:
``1e-3`` is a number, ``yes`` is a word, ``010`` and ``12:30`` are text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from conjoin.errors import RecipeError
from conjoin.recipes.nodes import ListNode, Node, ScalarNode, TableNode
from conjoin.recipes.problems import Place, Problems

__all__ = ["parse_yaml", "read_text"]

_MOST_NODES = 100_000  # more than any recipe has; aliases of aliases grow beyond any number
_DEEPEST = 50
_LARGEST = 10_000_000  # bytes: somebody gave a checkpoint for a recipe

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE, _FALSE = frozenset({"true", "True", "TRUE"}), frozenset({"false", "False", "FALSE"})
_WORDS = frozenset({"yes", "no", "on", "off", "y", "n"})
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_NUMBER = re.compile(
    r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
    r"|(?P<infinite>[-+]?\.(?:inf|Inf|INF))|(?P<nan>\.(?:nan|NaN|NAN))"
)
_STANDARD = "tag:yaml.org,2002:"
_TAGS = frozenset(_STANDARD + name for name in ("str", "int", "float", "bool", "null"))


def read_text(path: Path) -> str:
    """Read a file as UTF-8, with or without a byte order mark.

    Raises:
        RecipeError: it is not there, no file, not UTF-8, or far too large for a recipe.
    """
    try:
        if path.is_dir():
            raise RecipeError(f"{path} is a folder; a recipe is a YAML file in it, say")
        if path.stat().st_size > _LARGEST:
            raise RecipeError(f"{path} has {path.stat().st_size:,} bytes; a recipe is a text file")
        data = path.read_bytes()
    except FileNotFoundError:
        raise RecipeError(f"there is no recipe {path}") from None
    except OSError as error:
        raise RecipeError(f"the recipe {path} cannot be read: {error.strerror}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"{path}:{line}: expected UTF-8, found the byte 0x{data[error.start]:02x}; save the "
            "file as UTF-8"
        ) from None


def parse_yaml(text: str, path: str, problems: Problems) -> Node:
    r"""Parse one YAML document.

    Args:
        text: the document.
        path: what to call it in messages.
        problems: where to note keys that stand twice, tags, and what else is refused.

    Raises:
        RecipeError: it is no YAML, is empty, or has several documents; with what was noted before.

    >>> node = parse_yaml("a: 1e-3\nb: [x, 2]", "recipe.yml", Problems("recipe.yml"))
    >>> node.entries["a"].value, str(node.entries["b"].items[1].place)
    (0.001, 'recipe.yml:2')
    """
    parser = _Parser(path, problems, _events(text, path, problems))
    root = parser.document()
    if root is None:
        problems.stop(Place(path), "this is empty; a recipe has at least `method:` and `models:`")
    return root


def _events(text: str, path: str, problems: Problems) -> Iterator[Any]:
    try:
        yield from yaml.parse(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = getattr(mark, "line", 0) + 1
        told = ", ".join(part for part in (error.context, error.problem) if part)
        hint = "; indent with spaces" if "\\t" in told else ""
        problems.stop(Place(path, line), f"this is no YAML: {told}{hint}")
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problems.stop(Place(path, line), f"the character {error.character!r} has no place in YAML")


@dataclass
class _Parser:
    path: str
    problems: Problems
    events: Iterator[Any]
    anchors: dict[str, Node | None] = field(default_factory=dict)  # None while it is open

    def document(self) -> Node | None:
        """The one document there is, or None."""
        root: Node | None = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    self.problems.stop(
                        self.place(event, ""),
                        "a second document starts here; a recipe is one document. Write one file "
                        "for each, and give the result of the first as a model of the second",
                    )
                root = self.node(next(self.events), "", 0)
                if isinstance(root, ScalarNode) and root.value is None:
                    root = None
        return root

    def place(self, event: Any, key: str) -> Place:
        return Place(self.path, event.start_mark.line + 1, event.start_mark.column + 1, key)

    def node(self, event: Any, key: str, depth: int) -> Node:
        place = self.place(event, key)
        if isinstance(event, yaml.AliasEvent):
            return self.alias(str(event.anchor), place)
        if depth > _DEEPEST:
            self.problems.stop(place, f"this is nested more than {_DEEPEST} deep")
        self.check_tag(event, place)
        anchor = event.anchor
        if anchor is not None:
            self.anchors[anchor] = None
        node: Node
        if isinstance(event, yaml.SequenceStartEvent):
            node = self.sequence(place, key, depth)
        elif isinstance(event, yaml.MappingStartEvent):
            node = self.mapping(place, key, depth)
        else:
            node = _scalar(event, place)
        if node.size > _MOST_NODES:
            self.problems.stop(place, f"this has {node.size:,} values once aliases are followed")
        if anchor is not None:
            self.anchors[anchor] = node
        return node

    def alias(self, name: str, place: Place) -> Node:
        if name not in self.anchors:
            self.problems.add(place, f"*{name} refers to nothing; &{name} has to stand before it")
            return ScalarNode(None, place)
        found = self.anchors[name]
        if found is None:
            self.problems.add(place, f"*{name} stands inside of &{name}, so it would never end")
            return ScalarNode(None, place)
        return found

    def check_tag(self, event: Any, place: Place) -> None:
        known = (
            _TAGS if isinstance(event, yaml.ScalarEvent) else {_STANDARD + "seq", _STANDARD + "map"}
        )
        if event.tag not in (None, "!", *known):
            shown = event.tag.replace(_STANDARD, "!!")
            self.problems.add(place, f"the tag {shown} is not allowed; recipes are plain data")

    def sequence(self, place: Place, key: str, depth: int) -> ListNode:
        items: list[Node] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.node(event, f"{key}[{len(items)}]", depth + 1))
        return ListNode(tuple(items), place)

    def mapping(self, place: Place, key: str, depth: int) -> TableNode:
        entries: dict[str, Node] = {}
        keys: dict[str, Place] = {}
        merged: list[Node] = []
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            where = self.place(event, key)
            name = self.key(event, where, depth)
            value = self.node(next(self.events), f"{key}.{name}".lstrip("."), depth + 1)
            if name is None:
                continue
            if name == "<<" and event.style is None:
                merged += value.items if isinstance(value, ListNode) else [value]
            elif name in entries:
                self.problems.add(
                    where,
                    f"the key {name!r} stands here a second time, after line {keys[name].line}",
                )
            else:
                entries[name], keys[name] = value, where
        for table in merged:
            if not isinstance(table, TableNode):
                self.problems.add(table.place, "expected a table to merge in with '<<'")
                continue
            for name, value in table.entries.items():
                if name not in entries:
                    entries[name], keys[name] = value, table.keys[name]
        return TableNode(entries, place, keys)

    def key(self, event: Any, place: Place, depth: int) -> str | None:
        node = self.node(event, place.key, depth + 1)
        if isinstance(event, yaml.ScalarEvent):
            return str(event.value)  # as written: `on` and `12` are names too
        if isinstance(node, ScalarNode) and isinstance(node.value, str):
            return node.value  # an alias of a text
        self.problems.add(place, "expected a name as key, found a list or a table")
        return None


def _scalar(event: Any, place: Place) -> ScalarNode:
    text = str(event.value)
    if event.style is not None or event.tag in ("!", _STANDARD + "str"):
        return ScalarNode(text, place)
    if text in _NULL:
        return ScalarNode(None, place)
    if text in _TRUE or text in _FALSE:
        return ScalarNode(text in _TRUE, place)
    if _WHOLE.fullmatch(text) and len(text) < 30:
        return ScalarNode(int(text), place)
    if number := _NUMBER.fullmatch(text):
        if number["nan"] or number["infinite"]:
            return ScalarNode(float(text.replace(".", "")), place)
        return ScalarNode(float(text), place)
    return ScalarNode(text, place, word=text.lower() in _WORDS)
