"""A checkpoint under other names has the same tensors, kinds and ties."""

import pytest
import torch

from conjoin.checkpoints import Kind, MemoryCheckpoint
from conjoin.merging import Source
from conjoin.recipes.views import RenamedCheckpoint


@pytest.fixture
def inner():
    shared = torch.arange(6.0).reshape(2, 3)
    return MemoryCheckpoint({"embed": shared, "h.0.w": torch.ones(2), "head": shared})


def test_names_data_and_ranges(inner):
    seen = RenamedCheckpoint(inner, {"h.7.w": "h.0.w", "embed": "embed"})
    assert list(seen) == ["h.7.w", "embed"]
    assert torch.equal(seen["h.7.w"], torch.ones(2))
    assert torch.equal(seen.read("embed", 2, 4), torch.tensor([2.0, 3.0]))
    assert seen.reads_ranges("embed") == inner.reads_ranges("embed")
    assert seen.source == inner.source
    with pytest.raises(KeyError, match="no tensor 'h.0.w'"):
        seen["h.0.w"]
    with pytest.raises(KeyError):
        seen.read("h.0.w")


def test_ties_have_the_names_of_the_view(inner):
    seen = RenamedCheckpoint(inner, {"first": "embed", "second": "head"})
    assert seen.specs["second"].alias_of == "first"
    assert RenamedCheckpoint(inner, {"second": "head"}).specs["second"].alias_of is None


def test_kinds_by_the_names_of_the_view(inner):
    names = {"first": "embed", "second": "head", "w": "h.0.w"}
    seen = RenamedCheckpoint(inner, names, {"first": Kind.CONSTANT, "w": Kind.COUNTER})
    assert [spec.kind for spec in seen.specs.values()] == [
        Kind.CONSTANT,
        Kind.CONSTANT,  # tied tensors are one
        Kind.COUNTER,
    ]


def test_where_a_tensor_comes_from(inner):
    seen = RenamedCheckpoint(inner, {"h.7.w": "h.0.w"})
    assert seen.origin(Source(3, seen, "h.7.w")) == Source(3, inner, "h.0.w")
