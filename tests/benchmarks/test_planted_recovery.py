"""The benchmark of planted orders plants what it says; how long anything takes is not tested."""

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch

from conjoin.symmetry import find_symmetries

PATH = Path(__file__).parents[2] / "benchmarks" / "planted_recovery.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("planted_recovery", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_small_run_finds_what_is_planted(benchmark, capsys):
    arguments = ["--settings", "resnet20", "--rho", "0.5", "0.3", "--seeds", "0", "--json"]
    assert benchmark.main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert [(row["rho"], row["seed"]) for row in report["pairs"]] == [(0.5, 0), (0.3, 0)]
    assert report["pairs"][0]["found"] == 1.0
    for row in report["pairs"]:
        assert row["units"] == 16 * 4 + 32 * 4 + 64 * 4  # a stream and three branches in each stage
        assert row["found"] >= 0.95
        assert set(row["alone"]) == {"greedy", "sequential", "random"}
    lines = benchmark.table(report).splitlines()
    assert [line.split()[:4] for line in lines[4:]] == [
        ["resnet20", "0.50", "0", "1.000"],
        ["resnet20", "0.30", "0", f"{report['pairs'][1]['found']:.3f}"],
    ]


@pytest.mark.parametrize("rho", [0.3, 0.9])
def test_rho_is_the_correlation_of_what_is_put_back(benchmark, rho):
    torch.manual_seed(0)
    net = benchmark.resnet20()
    symmetries = find_symmetries(net, torch.randn(2, 3, 32, 32))
    other, back = benchmark.planted(net, symmetries, rho, torch.Generator().manual_seed(1))
    found = back.apply(other)
    for module in ("3.one", "8.two", "11.one"):
        one, two = (net_.get_submodule(module).weight.detach().flatten() for net_ in (net, found))
        measured = torch.corrcoef(torch.stack([one, two]))[0, 1].item()
        assert measured == pytest.approx(rho, abs=5 / math.sqrt(len(one)))
        assert two.std() / one.std() == pytest.approx(1, abs=5 / math.sqrt(len(one)))
        moved = other.get_submodule(module).weight.detach().flatten()
        assert abs(torch.corrcoef(torch.stack([one, moved]))[0, 1]) < 5 / math.sqrt(len(one))


def test_the_share_that_is_found(benchmark):
    torch.manual_seed(0)
    layout = find_symmetries(benchmark.resnet20(), torch.randn(2, 3, 32, 32))
    one = layout.sample(torch.Generator().manual_seed(0))
    assert benchmark.found_share(one, one) == 1
    order = one.orders["0.weight:0"]
    order[:2] = order[:2].flip(0).clone()
    assert benchmark.found_share(one, layout.sample(torch.Generator().manual_seed(0))) == 446 / 448


def test_correlations_lie_between_0_and_1(benchmark):
    with pytest.raises(SystemExit):
        benchmark.main(["--rho", "1.5"])
