import json
import math

import numpy as np
import pytest
import torch

from conjoin.checkpoints import open_checkpoint, save


def report(run, *arguments, code=0):
    return json.loads(run("diff", *arguments, "--json", code=code).stdout)


def test_numbers_are_those_of_numpy_in_float64(run, two):
    rows = {row["name"]: row for row in report(run, *two)["tensors"]}
    a, b = map(open_checkpoint, two)
    assert list(rows) == list(a)
    for name, row in rows.items():
        x, y = (source[name].double().numpy().ravel() for source in (a, b))
        assert row["l2"] == pytest.approx(np.linalg.norm(x - y))
        assert row["relative"] == pytest.approx(np.linalg.norm(x - y) / np.linalg.norm(x))
        assert row["cosine"] == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
        assert row["max_abs"] == np.abs(x - y).max()


def test_an_adapter_has_moved_what_it_changes(run, tmp_path):
    weights = {f"model.layers.0.{part}.weight": torch.eye(2) for part in ("up", "down")}
    (tmp_path / "base").mkdir()
    save(weights, tmp_path / "base/model.safetensors")
    lora = tmp_path / "lora"
    lora.mkdir()
    name = "base_model.model.model.layers.0.up"
    factors = {"A": torch.tensor([[1.0, 2.0]]), "B": torch.tensor([[3.0], [4.0]])}
    save({f"{name}.lora_{k}.weight": v for k, v in factors.items()}, lora / "adapter_model.bin")
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 0.5, "target_modules": ["up"]}
    (lora / "adapter_config.json").write_text(json.dumps(config))
    found = report(run, tmp_path / "base", f"{tmp_path / 'base'}+{lora}")
    moved = {row["name"]: row["l2"] for row in found["tensors"]}
    expected = 0.5 * np.linalg.norm([[3.0, 6.0], [4.0, 8.0]])
    assert moved == {
        "model.layers.0.up.weight": pytest.approx(expected),
        "model.layers.0.down.weight": 0.0,
    }


def test_layers_and_totals(run, two):
    found = report(run, *two)
    assert [(row["name"], row["kind"]) for row in found["layers"]] == [
        ("conv", "weight"),
        ("bn", "weight"),
        ("bn", "statistic"),
        ("bn", "counter"),
        ("classifier", "weight"),
    ]
    weights = [row["l2"] for row in found["tensors"] if row["kind"] == "weight"]
    assert found["totals"][0]["l2"] == pytest.approx(math.hypot(*weights))
    text = run("diff", *two, "--layers").stdout
    assert "classifier " in text
    assert "classifier.weight" not in text
    assert "classifier.weight" in run("diff", *two).stdout


def test_sort(run, tmp_path):
    a = {name: torch.zeros(1) for name in "pqrs"}
    b = {n: torch.tensor([v]) for n, v in zip("pqrs", [1.0, 3.0, math.nan, 2.0], strict=True)}
    paths = save(a, tmp_path / "a.pt"), save(b, tmp_path / "b.pt")
    order = [row["name"] for row in report(run, *paths, "--sort", "distance")["tensors"]]
    assert order == ["r", "q", "s", "p"]
    assert [row["name"] for row in report(run, *paths)["tensors"]] == ["p", "q", "r", "s"]


def test_structure(run, tmp_path):
    a = {"x": torch.ones(2), "y": torch.ones(2), "w\x1b": torch.ones(1)}
    b = {"x": torch.ones(2).half(), "y": torch.ones(3), "v": torch.ones(1)}
    paths = save(a, tmp_path / "a.safetensors"), save(b, tmp_path / "b.safetensors")
    found = report(run, *paths)
    assert (found["only_first"], found["only_second"]) == (["w\x1b"], ["v"])
    assert found["shapes"] == {"y": [[2], [3]]}
    assert found["dtypes"] == {"x": ["float32", "float16"]}
    assert [row["name"] for row in found["tensors"]] == ["x"]
    assert found["different"] is True
    lines = run("diff", *paths).stdout.splitlines()
    assert "only in A: w\\x1b" in lines
    assert "only in B: v" in lines
    assert "shape differs: y: [2] in A, [3] in B" in lines
    assert "dtype differs: x: float32 in A, float16 in B" in lines


def test_nothing_in_common(run, tmp_path):
    paths = [save({n: torch.ones(1)}, tmp_path / f"{n}.safetensors") for n in "ab"]
    assert "No tensor is in both" in run("diff", *paths).stdout


def test_nan_and_infinity_are_null_in_json(run, tmp_path):
    paths = [save({"x": torch.tensor([v])}, tmp_path / f"{v}.safetensors") for v in (0.0, math.nan)]
    (row,) = report(run, *paths)["tensors"]
    assert (row["l2"], row["cosine"]) == (None, None)
    assert "nan" in run("diff", *paths).stdout


def test_exit_codes(run, two, tmp_path):
    run("diff", *two, code=0)
    run("diff", *two, "--exit-code", code=1)
    same = run("diff", two[0], two[0], "--exit-code", code=0)
    assert "The files have the same tensors." in same.stdout
    half = save({"x": torch.ones(1).half()}, tmp_path / "h.safetensors")
    full = save({"x": torch.ones(1)}, tmp_path / "f.safetensors")
    run("diff", half, full, "--exit-code", code=1)
    run("diff", half, tmp_path / "missing", code=1)
    run("diff", half, tmp_path / "missing", "--exit-code", code=2)
    run("diff", half, code=2)


def test_nan_in_the_same_place_is_no_difference(run, tmp_path):
    path = save({"x": torch.tensor([math.nan])}, tmp_path / "a.safetensors")
    run("diff", path, path, "--exit-code", code=0)
