"""The benchmark of merging files measures what it says; how long anything takes is not tested."""

import json
import sys
from pathlib import Path

import pytest

from conjoin.checkpoints import open_checkpoint
from conjoin.recipes import make_plan, read_recipe

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import merge_speed

    yield merge_speed
    for name in ("merge_speed", "llama_checkpoints", "processes"):
        sys.modules.pop(name)


@pytest.fixture
def processes(benchmark):
    return sys.modules["processes"]


@pytest.fixture
def llama(benchmark):
    return sys.modules["llama_checkpoints"]


def test_a_small_run_has_every_row_and_keeps_its_models(benchmark, llama, tmp_path, capsys):
    file = tmp_path / "times.json"
    small = ["--params", "1e5", "--rounds", "1", "--methods", "linear"]
    assert benchmark.main([*small, "--folder", str(tmp_path), "--json", str(file)]) == 0
    (report,) = json.loads(file.read_text())
    ways = ["torch", "plan", "copy of 2", "copy of 2 synced", "linear", "linear synced"]
    assert list(report["runs"]) == ways
    assert list(report["MB"]) == ways
    for runs in report["runs"].values():
        assert len(runs) == 1
        assert all(run["wall"] > 0 for run in runs)
    assert list(report["methods"]) == list(report["synced"]) == ["linear"]
    lines = capsys.readouterr().out.splitlines()
    assert [line[:20].strip() for line in lines[-2:]] == ["linear", "linear synced"]
    assert len(lines) == 6
    # The last result is there, and so are the models: a second call makes none.
    place = tmp_path / "llama-100000"
    out, a = open_checkpoint(place / "out"), open_checkpoint(place / "a")
    assert {n: s.shape for n, s in out.specs.items()} == {n: s.shape for n, s in a.specs.items()}
    before = (place / "a" / "config.json").stat().st_mtime_ns
    assert llama.make(tmp_path, 100000) == place
    assert (place / "a" / "config.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("params", [1e5, 1e6, 1e8, 1e9, 3e9])
def test_a_model_has_about_as_many_parameters_as_asked(benchmark, llama, params):
    config = llama.dimensions(round(params))
    assert 0.8 * params <= llama.count(config) <= params


def test_a_model_that_is_half_made_is_made_anew(benchmark, llama, tmp_path):
    place = llama.make(tmp_path, 20000)
    shards = sorted(path.name for path in (place / "b").glob("*.safetensors"))
    assert len(shards) == 3
    (place / "complete").unlink()
    (place / "b" / shards[0]).unlink()
    llama.make(tmp_path, 20000)
    assert (place / "b" / shards[0]).exists()
    a, b = (open_checkpoint(place / name) for name in "ab")
    change = max((b[name].float() - a[name].float()).abs().max() for name in a)
    assert 0 < change < 0.02


def test_every_way_has_a_command(benchmark, llama, tmp_path):
    place = llama.make(tmp_path, 20000)
    ways = benchmark.commands(place, ["slerp", "ties"], Path("/python/of/mergekit"))
    copies = ["copy of 2", "copy of 3", "copy of 2 synced"]
    mergekit = ["mergekit slerp", "mergekit ties"]
    assert list(ways) == ["torch", "plan", *copies, "slerp", "ties", "slerp synced", *mergekit]
    for method in ("slerp", "ties"):
        recipe = str(place / f"{method}.yml")
        assert recipe in ways[method]
        assert recipe in ways[f"mergekit {method}"]
        # mergekit does not wait for the disk, and neither does what it is compared with.
        assert "--no-sync" in ways[method]
    assert "--no-sync" not in ways["slerp synced"]


def test_every_method_has_a_recipe_that_conjoin_reads(benchmark, llama, tmp_path):
    place = llama.make(tmp_path, 20000)
    for method in benchmark.RECIPES:
        plan = make_plan(read_recipe(benchmark.write_recipe(place, method)))
        assert plan.recipe.method.name == method
        one = sum(path.stat().st_size for path in (place / "a").glob("*.safetensors"))
        assert round(plan.read_bytes / one) == benchmark.reads(method)


def test_ratios_are_of_the_same_round(benchmark, processes):
    def runs(*walls: float):
        return [processes.Run(wall, 2 * wall, wall) for wall in walls]

    # The second round is ten times slower for all, and changes no ratio.
    found = {
        "copy of 2": runs(2, 20, 2),
        "linear": runs(4, 40, 4),
        "mergekit linear": runs(32, 320, 32),
    }
    memory = {"linear": 40, "mergekit linear": 320}
    row = benchmark.ratios(found, memory, "linear", "linear", 10**9)
    assert row["copies"] == row["copies of CPU"] == 2
    assert row["times faster than mergekit"] == row["times less CPU than mergekit"] == 8
    assert row["CPU seconds of mergekit"] == 64
    assert row["seconds per GB"] == round(4 / 3, 4)
    assert row["MB"] == 40
    assert row["MB of mergekit"] == 320


def test_time_and_memory_of_a_process(processes):
    script = "import time; held = bytearray(50_000_000); time.sleep(.2)"
    command = [sys.executable, "-S", "-c", script]
    run = processes.timed(command)
    assert run.wall >= 0.2
    assert run.cpu > 0
    assert 50 <= processes.anonymous(command) < 150


@pytest.mark.parametrize("way", ["timed", "anonymous"])
def test_a_command_that_fails_is_told(processes, way):
    with pytest.raises(RuntimeError, match=r"(?s)ended with 3.*no such luck"):
        getattr(processes, way)(["sh", "-c", "echo no such luck; exit 3"])


@pytest.mark.parametrize("option", ["--params", "--rounds"])
def test_options_must_be_positive(benchmark, option):
    with pytest.raises(SystemExit):
        benchmark.main([option, "0"])
