"""What arguments may be, and what is said of others."""

import numpy as np
import pytest
import torch
from torch import nn

from conjoin.arguments import as_dtype, as_mapping, as_module, as_numbers, as_whole, plain
from conjoin.errors import InputError


@pytest.mark.parametrize(
    "given",
    [
        [1, 2.5],
        (1, 2.5),
        np.array([1, 2.5], dtype=np.float32),
        torch.tensor([1, 2.5]),
        [np.int64(1), np.float32(2.5)],
        [torch.tensor(1), torch.tensor(2.5)],
        (one for one in (1, 2.5)),
    ],
    ids=lambda one: type(one).__name__,
)
def test_numbers(given):
    found = as_numbers(given, "weights")
    assert found == (1.0, 2.5)
    assert [type(one) for one in found] == [float, float]


@pytest.mark.parametrize(
    "given",
    [0.5, "0.3,0.7", b"12", {"a": 1, "b": 2}, {0: 3, 1: 1}, {0.5}, [None, 1], [[1, 0], [0, 1]],
     ["1", 2], torch.ones(2, 2), torch.tensor(1.0), None, [1j]],
    ids=repr,
)  # fmt: skip
def test_what_are_no_numbers(given):
    with pytest.raises(InputError, match="^weights has to be a list of numbers, not "):
        as_numbers(given, "weights")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), torch.tensor(-torch.inf)])
def test_numbers_that_are_not_finite(bad):
    with pytest.raises(InputError, match="weights has to be finite numbers, not "):
        as_numbers([1, bad], "weights")


@pytest.mark.parametrize("given", [3, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_whole_numbers(given):
    assert type(as_whole(given, "batch_size", 1)) is int


@pytest.mark.parametrize("given", [0, -1, 2.0, "5", None, True, np.float64(2), [2]])
def test_what_are_no_whole_numbers(given):
    with pytest.raises(InputError, match="^batch_size has to be a whole number from 1 on, not "):
        as_whole(given, "batch_size", 1)


def test_modules():
    layer = nn.Linear(1, 1)
    assert as_module(layer) is layer
    with pytest.raises(InputError, match="b has to be .* not OrderedDict; load the state dict"):
        as_module(layer.state_dict(), "b")
    with pytest.raises(InputError, match="not type Linear; pass an instance"):
        as_module(nn.Linear)
    with pytest.raises(InputError, match="the model has to be a torch.nn.Module, not str"):
        as_module("model.pt")


def test_mappings():
    assert as_mapping(None, "keep", "") == {}
    assert as_mapping({"a": 1}, "keep", "") == {"a": 1}
    with pytest.raises(InputError, match=r"keep has to be a mapping such as \{'a': 0\}, not \['a'"):
        as_mapping(["a"], "keep", "{'a': 0}")


@pytest.mark.parametrize("given", ["bfloat16", "torch.bfloat16", torch.bfloat16])
def test_dtypes(given):
    assert as_dtype(given).torch == torch.bfloat16


def test_other_names_of_dtypes():
    assert [as_dtype(name).name for name in ("half", "torch.double")] == ["float16", "float64"]


@pytest.mark.parametrize("given", ["bf17", "nn", np.float32, 16, None, "int8", torch.bool])
def test_what_are_no_dtypes_of_weights(given):
    with pytest.raises(InputError, match="has to be a torch.dtype|weights cannot be"):
        as_dtype(given)


def test_plain_numbers():
    given = {"a": np.float64(0.5), "b": [torch.tensor(2), np.array([1, 2])], "c": "text"}
    assert {name: plain(one) for name, one in given.items()} == {
        "a": 0.5,
        "b": [2, [1, 2]],
        "c": "text",
    }
