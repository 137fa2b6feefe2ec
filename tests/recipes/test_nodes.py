"""Python's own types as nodes."""

from typing import Any

import numpy as np
import pytest
import torch

from conjoin.errors import RecipeError
from conjoin.recipes.nodes import ListNode, ScalarNode, TableNode, describe, from_python
from conjoin.recipes.problems import Place, Problems


def test_places_are_paths_of_keys():
    node = from_python({"a": [1, {"b.*": None}]}, Problems(""))
    assert isinstance(node, TableNode)
    inner = node.entries["a"]
    assert isinstance(inner, ListNode)
    table = inner.items[1]
    assert isinstance(table, TableNode)
    assert table.entries["b.*"].place == Place(key="a[1].b.*")
    assert node.size == 5


@pytest.mark.parametrize("number", [torch.tensor(0.5), np.float32(0.5), np.array(0.5)])
def test_numbers_of_other_libraries(number: Any):
    assert from_python(number, Problems("")) == ScalarNode(0.5, Place())


def test_what_contains_itself_is_refused():
    table: dict[str, Any] = {}
    table["a"] = table
    with pytest.raises(RecipeError, match="does it contain itself"):
        from_python(table, Problems(""))


def test_keys_are_text():
    problems = Problems("")
    from_python({1: 2}, problems)
    with pytest.raises(RecipeError, match="expected text as key, found 1"):
        problems.raise_if_any()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "nothing"),
        (True, "true"),
        (3, "the number 3"),
        ("x" * 100, "the text '" + "x" * 57 + "...'"),
        ([1, 2], "a list of 2"),
        ({}, "an empty table"),
        (dict.fromkeys("abcd"), "a table with the keys a, b, c, ..."),
    ],
)
def test_describe(value: Any, words: str):
    assert describe(from_python(value, Problems(""))) == words
