"""YAML becomes data with places, and nothing else."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from conjoin.errors import RecipeError
from conjoin.recipes.nodes import ListNode, Node, ScalarNode, TableNode
from conjoin.recipes.problems import Problems
from conjoin.recipes.yaml_nodes import parse_yaml, read_text

few = settings(deadline=None, max_examples=60)


def plain(node: Node) -> Any:
    if isinstance(node, ScalarNode):
        return node.value
    if isinstance(node, ListNode):
        return [plain(item) for item in node.items]
    return {key: plain(item) for key, item in node.entries.items()}


def parsed(text: str) -> Any:
    problems = Problems("r.yml")
    node = parse_yaml(text, "r.yml", problems)
    problems.raise_if_any()
    return plain(node)


# Without the letter e: YAML 1.1 writes the text "1e3" without quotes, which is a number here.
TEXT = st.text(st.characters(exclude_characters="eE", exclude_categories=["Cs"]), max_size=8)
SCALARS = (
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(allow_nan=False) | TEXT
)
DATA = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


@few
@given(DATA.filter(lambda data: data is not None), st.booleans())
def test_what_yaml_writes_is_read_back(data: Any, flow: bool):
    assert parsed(yaml.safe_dump({"a": data}, default_flow_style=flow)) == {"a": data}


@few
@given(st.text(max_size=40))
def test_any_text_is_data_or_a_recipe_error(text: str):
    with suppress(RecipeError):
        parsed(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),  # text in YAML 1.1
        ("1E5", 1e5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-3", -3),
        ("yes", "yes"),  # a boolean in YAML 1.1
        ("off", "off"),
        ("010", "010"),  # 8 in YAML 1.1
        ("12:30", "12:30"),  # 750 in YAML 1.1
        ("1_000", "1_000"),
        ("2020-01-01", "2020-01-01"),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ("~", None),
        ("True", True),
        (".inf", float("inf")),
    ],
)
def test_what_a_value_means(text: str, value: Any):
    found = parsed(f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)


def test_places():
    node = parse_yaml("a: 1\nb:\n  - x\n  - c: 2\n", "r.yml", Problems("r.yml"))
    assert isinstance(node, TableNode)
    inner = node.entries["b"]
    assert isinstance(inner, ListNode)
    table = inner.items[1]
    assert isinstance(table, TableNode)
    place = table.entries["c"].place
    assert (place.line, place.column, place.key) == (4, 8, "b[1].c")
    assert (table.keys["c"].line, table.keys["c"].column) == (4, 5)


def test_anchors_and_merge_keys():
    assert parsed("a: &x [1, 2]\nb: *x") == {"a": [1, 2], "b": [1, 2]}
    assert parsed("a: &x {k: 1, l: 2}\nb: {<<: *x, k: 3}")["b"] == {"k": 3, "l": 2}
    assert parsed("a: &x {k: 1}\nb: &y {k: 2, m: 5}\nc: {<<: [*x, *y]}")["c"] == {"k": 1, "m": 5}


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 10)}]\n"
    for old, new in zip("abcdefg", "bcdefgh", strict=True)
)

REFUSED = {
    "a key twice": (
        "a: 1\nb: 2\na: 3\n",
        r"r.yml:3: the key 'a' stands here a second time.*line 1",
    ),
    "two documents": ("a: 1\n---\nb: 2\n", "r.yml:2: a second document"),
    "a tab": ("a:\n\t- b\n", "r.yml:2: .*indent with spaces"),
    "nothing": ("", "r.yml: this is empty"),
    "comments only": ("# hello\n", "r.yml: this is empty"),
    "null": ("~\n", "r.yml: this is empty"),
    "an object": ("a: !!python/object/apply:os.system [true]\n", "r.yml:1: the tag .*not allowed"),
    "a tag of one's own": ("a: !Model x\n", "the tag !Model is not allowed"),
    "a cycle": ("a: &x [1, *x]\n", r"r.yml:1: \*x stands inside of &x"),
    "an alias of nothing": ("a: *x\n", r"\*x refers to nothing"),
    "a bomb": (BOMB, "values once aliases are followed"),
    "too deep": ("[" * 300 + "]" * 300, "nested more than"),
    "unclosed": ("a: [1, 2\nb: 3\n", "r.yml:2: this is no YAML"),
    "a list as key": ("? [1, 2]\n: 3\n", "expected a name as key"),
    "a control character": ("a: \x07\n", "r.yml:1: the character"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str):
    text, message = REFUSED[case]
    with pytest.raises(RecipeError, match=message):
        parsed(text)


def test_files(tmp_path: Path):
    path = tmp_path / "r.yml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")  # a byte order mark
    assert read_text(path) == "a: 1\n"
    path.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(RecipeError, match="r.yml:2: expected UTF-8, found the byte 0xff"):
        read_text(path)
    path.write_bytes(b"x" * 10_000_001)
    with pytest.raises(RecipeError, match="10,000,001 bytes"):
        read_text(path)
    with pytest.raises(RecipeError, match="there is no recipe"):
        read_text(tmp_path / "other.yml")
    with pytest.raises(RecipeError, match="is a folder"):
        read_text(tmp_path)
