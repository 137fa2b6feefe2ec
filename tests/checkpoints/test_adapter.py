import json
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from conjoin.checkpoints import Checkpoint, MemoryCheckpoint, open_adapter, open_checkpoint, save
from conjoin.errors import CheckpointError

PREFIX = "base_model.model."


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator).to(dtype)


def write(folder: Path, tensors: Mapping[str, Tensor], **settings: Any) -> Path:
    """Write an adapter as PEFT does; names are given without PEFT's prefix."""
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    named = {PREFIX + name: tensor for name, tensor in tensors.items()}
    save(named, folder / "adapter_model.safetensors", overwrite=True)
    return folder


def pair(module: str, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    return {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}


def test_by_hand(tmp_path: Path) -> None:
    base = MemoryCheckpoint({"x.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}, source="base")
    a = torch.tensor([[1.0, 0.0], [0.0, 10.0]])
    b = torch.tensor([[1.0, 0.0], [2.0, 1.0]])
    # B A = [[1, 0], [2, 10]], and the scale is 4 / 2.
    adapted = open_adapter(base, write(tmp_path, pair("x", a, b)))
    assert adapted["x.weight"].tolist() == [[3, 2], [7, 24]]
    assert adapted.read("x.weight", 1, 3).tolist() == [2, 7]
    assert repr(adapted) == f"<Adapted of base + {tmp_path}: 1 tensor, 16 bytes>"
    # With rank stabilization it is 4 / sqrt(2).
    write(tmp_path, pair("x", a, b), use_rslora=True)
    change = 2 * torch.tensor(2.0).sqrt() * torch.tensor([[1.0, 0.0], [2.0, 10.0]])
    assert torch.allclose(open_adapter(base, tmp_path)["x.weight"], base["x.weight"] + change)
    # Stored as [in, out], the change is transposed.
    write(tmp_path, pair("x", a, b), fan_in_fan_out=True)
    assert open_adapter(base, tmp_path)["x.weight"].tolist() == [[3, 6], [3, 24]]


def matrix(kind: str, a: np.ndarray, b: np.ndarray) -> Any:
    """B A of one tensor in float64, from the definition of each kind."""
    if kind == "conv":
        return np.einsum("or,r...->o...", b.reshape(b.shape[:2]), a)
    product = b @ a
    return product if kind == "linear" else product.T


@pytest.mark.parametrize(
    ("kind", "shape", "of_a", "of_b", "settings"),
    [
        ("linear", (7, 5), (2, 5), (7, 2), {}),
        ("linear", (7, 5), (2, 5), (7, 2), {"use_rslora": True}),
        ("linear", (7, 5), (3, 5), (7, 3), {"rank_pattern": {"x": 3}, "alpha_pattern": {"y": 9}}),
        ("linear", (7, 5), (2, 5), (7, 2), {"alpha_pattern": {r"block\.\d+\.x": 0.5, "x": 9}}),
        ("linear", (7, 5), (2, 5), (7, 2), {"fan_in_fan_out": True}),  # a Linear among Conv1D
        ("turned", (5, 7), (2, 5), (7, 2), {"fan_in_fan_out": True}),
        ("turned", (6, 6), (2, 6), (6, 2), {"fan_in_fan_out": True}),
        ("embedding", (9, 4), (2, 9), (4, 2), {}),
        ("embedding", (4, 4), (2, 4), (4, 2), {}),
        ("conv", (6, 3, 2, 2), (2, 3, 2, 2), (6, 2, 1, 1), {}),
        ("conv", (6, 3, 1, 1), (2, 3, 1, 1), (6, 2, 1, 1), {}),
        ("conv", (6, 3, 5), (2, 3, 5), (6, 2, 1), {}),
        ("conv", (6, 3, 1, 2, 3), (2, 3, 1, 2, 3), (6, 2, 1, 1, 1), {}),
    ],
)
def test_every_kind_of_layer_in_float64(
    tmp_path: Path,
    kind: str,
    shape: tuple[int, ...],
    of_a: tuple[int, ...],
    of_b: tuple[int, ...],
    settings: dict[str, Any],
) -> None:
    name = "block.1.x"
    a, b, weight = normal(*of_a, seed=1), normal(*of_b, seed=2), normal(*shape, seed=3)
    ends = ("lora_embedding_A", "lora_embedding_B")
    if kind != "embedding":
        ends = ("lora_A.weight", "lora_B.weight")
    tensors = {f"{name}.{ends[0]}": a, f"{name}.{ends[1]}": b}
    base = MemoryCheckpoint({f"{name}.weight": weight, "other": normal(3)})
    adapted = open_adapter(base, write(tmp_path, tensors, **settings))
    alpha = settings.get("alpha_pattern", {}).get(r"block\.\d+\.x", 4)
    rank = of_a[0] ** (0.5 if settings.get("use_rslora") else 1)
    product = matrix(kind, a.double().numpy(), b.double().numpy())
    expected = weight.double().numpy() + alpha / rank * product
    assert adapted[f"{name}.weight"].shape == shape
    assert np.allclose(adapted[f"{name}.weight"].numpy(), expected, rtol=1e-5, atol=1e-5)
    assert adapted["other"].data_ptr() == base["other"].data_ptr()
    double = MemoryCheckpoint({f"{name}.weight": weight.double()})
    exact = open_adapter(double, tmp_path)[f"{name}.weight"]
    assert np.allclose(exact.numpy(), expected, rtol=1e-13, atol=1e-13)


def test_dora_by_hand(tmp_path: Path) -> None:
    base = MemoryCheckpoint({"x.weight": torch.tensor([[1.0, 4.0], [0.0, 5.0]])})
    tensors = {
        **pair("x", torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [6.0, 0.0]])),
        "x.lora_magnitude_vector": torch.tensor([10.0, 26.0]),
    }
    # W + 2 B A = [[3, 4], [12, 5]], whose rows have the norms 5 and 13.
    adapted = open_adapter(base, write(tmp_path, tensors, use_dora=True))
    assert adapted["x.weight"].tolist() == [[6, 8], [24, 10]]
    assert adapted.read("x.weight", 1, 3).tolist() == [8, 24]
    # Stored as [in, out]: [[3, 16], [0, 5]]^T has the columns [3, 0] and [16, 5].
    write(tmp_path, tensors, use_dora=True, fan_in_fan_out=True)
    turned = open_adapter(base, tmp_path)["x.weight"]
    second = 26 / math.hypot(16, 5)
    expected = torch.tensor([[10.0, 16 * second], [0.0, 5 * second]])
    torch.testing.assert_close(turned, expected)


def test_dora_of_peft(tmp_path: Path) -> None:
    # The result is that of merge_and_unload() of PEFT 0.21.2.
    base = MemoryCheckpoint({"x.weight": torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.25, -0.5]])})
    a = torch.tensor([[0.5, 1.0, -0.25], [-1.0, 0.75, 0.5]])
    b = torch.tensor([[1.0, -0.5], [0.25, 2.0]])
    tensors = {**pair("x", a, b), "x.lora_magnitude_vector": torch.tensor([1.25, 0.75])}
    adapted = open_adapter(base, write(tmp_path, tensors, use_dora=True))
    expected = torch.tensor(
        [[1.15562534, 0.11556254, 0.46225014], [-0.36810580, 0.61350965, 0.22495355]]
    )
    torch.testing.assert_close(adapted["x.weight"], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("kind", "shape", "of_a", "of_b", "of_m", "outputs"),
    [
        ("linear", (7, 5), (2, 5), (7, 2), (7,), 0),
        ("turned", (5, 7), (2, 5), (7, 2), (7,), 1),
        ("turned", (6, 6), (2, 6), (6, 2), (6,), 1),
        ("embedding", (9, 4), (2, 9), (4, 2), (4,), 1),
        ("conv", (6, 3, 2, 2), (2, 3, 2, 2), (6, 2, 1, 1), (1, 6, 1, 1), 0),
        ("conv", (6, 3, 5), (2, 3, 5), (6, 2, 1), (1, 6, 1), 0),
        ("conv", (1, 3, 5), (2, 3, 5), (1, 2, 1), (1, 1, 1), 0),
        # Of several blocks of rows.
        ("linear", (301, 777), (2, 777), (301, 2), (301,), 0),
        ("turned", (777, 301), (2, 777), (301, 2), (301,), 1),
    ],
)
def test_dora_of_every_kind_of_layer(
    tmp_path: Path,
    kind: str,
    shape: tuple[int, ...],
    of_a: tuple[int, ...],
    of_b: tuple[int, ...],
    of_m: tuple[int, ...],
    outputs: int,
) -> None:
    a, b, weight = normal(*of_a, seed=1), normal(*of_b, seed=2), normal(*shape, seed=3)
    magnitude = normal(*of_m, seed=4).abs()
    ends = ("lora_embedding_A", "lora_embedding_B")
    if kind != "embedding":
        ends = ("lora_A.weight", "lora_B.weight")
    tensors = {f"x.{ends[0]}": a, f"x.{ends[1]}": b, "x.lora_magnitude_vector": magnitude}
    settings = {"use_dora": True, "fan_in_fan_out": kind == "turned"}
    adapted = open_adapter(
        MemoryCheckpoint({"x.weight": weight}), write(tmp_path, tensors, **settings)
    )
    changed = weight.double().numpy() + 2 * matrix(kind, a.double().numpy(), b.double().numpy())
    others = tuple(axis for axis in range(len(shape)) if axis != outputs)
    norms = np.sqrt(np.square(changed).sum(others, keepdims=True))
    each = magnitude.double().numpy().reshape(norms.shape)
    assert np.allclose(adapted["x.weight"].numpy(), each * changed / norms, rtol=1e-5, atol=1e-6)


