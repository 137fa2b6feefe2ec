"""The example of coupled training does what its text says, interrupted or not."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import conjoin

EXAMPLE = Path(__file__).parents[2] / "examples" / "coupled_training.py"


def run(folder: Path, *arguments: str) -> str:
    """Run the example as a reader would; give what it printed."""
    settings = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), *arguments],
        cwd=folder,
        env={**os.environ, **settings},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def read(printed: str) -> dict[str, dict]:
    """Give the gap of each layer and the accuracies of each way of training."""
    found = {}
    for way, gaps, lines in re.findall(
        r"^(\S.*): gap of each layer: (.*)\n((?:  .*\n)*)", printed, re.M
    ):
        scores = re.findall(r"^  (.+?) +on (\w+) +([\d.]+) %$", lines, re.M)
        found[way] = {
            "gaps": {name: float(gap) for name, gap in re.findall(r"(\S+) ([\d.e-]+)", gaps)},
            "accuracy": {(model, task): float(value) for model, task, value in scores},
        }
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("example")


@pytest.fixture(scope="module")
def printed(folder):
    return run(folder)


@pytest.mark.slow
def test_what_the_three_ways_give(printed):
    found = read(printed)
    assert list(found) == ["apart", "pulled", "one trunk"]
    apart, pulled, trunk = (way["accuracy"] for way in found.values())
    tasks = ("digits", "inverted")
    for task in tasks:
        assert apart[f"specialist of {task}", task] > 90
        # Networks that were pulled together have a mean that does both; others have not.
        assert pulled["merged", task] > apart["merged", task] + 5
        assert pulled["merged", task] > apart[f"specialist of {task}", task] - 8
        # A trunk that is one tensor needs its own heads.
        assert trunk[f"trunk and head of {task}", task] > trunk["merged", task]
        assert trunk[f"trunk and head of {task}", task] > 85
    assert "MultiHead with heads for digits, inverted" in printed


@pytest.mark.slow
def test_gaps_say_how_the_networks_were_coupled(printed):
    apart, pulled, trunk = (way["gaps"] for way in read(printed).values())
    assert list(apart) == ["trunk.0", "trunk.4", "trunk.8", "head"]
    assert all(0 < pulled[layer] < apart[layer] / 10 for layer in apart)
    assert pulled["trunk.0"] < pulled["head"]  # stronger in the first layers
    assert [trunk[layer] == 0 for layer in trunk] == [True, True, True, False]


@pytest.mark.slow
def test_an_interrupted_training_goes_on_to_the_same_bits(printed, folder):
    run(folder, "--out", "parts", "--stop-after", "1")
    assert torch.load(folder / "parts" / "pulled.pt", weights_only=True)["epoch"] == 1
    assert run(folder, "--out", "parts") == printed
    for name in ("apart", "pulled", "one-trunk"):
        whole, parts = (
            torch.load(folder / place / f"{name}.pt", weights_only=True)["states"]
            for place in ("runs/coupled", "parts")
        )
        for net in ("net digits", "net inverted"):
            assert all(torch.equal(whole[net][key], parts[net][key]) for key in whole[net])


@pytest.mark.slow
def test_the_file_has_one_trunk_and_two_heads(printed, folder):
    saved = conjoin.open_checkpoint(folder / "runs" / "coupled" / "two-heads.safetensors")
    training = torch.load(folder / "runs" / "coupled" / "one-trunk.pt", weights_only=True)
    for task in ("digits", "inverted"):
        net = training["states"][f"net {task}"]
        assert torch.equal(saved[f"heads.{task}.weight"], net["head.weight"])
        assert torch.equal(saved["trunk.trunk.0.weight"], net["trunk.0.weight"])
    assert not any(name.startswith("trunk.head") for name in saved)


def test_an_overflow_in_one_head_makes_both_networks_skip_the_step():
    spec = importlib.util.spec_from_file_location("coupled_training", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    torch.manual_seed(0)
    training = example.Training(example.SmallNet(), "one trunk", ["a", "b"], 100)
    images, labels = torch.rand(6, 1, 8, 8), torch.arange(6)
    training.step([{"a": (images, labels), "b": (images, labels)}])
    before = {n: [p.clone() for p in net.parameters()] for n, net in training.nets.items()}

    # What an overflow of float16 leaves: infinity in a gradient that is not shared.
    weight = training.nets["a"].head.weight
    weight.register_hook(lambda gradient: gradient.fill_(float("inf")))
    scale = training.scaler.get_scale()
    training.step([{"a": (images, labels), "b": (images, labels)}])
    for name, net in training.nets.items():
        assert all(
            torch.equal(p, old) for p, old in zip(net.parameters(), before[name], strict=True)
        )
    assert training.scaler.get_scale() == scale / 2
    assert training.coupling.time == 1
