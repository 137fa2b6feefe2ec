"""The benchmark of coupling measures what it says; how long anything takes is not tested."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

PATH = Path(__file__).parents[2] / "benchmarks" / "coupling_overhead.py"
SMALL = ["--width", "1/32", "--batch", "2", "--steps", "1", "--rounds", "2"]


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("coupling_overhead", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_small_run_has_every_setting(benchmark, capsys, monkeypatch):
    monkeypatch.setenv("KINETO_LOG_LEVEL", "6")  # the benchmark sets it; put back afterwards
    assert benchmark.main([*SMALL, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    found = [(s["width"], s["arithmetic"], s["optimizer"]) for s in report["settings"]]
    assert found == [
        (1 / 32, arithmetic, optimizer)
        for arithmetic in ("float32", "bfloat16")
        for optimizer in ("SGD", "AdamW")
    ]
    for setting in report["settings"]:
        assert {way: len(times) for way, times in setting["seconds"].items()} == {
            "uncoupled": 2,
            "coupled": 2,
            "shared": 2,
        }
        assert setting["largest tensor, bytes"] == 128 * 128 * 4
        assert all(extra > 0 for extra in setting["extra bytes"].values())
    lines = benchmark.table(report).splitlines()
    assert len(lines) == 4 + len(found)
    assert lines[4].split()[:3] == ["1/32", "float32", "SGD"]


@pytest.mark.parametrize("option", ["--width", "--batch", "--steps", "--rounds"])
def test_options_must_be_positive(benchmark, option):
    with pytest.raises(SystemExit):
        benchmark.main([option, "0"])


def test_ratios_are_of_the_same_round(benchmark):
    # The second round is ten times slower for both, and changes no ratio.
    seconds = {"uncoupled": [1.0, 10.0, 2.0], "coupled": [1.5, 15.0, 3.0]}
    assert benchmark.ratios(seconds, "uncoupled") == {"coupled": 1.5}


def test_every_way_takes_its_turn_first_and_is_timed(benchmark):
    order, now = [], [0.0]

    class Recorded:
        def __init__(self, way, seconds):
            self.way, self.seconds = way, seconds

        def step(self):
            order.append(self.way)
            now[0] += self.seconds

    pairs = {"a": Recorded("a", 1.0), "b": Recorded("b", 2.0), "c": Recorded("c", 4.0)}
    seconds = benchmark.interleaved(pairs, steps=2, rounds=3, clock=lambda: now[0])
    assert "".join(order) == "aabbccbbccaaccaabb"
    assert seconds == {"a": [2.0] * 3, "b": [4.0] * 3, "c": [8.0] * 3}


def test_peak_bytes_counts_what_is_held_at_once(benchmark, monkeypatch):
    monkeypatch.setenv("KINETO_LOG_LEVEL", "6")
    before = torch.ones(1000)

    def call():
        one = before + 1  # 4000 bytes
        two = one + 1  # 8000 at once
        del one
        three = two.double()  # 4000 + 8000
        del two, three

    assert benchmark.peak_bytes(call) == 12000


def test_a_way_that_does_not_couple_is_noticed(benchmark):
    pairs = {
        way: benchmark.Pair("uncoupled", 1 / 32, "float32", "SGD", 2) for way in benchmark.WAYS
    }
    with pytest.raises(RuntimeError, match="expected shared = 0"):
        benchmark.check(pairs)