def test_dora_needs_a_direction(tmp_path: Path) -> None:
    base = MemoryCheckpoint({"x.weight": torch.tensor([[0.0, 0.0], [3.0, 4.0]])}, source="base")
    tensors = {
        **pair("x", normal(2, 2), torch.zeros(2, 2)),
        "x.lora_magnitude_vector": torch.tensor([1.0, 10.0]),
    }
    adapted = open_adapter(base, write(tmp_path, tensors, use_dora=True))
    with pytest.raises(CheckpointError, match=r"output of 'x\.weight' in base .* no direction"):
        adapted["x.weight"]
    tensors["x.lora_magnitude_vector"] = torch.tensor([0.0, 10.0])
    adapted = open_adapter(base, write(tmp_path, tensors, use_dora=True))
    assert adapted["x.weight"].tolist() == [[0, 0], [6, 8]]


def test_dora_of_a_tensor_that_the_adapter_has_whole(tmp_path: Path) -> None:
    base = MemoryCheckpoint({"e.weight": torch.zeros(3, 2)})
    tensors = {
        "e.lora_embedding_A": torch.ones(1, 3),
        "e.lora_embedding_B": torch.ones(2, 1),
        "e.base_layer.weight": torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]]),
        "e.lora_magnitude_vector": torch.tensor([6.0, 3.0]),
    }
    adapted = open_adapter(base, write(tmp_path, tensors, r=1, lora_alpha=1, use_dora=True))
    # Columns [1, 2, 2] and [2, 2, 1], both of norm 3.
    assert adapted["e.weight"].tolist() == [[2, 2], [4, 2], [4, 1]]


