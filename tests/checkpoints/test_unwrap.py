import pytest
import torch
from torch import Tensor

from conjoin.checkpoints.unwrap import unwrap
from conjoin.errors import CheckpointError, InputError

SD = {"fc.weight": torch.ones(2, 2), "fc.bias": torch.zeros(2)}
OTHER = {"fc.weight": torch.zeros(2, 2), "fc.bias": torch.ones(2)}


@pytest.mark.parametrize(
    ("obj", "notes"),
    [
        (SD, []),
        ({}, []),
        ({"state_dict": SD}, ["took the entry 'state_dict'"]),
        (
            {"epoch": 3, "model": SD, "optimizer": {"state": {}, "param_groups": []}},
            ["took the entry 'model' and ignored 'epoch', 'optimizer'"],
        ),
        (
            {"model": {"state_dict": SD}, "step": torch.tensor(3)},
            ["took the entry 'model' and ignored 'step'", "took the entry 'state_dict'"],
        ),
        ({"model": SD, "state_dict": SD}, ["took the entry 'state_dict' and ignored 'model'"]),
        (
            {"pytorch-lightning_version": "2.1", "state_dict": SD, "ema": OTHER},
            ["took the entry 'state_dict' and ignored 'pytorch-lightning_version', 'ema'"],
        ),
        (
            {f"module.{name}": value for name, value in SD.items()},
            ["removed the prefix 'module.' from all names"],
        ),
        (
            {f"_orig_mod.{name}": value for name, value in SD.items()},
            ["removed the component '_orig_mod' from names"],
        ),
        (
            {f"module._orig_mod.{name}": value for name, value in SD.items()},
            [
                "removed the component '_orig_mod' from names",
                "removed the prefix 'module.' from all names",
            ],
        ),
        (
            {"n_averaged": torch.tensor(4)} | {f"module.{name}": SD[name] for name in SD},
            [
                "dropped 'n_averaged', the counter of an averaged model",
                "removed the prefix 'module.' from all names",
            ],
        ),
    ],
)
def test_finds_the_state_dict(obj: object, notes: list[str]) -> None:
    tensors, found = unwrap(obj)
    expected = SD if obj else {}
    assert list(tensors) == list(expected)
    assert all(tensors[name] is expected[name] for name in expected)
    assert found == notes


@pytest.mark.parametrize(
    "tensors",
    [
        {"module.a": torch.ones(1), "head": torch.ones(1)},
        {"model.a": torch.ones(1)},
        {"net.a": torch.ones(1)},
        {"n_averaged": torch.ones(1), "a": torch.ones(1)},
        {"my_orig_mod.a": torch.ones(1)},
        {"modules.a": torch.ones(1)},
    ],
)
def test_other_names_are_kept(tensors: dict[str, Tensor]) -> None:
    assert unwrap(tensors) == (tensors, [])


def test_compiled_parts_within_a_model() -> None:
    tensors, _ = unwrap({"body._orig_mod.a": torch.ones(1), "head": torch.ones(1)})
    assert list(tensors) == ["body.a", "head"]


def test_a_choice_is_an_error_until_it_is_made() -> None:
    saved = {"model": SD, "ema": OTHER, "epoch": 1}
    with pytest.raises(
        CheckpointError, match=r"x\.pt holds tensors under 'model', 'ema'; .*entry="
    ):
        unwrap(saved, source="x.pt")
    tensors, notes = unwrap(saved, entry="ema")
    assert tensors["fc.weight"] is OTHER["fc.weight"]
    assert notes == ["took the entry 'ema' and ignored 'model', 'epoch'"]


def test_an_unknown_wrapper_can_be_named() -> None:
    with pytest.raises(CheckpointError, match="under 'actor', 'critic'"):
        unwrap({"actor": SD, "critic": OTHER})
    assert list(unwrap({"actor": SD, "critic": OTHER}, entry="critic")[0]) == list(OTHER)


@pytest.mark.parametrize("entry", ["emma", "epoch"])
def test_an_entry_must_hold_tensors(entry: str) -> None:
    with pytest.raises(InputError, match=f"no entry '{entry}' .*entries with tensors: 'model'"):
        unwrap({"model": SD, "epoch": 3}, entry=entry)


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        ({"state": {0: {"exp_avg": torch.ones(1)}}, "param_groups": []}, "state of an optimizer"),
        ([torch.ones(1)], "type list, not a dict"),
        (torch.ones(1), "type Tensor, not a dict"),
        ({"epoch": 3}, "holds no tensors; its keys are 'epoch'"),
        ({"a._orig_mod.b": torch.ones(1), "a.b": torch.ones(1)}, r"two tensors named 'a\.b'"),
    ],
)
def test_what_holds_no_state_dict(obj: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        unwrap(obj)


def test_a_dict_that_contains_itself() -> None:
    saved: dict[str, object] = {"x": torch.ones(1)}
    saved["model"] = saved
    with pytest.raises(CheckpointError, match="more than 8 dicts"):
        unwrap(saved)
