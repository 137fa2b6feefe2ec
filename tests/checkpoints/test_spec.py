from pathlib import Path

import pytest
import torch

from conjoin.checkpoints import (
    Kind,
    Spec,
    as_checkpoint,
    kind_by_name,
    open_checkpoint,
    override_kinds,
    save,
)
from conjoin.errors import InputError


@pytest.mark.parametrize(
    ("name", "dtype", "kind"),
    [
        ("fc.weight", torch.float32, Kind.WEIGHT),
        ("fc.weight", torch.complex64, Kind.WEIGHT),
        ("fc.weight", torch.float8_e4m3fn, Kind.WEIGHT),
        ("fc.weight", torch.int8, Kind.CONSTANT),
        ("bn.running_mean", torch.float32, Kind.STATISTIC),
        ("running_var", torch.bfloat16, Kind.STATISTIC),
        ("my_running_var", torch.float32, Kind.WEIGHT),
        ("running_var.weight", torch.float32, Kind.WEIGHT),
        ("bn.num_batches_tracked", torch.int64, Kind.COUNTER),
        ("mask", torch.bool, Kind.CONSTANT),
        ("layers.0.rotary_emb.inv_freq", torch.float32, Kind.CONSTANT),
        ("h.0.attn.masked_bias", torch.float32, Kind.CONSTANT),
        ("layers.0.attn_mask", torch.float32, Kind.CONSTANT),
        ("", torch.float32, Kind.WEIGHT),
    ],
)
def test_kind_by_name(name: str, dtype: torch.dtype, kind: Kind) -> None:
    assert kind_by_name(name, dtype) is kind


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [
        ("h.0.attn.bias", (1, 1, 8, 8), Kind.CONSTANT),  # GPT-2's causal mask
        ("transformer.h.11.attn.bias", (1, 1, 1024, 1024), Kind.CONSTANT),
        ("h.0.attn.bias", (8,), Kind.WEIGHT),
        ("h.0.attn.bias", (1, 4, 8, 8), Kind.WEIGHT),  # one for each head was trained
        ("h.0.attn.c_attn.bias", (1, 1, 8, 8), Kind.WEIGHT),
        ("conv.weight", (1, 1, 3, 3), Kind.WEIGHT),
    ],
)
def test_masks_are_told_by_their_shape(
    name: str, shape: tuple[int, ...], kind: Kind, tmp_path: Path
) -> None:
    assert kind_by_name(name, torch.float32, shape) is kind
    path = save({name: torch.ones(shape)}, tmp_path / "model.safetensors")
    assert open_checkpoint(path).specs[name].kind is kind
    assert as_checkpoint({name: torch.ones(shape)}).specs[name].kind is kind


def test_sizes() -> None:
    assert Spec((), torch.float64, Kind.WEIGHT).nbytes == 8
    assert Spec((3, 0), torch.float64, Kind.WEIGHT).numel == 0


def _specs() -> dict[str, Spec]:
    weight = Spec((1,), torch.float32, Kind.WEIGHT)
    return {"a.x": weight, "a.y": weight, "b": Spec((1,), torch.float32, Kind.WEIGHT, "a.x")}


def test_first_matching_pattern_wins_and_nothing_else_changes() -> None:
    specs = _specs()
    changed = override_kinds(specs, {"a.y": "counter", "a.*": Kind.CONSTANT})
    assert [spec.kind for spec in changed.values()] == [Kind.CONSTANT, Kind.COUNTER, Kind.CONSTANT]
    assert list(changed) == list(specs)
    assert changed["b"].alias_of == "a.x"
    assert specs == _specs()


def test_a_pattern_over_an_alias_means_all_names_of_the_tensor() -> None:
    changed = override_kinds(_specs(), {"b": "constant"})
    assert changed["a.x"].kind is changed["b"].kind is Kind.CONSTANT
    assert changed["a.y"].kind is Kind.WEIGHT


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match=r"'a\.z' matches none.*closest names are 'a\.y'"):
        override_kinds(_specs(), {"a.z": "constant"})


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(InputError, match=r"unknown kind 'wieght'.*'weight', 'statistic'"):
        override_kinds(_specs(), {"b": "wieght"})
