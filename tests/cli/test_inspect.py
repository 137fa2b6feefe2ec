import json
import math

import pytest
import torch

from conjoin.checkpoints import save

HOSTILE = "a[red]b\x1b[31m\u202e:smile:\nc"


@pytest.fixture
def file(tmp_path):
    shared = torch.tensor([1.0, math.nan, math.inf])
    tensors = {"embed": shared, "bn.running_var": torch.ones(2, 2), "head": shared}
    return save(tensors, tmp_path / "m.safetensors", metadata={"note": "x\x1b[2J"})


def test_json(run, file):
    report = json.loads(run("inspect", file, "--json").stdout)
    assert report["tensors"][1] == {
        "name": "bn.running_var",
        "shape": [2, 2],
        "dtype": "float32",
        "kind": "statistic",
        "tied_to": None,
        "elements": 4,
        "bytes": 16,
        "nan": 0,
        "inf": 0,
    }
    assert report["tensors"][2]["tied_to"] == "embed"
    assert [row["nan"] for row in report["tensors"]] == [1, 0, 1]
    assert report["totals"]["weight"] == {"tensors": 1, "elements": 3, "bytes": 12}
    assert report["nonfinite"] == ["embed", "head"]
    assert report["metadata"]["note"] == "x\x1b[2J"


def test_table(run, file):
    lines = run("inspect", file).stdout.splitlines()
    (row,) = [line for line in lines if line.startswith("head")]
    assert row.split() == ["head", "weight", "float32", "embed", "3", "1", "1"]
    assert "statistic: 1 tensor, 4 elements, 16 B" in lines
    assert "metadata note: x\\x1b[2J" in lines
    assert lines[-1] == "2 tensors with NaN or infinity, first embed"


def test_finite_files_are_said_to_be(run, two):
    assert "All numbers are finite." in run("inspect", two[0]).stdout


def test_nan_is_red(run, file, monkeypatch):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[1;31m" in run("inspect", file).stdout


def test_no_data_reads_headers_only(run, file, monkeypatch):
    def fail(*arguments):
        raise AssertionError("data were read")

    monkeypatch.setattr("conjoin.checkpoints.safetensors_file.SafetensorsFile.read", fail)
    report = json.loads(run("inspect", file, "--no-data", "--json").stdout)
    assert report["nonfinite"] is None
    assert report["tensors"][0]["nan"] is None
    assert "NaN" not in run("inspect", file, "--no-data").stdout


def test_pattern(run, file):
    report = json.loads(run("inspect", file, "--pattern", "h*", "--json").stdout)
    assert [row["name"] for row in report["tensors"]] == ["head"]
    assert report["totals"]["weight"]["elements"] == 3
    assert report["tensors"][0]["nan"] == 1
    assert "matches none" in run("inspect", file, "--pattern", "heed*", code=2).stderr


def test_entry(run, tmp_path, file):
    path = tmp_path / "last.ckpt"
    torch.save({"ema": {"w": torch.ones(1)}, "model": {"v": torch.ones(1)}}, path)
    assert "entry" in run("inspect", path, code=1).stderr
    report = json.loads(run("inspect", path, "--entry", "ema", "--json").stdout)
    assert [row["name"] for row in report["tensors"]] == ["w"]
    assert "--entry ema" in run("inspect", file, "--entry", "ema", code=2).stderr


def test_names_cannot_reach_the_terminal_raw(run, tmp_path):
    path = save({HOSTILE: torch.ones(1)}, tmp_path / "m.safetensors")
    out = run("inspect", path).stdout
    assert "a[red]b\\x1b[31m\\u202e:smile:\\nc" in out
    assert not {"\x1b", "\u202e"} & set(out)
    assert json.loads(run("inspect", path, "--json").stdout)["tensors"][0]["name"] == HOSTILE
    error = run("inspect", tmp_path / "no\x1b[2J[red]", code=1).stderr
    assert "no\\x1b[2J[red]" in error
    assert "\x1b" not in error


def test_long_names_are_whole_without_a_terminal(run, tmp_path):
    name = "layer." * 60 + "weight"
    path = save({name: torch.ones(1)}, tmp_path / "m.safetensors")
    assert name in run("inspect", path).stdout


@pytest.fixture
def layered(tmp_path):
    """A folder of two files whose layers are 0, 1 and 3."""
    folder = tmp_path / "model"
    folder.mkdir()
    names = [f"model.layers.{n}.mlp.{part}.weight" for n in (0, 1, 3) for part in ("up", "down")]
    tensors = {"model.embed_tokens.weight": torch.ones(3, 2)}
    tensors |= {name: torch.ones(2, 2) for name in names}
    save(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


def test_folders_and_their_layers(run, layered):
    lines = run("inspect", layered).stdout.splitlines()
    assert "layers model.layers.*: 3, numbered 0 to 3" in lines
    assert "weight: 7 tensors, 30 elements, 120 B" in lines
    report = json.loads(run("inspect", layered, "--json", "--no-data").stdout)
    stack = {"pattern": "model.layers.*", "count": 3, "first": 0, "last": 3}
    assert report["layers"] == [stack]


def test_layers_by_a_pattern(run, tmp_path):
    names = [f"net.{n}.weight" for n in (0, 2, 4)]  # single modules: no stack by themselves
    path = save({name: torch.ones(1) for name in names}, tmp_path / "m.safetensors")
    assert "layers" not in run("inspect", path).stdout
    assert "layers net.*: 3, numbered 0 to 4" in run("inspect", path, "--layers", "net.*").stdout
    error = run("inspect", path, "--layers", "nett.*", code=2).stderr
    assert "did you mean 'net.*'" in error


def test_references_with_an_adapter(run, layered, tmp_path):
    adapter = tmp_path / "lora"
    adapter.mkdir()
    name = "base_model.model.model.layers.0.mlp.up"
    save(
        {
            f"{name}.lora_A.weight": torch.full((1, 2), math.nan),
            f"{name}.lora_B.weight": torch.ones(2, 1),
        },
        adapter / "adapter_model.safetensors",
    )
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["up"]})
    )
    report = json.loads(run("inspect", f"{layered}+{adapter}", "--json").stdout)
    assert report["nonfinite"] == ["model.layers.0.mlp.up.weight"]
    assert len(report["tensors"]) == 7


def test_a_mistyped_path_gets_the_closest(run, file):
    error = run("inspect", str(file).replace("m.safe", "n.safe"), code=1).stderr
    assert f"did you mean {file}?" in error
    assert "there is no file" in run("inspect", file.parent / "nothing", code=1).stderr


@pytest.mark.parametrize("content", [b"", b"<html>", b"garbage"])
def test_other_files(run, tmp_path, content):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    assert run("inspect", path, code=1).stderr.startswith("Error: ")