@pytest.fixture(scope="module", params=[False, True], ids=["lora", "dora"])
def large(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Several blocks of rows, the last of them not whole; in bfloat16."""
    folder = tmp_path_factory.mktemp("large")
    base = {"x.weight": normal(301, 777), "emb.weight": normal(1001, 129), "x.bias": normal(301)}
    tensors = {
        **pair("x", normal(16, 777, seed=1), normal(301, 16, seed=2)),
        "x.lora_B.bias": normal(301, seed=3),
        "emb.lora_embedding_A": normal(16, 1001, seed=4),
        "emb.lora_embedding_B": normal(129, 16, seed=5),
    }
    if request.param:
        magnitudes = {"x": normal(301, seed=6), "emb": normal(129, seed=7)}
        tensors |= {f"{n}.lora_magnitude_vector": m for n, m in magnitudes.items()}
    half = {name: tensor.bfloat16() for name, tensor in base.items()}
    return open_adapter(
        MemoryCheckpoint(half), write(folder, tensors, r=16, use_dora=request.param)
    )


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_range_has_the_bits_of_the_whole(large: Checkpoint, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(list(large)))
    numel = large.specs[name].numel
    start, stop = sorted(data.draw(st.integers(0, numel)) for _ in range(2))
    assert torch.equal(large.read(name, start, stop), large[name].reshape(-1)[start:stop])


def test_bits_do_not_depend_on_threads(large: Checkpoint) -> None:
    threads = torch.get_num_threads()
    found = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            found.append({name: large[name] for name in large})
    finally:
        torch.set_num_threads(threads)
    for name in large:
        assert torch.equal(found[0][name], found[1][name])
        assert torch.equal(found[0][name], found[2][name])


def test_it_is_rounded_once(tmp_path: Path) -> None:
    # bfloat16's numbers are 2 apart above 256, and 2^-7 above 1: a change of 1 + 2^-8 that was
    # rounded by itself would be 1, and 257 would be rounded to 256, which is even.
    base = MemoryCheckpoint({"x.weight": torch.full((1, 1), 256, dtype=torch.bfloat16)})
    a, b = torch.tensor([[1 + 2**-8], [0.0]]), torch.ones(1, 2)
    adapted = open_adapter(base, write(tmp_path, pair("x", a, b), lora_alpha=2))
    assert adapted["x.weight"].dtype == torch.bfloat16
    assert adapted["x.weight"].item() == 258


def test_modules_trained_whole_and_biases(tmp_path: Path) -> None:
    base = MemoryCheckpoint(
        {
            "x.weight": torch.zeros(3, 2, dtype=torch.float16),
            "x.bias": torch.zeros(3),
            "norm.weight": torch.zeros(2, dtype=torch.float16),
        }
    )
    tensors = {
        **pair("x", normal(2, 2), normal(3, 2)),
        "x.base_layer.bias": torch.ones(3),
        "x.lora_B.bias": torch.ones(3),
        "norm.weight": torch.full((2,), 1.5),
        "norm.original_module.weight": torch.full((2,), 7.0),
        "head.out.weight": torch.ones(1, 2),
    }
    folder = write(tmp_path, tensors, modules_to_save=["norm", "head"])
    adapted = open_adapter(base, folder)
    assert list(adapted) == ["x.weight", "x.bias", "norm.weight", "head.out.weight"]
    assert adapted["x.bias"].tolist() == [3, 3, 3]  # 1, and the scale of 2 times 1
    assert adapted["norm.weight"].tolist() == [1.5, 1.5]
    assert adapted["norm.weight"].dtype == torch.float16
    assert adapted["head.out.weight"].dtype == torch.float32
    assert adapted.files == (folder / "adapter_config.json", folder / "adapter_model.safetensors")
    write(tmp_path, tensors)
    with pytest.raises(CheckpointError, match=r"head\.out\.weight.*neither part of a LoRA pair"):
        open_adapter(base, folder)


def test_a_pair_is_added_to_what_replaces_its_tensor(tmp_path: Path) -> None:
    # An embedding that is adapted and saved too has both.
    base = MemoryCheckpoint({"e.weight": torch.zeros(3, 2)})
    tensors = {
        "e.lora_embedding_A": torch.ones(1, 3),
        "e.lora_embedding_B": torch.ones(2, 1),
        "e.base_layer.weight": torch.full((3, 2), 10.0),
    }
    adapted = open_adapter(base, write(tmp_path, tensors, r=1, lora_alpha=1))
    assert adapted["e.weight"].tolist() == [[11, 11]] * 3


def test_ranges_in_files_of_what_is_not_changed(tmp_path: Path) -> None:
    file = save({"x.weight": torch.ones(3, 3), "other": torch.ones(2)}, tmp_path / "b.safetensors")
    base = open_checkpoint(file)
    adapted = open_adapter(base, write(tmp_path, pair("x", normal(2, 3), normal(3, 2))))
    assert adapted.in_file("other") == base.in_file("other")
    assert adapted.in_file("x.weight") is None
    assert adapted.files[0] == file
    again = pickle.loads(pickle.dumps(adapted))
    assert torch.equal(again["x.weight"], adapted["x.weight"])


@pytest.mark.parametrize(
    ("base", "tensors", "settings", "message"),
    [
        ({"y.weight": (3, 3)}, pair("x", normal(2, 3), normal(3, 2)), {},
         r"'base_model\.model\.x\.lora_A\.weight' and .*lora_B.* change the tensor 'x\.weight', "
         r"which base lacks \(closest: 'y\.weight'\)"),
        ({"x.weight": (3, 4)}, pair("x", normal(2, 3), normal(3, 2)), {},
         r"lora_A\.weight' \[2, 3\] and .*lora_B\.weight' \[3, 2\].* 'x\.weight' \[3, 4\] of base"),
        ({"x.weight": (5, 3)}, pair("x", normal(2, 5), normal(3, 2)), {}, "it fits transposed"),
        ({"x.weight": (3, 3)}, pair("x", normal(2, 3), normal(3, 3)), {}, r"fit 'x\.weight'"),
        ({"x.weight": (3, 3)}, pair("x", normal(4, 3), normal(3, 4)), {}, "says rank 2 for 'x'"),
        ({"x.weight": (4, 2, 3)}, pair("x", normal(2, 2, 3), normal(4, 1, 1)), {}, "do not fit"),
        ({"x.weight": (3, 3)}, {"x.lora_A.weight": normal(2, 3)}, {}, "not its pair .*lora_B"),
        ({"x.weight": (3, 3)}, {"x.lora_B.weight": normal(3, 2)}, {}, "lora_B.weight.*unknown"),
        ({"x.weight": (3, 3)},
         {**pair("x", normal(2, 3), normal(3, 2)), "x.lora_magnitude_vector": normal(3)}, {},
         '"use_dora" is not true .* has .*lora_magnitude_vector'),
        ({"x.weight": (3, 3)}, pair("x", normal(2, 3), normal(3, 2)), {"use_dora": True},
         '"use_dora" is true .* lacks .*lora_magnitude_vector'),
        ({"x.weight": (3, 4)},
         {**pair("x", normal(2, 4), normal(3, 2)), "x.lora_magnitude_vector": normal(4)},
         {"use_dora": True}, r"lora_magnitude_vector' \[4\] .* do not fit 'x\.weight' \[3, 4\]"),
        ({"x.weight": (3, 3)}, {"x.weight": normal(4, 3)}, {}, r"replace.*\[4, 3\], not \[3, 3\]"),
        ({"x.weight": (3, 3), "x.bias": (3,)}, {"x.lora_B.bias": normal(4)}, {}, "do not fit"),
        ({"x.weight": (3, 3)}, {"x.lora_B.bias": normal(3)}, {}, "which base lacks"),
    ],
)  # fmt: skip
def test_what_does_not_fit(
    tmp_path: Path,
    base: dict[str, tuple[int, ...]],
    tensors: dict[str, Tensor],
    settings: dict[str, Any],
    message: str,
) -> None:
    checkpoint = MemoryCheckpoint(
        {name: torch.zeros(shape) for name, shape in base.items()}, source="base"
    )
    with pytest.raises(CheckpointError, match=message):
        open_adapter(checkpoint, write(tmp_path, tensors, **settings))


def test_bases_that_cannot_be_changed(tmp_path: Path) -> None:
    folder = write(tmp_path, pair("x", normal(2, 3), normal(3, 2)))
    weight = torch.zeros(3, 3)
    with pytest.raises(CheckpointError, match="are tied in memory"):
        open_adapter(MemoryCheckpoint({"x.weight": weight, "head.weight": weight}), folder)
    with pytest.raises(CheckpointError, match="are tied in memory"):
        open_adapter(MemoryCheckpoint({"head.weight": weight, "x.weight": weight}), folder)
    with pytest.raises(CheckpointError, match=r"quantized \(torch\.uint8\)"):
        open_adapter(MemoryCheckpoint({"x.weight": weight.byte()}), folder)
    scaled = {"x.weight": weight.to(torch.float8_e4m3fn), "x.weight_scale_inv": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"quantized \(torch\.float8"):
        open_adapter(MemoryCheckpoint(scaled), folder)


def test_names_without_pefts_prefix(tmp_path: Path) -> None:
    folder = write(tmp_path, {})
    save(
        pair("x", normal(2, 3), normal(3, 2)), folder / "adapter_model.safetensors", overwrite=True
    )
    with pytest.raises(CheckpointError, match="does not begin with 'base_model.model.'"):
        open_adapter(MemoryCheckpoint({"x.weight": torch.zeros(3, 3)}), folder)


def test_an_adapter_saved_by_torch(tmp_path: Path) -> None:
    a, b, bias = normal(2, 3), normal(3, 2), torch.ones(3)
    folder = write(tmp_path, {})
    (folder / "adapter_model.safetensors").unlink()
    base = MemoryCheckpoint({"x.weight": torch.zeros(3, 3), "x.bias": torch.zeros(3)})
    with pytest.raises(CheckpointError, match="neither adapter_model.safetensors nor"):
        open_adapter(base, folder)
    tensors = {**pair("x", a, b), "x.lora_B.bias": bias}
    named = {PREFIX + name: tensor for name, tensor in tensors.items()}
    torch.save(named, folder / "adapter_model.bin")
    adapted = open_adapter(base, folder)
    for _ in range(2):  # what is read are views of the file in memory, which must not change
        assert torch.allclose(adapted["x.weight"], 2 * b @ a)
        assert adapted["x.bias"].tolist() == [2, 2, 2]
    assert base["x.bias"].tolist() == [0, 0, 0]
