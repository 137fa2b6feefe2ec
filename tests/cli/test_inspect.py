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


@pytest.mark.parametrize("content", [b"", b"<html>", b"garbage"])
def test_other_files(run, tmp_path, content):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    assert run("inspect", path, code=1).stderr.startswith("Error: ")
