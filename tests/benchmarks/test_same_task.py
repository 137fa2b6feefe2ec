"""The measurements of one task and of other architectures count what they say; tiny networks."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import conjoin

FOLDER = Path(__file__).parents[2] / "benchmarks"
TINY = ["--width", "8", "--epochs", "2", "--train-images", "256", "--images", "100", "--test", "80"]


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in ("same_task", "architectures", "different_tasks", "planted_recovery"):
        sys.modules.pop(name, None)


@pytest.fixture
def case():
    """A network and two shuffled copies of it."""
    from architectures import mlp
    from same_task import Case

    torch.manual_seed(0)
    net = mlp(16).eval()
    x = torch.randn(120, 784)
    symmetries = conjoin.find_symmetries(net, x[:2])
    copies = [symmetries.sample(torch.Generator().manual_seed(n)).apply(net) for n in range(2)]
    with torch.no_grad():
        return Case((net, *copies), x, (x, net(x).argmax(1)))


def test_a_shuffled_copy_has_no_barrier_once_it_is_aligned(case):
    from same_task import measure_pair, pair_summary

    found = {way: pair_summary([one]) for way, one in measure_pair(case, points=3).items()}
    assert list(found) == [
        *("naive", "naive + repair", "weights", "weights + repair"),
        *("activations", "activations + repair", "least squares"),
    ]
    assert found["naive"]["middle"][0] > 5
    for way in ("weights", "activations", "least squares"):
        assert found[way]["middle"] == (0, 0, 0), way
    four = pair_summary([measure_pair(case, "naive", points=5)["naive"]])
    assert four["middles"] == found["naive"]["middles"]
    assert four["barriers"][0] >= four["middles"][0] - 1e-9  # of another summation


def test_three_shuffled_copies_are_one_network_in_every_order(case):
    from same_task import measure_three, three_summary

    found = measure_three(case)
    assert len(found) == 2 * 4
    assert all(correct.all() for correct in found.values())
    assert three_summary([found])["weights"] == {
        "common": [100],
        "references": [[100, 100, 100]],
        "better by": (0, 0, 0),
    }


def test_drops_are_counted_from_the_line_between_the_ends():
    from same_task import pair_summary

    def right(share):  # of 100 images
        return np.arange(100) < share

    line = {0.0: right(100), 1.0: right(80), 0.25: right(85), 0.5: right(84), 0.75: right(85)}
    found = pair_summary([{"correct": line, "seconds": 1.0}] * 2)
    # At t = .25 the line between the ends is at 95, so 10 points; at .5 it is at 90.
    assert found["barriers"] == pytest.approx([10, 10])
    assert found["barrier"][0] == pytest.approx(10)
    assert found["middles"] == pytest.approx([6, 6])
    assert found["barrier"][1] < 10 < found["barrier"][2]


def test_networks_are_those_that_are_said(tmp_path):
    from architectures import ARCHITECTURES, Data, trained

    images = torch.zeros(3, 1, 32, 32, dtype=torch.uint8)
    images[0, 0, :2] = 255  # the border, which MNIST does not have
    images[1, 0, 2, 2] = 255
    given = {name: kind.prepare(images) for name, kind in ARCHITECTURES.items()}
    assert given["mlp"].shape == (3, 784)
    assert given["resnet20x2"].shape == (3, 1, 16, 16)
    assert [int((x > -1).sum()) for x in given["mlp"]] == [0, 1, 0]
    assert [int((x > -1).sum()) for x in given["resnet20x2"]] == [16, 1, 0]
    layers = {
        name: [len(p) for p in kind.make(kind.width).parameters() if p.dim() > 1]
        for name, kind in ARCHITECTURES.items()
    }
    assert layers["mlp"] == [512, 512, 10]
    assert len(layers["resnet20x2"]) == 20 + 2  # two shortcuts change the shape
    assert sorted(set(layers["resnet20x2"])) == [10, 32, 64, 128]
    data = Data({"mnist": "handwritten", "street": "street"})
    smaller = {"width": 8, "epochs": 1, "images": 128}

    def first_weight(seed, start):
        net = trained("mlp", "mnist", seed, start, data=data, cache=tmp_path, smaller=smaller)
        return net[0].weight

    assert torch.equal(first_weight(0, 0), first_weight(0, 0))
    assert not torch.equal(first_weight(0, 0), first_weight(0, 1))
    assert not torch.equal(first_weight(0, 0), first_weight(1, 0))


@pytest.mark.slow
def test_same_task_in_small(tmp_path, capsys, monkeypatch):
    import architectures
    import same_task

    arguments = ["--cache", str(tmp_path), "--task", "handwritten", "--seeds", "0", "1", *TINY]
    arguments += ["--points", "3", "--architectures", "mlp", "--only"]
    assert same_task.main([*arguments, "*s", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["architectures"]["mlp"]
    assert list(found["rows"]) == ["weights", "activations", "least squares"]
    assert len(found["three"]["weights"]["common"]) == 2

    def no_training(*_):
        raise AssertionError("it was trained already")

    monkeypatch.setattr(architectures, "_train", no_training)
    assert same_task.main([*arguments, "[nw]*[es]", "--three"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("mlp: ends ")
    assert [line.split()[0] for line in lines[4:]] == ["naive", "weights"]


@pytest.mark.slow
def test_different_tasks_in_small(tmp_path, capsys, monkeypatch):
    import architectures
    import different_tasks
    from same_task import case_of, measure_pair

    few = {"few steps": lambda *given: different_tasks.pleas(*given, steps=1)}
    monkeypatch.setattr(different_tasks, "ROWS", different_tasks.ROWS | {"PLeaS": few})
    arguments = ["--cache", str(tmp_path), "--task", "handwritten", "--seeds", "0", *TINY]
    arguments += ["--choosing", "50", "--architectures"]
    assert architectures.main([*arguments, "mlp", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["mlp"]["rows"]
    assert {"OTFusion", "ZipIt", "aligned + repair", "conjoin, least squares"} < set(rows)
    assert all(0 <= row["mean"] <= 100 for row in rows.values())
    assert architectures.main([*arguments, "resnet20x2", "--only", "ensemble*"]) == 0
    assert "resnet20x2, different initializations" in capsys.readouterr().out
    data = architectures.Data({"mnist": "handwritten", "street": "street"})
    smaller = {"width": 8, "epochs": 2, "images": 256}
    case = case_of("resnet20x2", 0, data=data, cache=tmp_path, images=64, test=40, smaller=smaller)
    found = measure_pair(case, "naive + re-estimated", points=5)
    assert set(found["naive + re-estimated"]["correct"]) == {0, 0.25, 0.5, 0.75, 1}


def test_a_run_is_needed_for_its_networks(tmp_path):
    from architectures import Data
    from same_task import case_of

    data = Data({"mnist": "handwritten", "street": "street"})
    with pytest.raises(ValueError, match="--run"):
        case_of("vgg", 0, data=data, cache=tmp_path)
