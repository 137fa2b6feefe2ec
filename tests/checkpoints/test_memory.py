import numpy as np
import pytest
import torch
from torch import nn

from conjoin.checkpoints import Kind, MemoryCheckpoint, Spec
from conjoin.errors import CheckpointError


def _aliases(tensors: dict[str, torch.Tensor]) -> dict[str, str | None]:
    return {name: spec.alias_of for name, spec in MemoryCheckpoint(tensors).specs.items()}


def test_the_same_view_of_the_same_memory_is_tied() -> None:
    weight = torch.randn(2, 3)
    tensors = {"a": weight, "b": weight.view(2, 3), "c": weight.detach(), "d": weight.clone()}
    assert _aliases(tensors) == {"a": None, "b": "a", "c": "a", "d": None}


def test_two_storages_over_the_same_memory_are_tied() -> None:
    array = np.arange(3.0)
    assert _aliases({"a": torch.from_numpy(array), "b": torch.from_numpy(array)})["b"] == "a"


def test_overlapping_views_are_ordinary() -> None:
    square = torch.randn(3, 3)
    tensors = {
        "whole": square,
        "transposed": square.T,
        "flat": square.view(-1),
        "row": square[0],
        "next": square[1],
        "bits": square.view(torch.int32),
    }
    assert set(_aliases(tensors).values()) == {None}


def test_conjugates_are_not_tied() -> None:
    z = torch.randn(3, dtype=torch.complex64)
    assert _aliases({"z": z, "conjugate": z.conj()})["conjugate"] is None


@pytest.mark.parametrize("like", [torch.empty(0), torch.empty(2, device="meta")])
def test_without_memory_only_the_same_object_is_tied(like: torch.Tensor) -> None:
    other = torch.empty_like(like)
    assert _aliases({"a": like, "b": other, "c": like}) == {"a": None, "b": None, "c": "a"}


def test_a_tied_tensor_has_the_kind_of_its_first_name() -> None:
    x = torch.randn(2)
    specs = MemoryCheckpoint({"bn.running_mean": x, "mean": x}).specs
    assert specs["mean"].kind is Kind.STATISTIC


def test_tensors_are_detached_and_not_copied() -> None:
    weight = nn.Parameter(torch.randn(2))
    found = MemoryCheckpoint({"w": weight})["w"]
    assert not found.requires_grad
    assert type(found) is torch.Tensor
    assert found.data_ptr() == weight.data_ptr()


def test_later_changes_of_the_mapping_do_not_show() -> None:
    tensors = {"w": torch.zeros(2)}
    checkpoint = MemoryCheckpoint(tensors)
    tensors["x"] = torch.zeros(1)
    assert list(checkpoint) == ["w"]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"epoch": 3}, "'epoch' in memory is of type int, not a tensor; pass names and tensors"),
        ({"fc._extra_state": None}, "extra state of a module.*remove the key"),
        ({"state_dict": {}}, r"pass it alone: \['state_dict'\]"),
        ({3: torch.zeros(1)}, "the key 3 in memory is of type int"),
        ({"s": torch.eye(2).to_sparse()}, "layout torch.sparse_coo.*to_dense"),
        ({"u": nn.LazyLinear(2).weight}, "run one batch"),
    ],
)
def test_what_is_no_tensor_is_refused(tensors: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        MemoryCheckpoint(tensors)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"x": Spec((2,), torch.float32, Kind.WEIGHT)}, "1 only in the tensors: 'w'"),
        ({"w": Spec((3,), torch.float32, Kind.WEIGHT)}, r"'w' in memory is \(2,\)"),
        ({"w": Spec((2,), torch.float16, Kind.WEIGHT)}, "its spec says .* torch.float16"),
    ],
)
def test_specs_must_fit(spec: dict[str, Spec], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        MemoryCheckpoint({"w": torch.zeros(2)}, spec)
