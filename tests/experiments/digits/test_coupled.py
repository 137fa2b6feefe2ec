"""The continuum of the digit networks."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from rich.console import Console

from conjoin.checkpoints import open_checkpoint
from conjoin.comparison import Settings
from conjoin.errors import InputError
from conjoin.experiments.digits.coupled import PROFILES, TWO_HEADED, Sweep, sweep_of
from conjoin.experiments.digits.run import Options, run_digits
from conjoin.experiments.digits.training import Schedule
from conjoin.experiments.digits.trainings import COUPLED, Trainer
from conjoin.merging import merge
from conjoin.stages import StageCache
from conjoin.sweeping import Point

FEW = Settings(
    statistics=100, curve_examples=100, points=3, resolution=3, layers=4, labels=(0, 10),
    transfer_steps=3,
)  # fmt: skip


def _run(options):
    with Path(os.devnull).open("w") as nowhere:
        return run_digits(options, Console(file=nowhere, width=200))


@pytest.fixture(scope="module")
def options(easy_mnist, easy_folder, tmp_path_factory):
    return Options(
        first=f"mnist:{easy_mnist}",
        second=f"folder:{easy_folder}",
        unseen="handwritten",
        out=tmp_path_factory.mktemp("runs") / "run",
        width=1 / 32,
        epochs=3,
        device="cpu",
        precision="float32",
        table=False,
        continuum=True,
        strengths=(0.0, 1.0, math.inf),
        profiles=("uniform", "trunk"),
        settings=FEW,
    )


@pytest.fixture(scope="module")
def run(options):
    return _run(options)


def test_the_points_and_their_references_are_there(run):
    points = ["uniform 0", "uniform 1", "uniform inf", "trunk 1", "trunk inf"]
    whats = ("specialists", "one network", "heads")
    assert {r.model for r in run.view("continuum")} == {f"{p}: {w}" for p in points for w in whats}
    assert set(run.info.continuum.strengths) == {"0", "1", "inf"}
    assert run.info.continuum.references["two-headed"] == "trunk inf: heads"
    assert [row.key for row in run.info.rows] == ["references: one network on all data"]
    labels = {r.how["labels"] for r in run.view("continuum transfer")}
    assert labels == {0, 10}
    assert run.interval(
        "uniform 1: one network", "references: one network on all data", run.info.tasks[0].name,
        "accuracy",
    )  # fmt: skip


def test_files_of_every_pair_and_their_mean_are_there(run):
    folder = run.folder / "checkpoints" / "seed-0"
    files = sorted(path.name for path in folder.glob("coupled-uniform-1-*"))
    assert len(files) == 2
    first, second = (open_checkpoint(folder / name) for name in files)
    rows = (run.folder / "cache").glob("row-*/stage.json")
    stages = {json.loads(path.read_text())["settings"]["row"]: path.parent for path in rows}
    one = open_checkpoint(stages["uniform 1: one network"] / "network.safetensors")
    mean = merge([first, second])
    assert set(one) == set(first)
    for name, tensor in one.items():
        same = torch.allclose(tensor, mean[name])
        assert same is ("running" not in name and "num_batches" not in name), name
    assert not torch.equal(first["block_1.0.weight"], second["block_1.0.weight"])


def test_running_again_gives_the_same_bytes_and_trains_nothing(run, options, monkeypatch):
    import conjoin.experiments.digits.trainings as trainings

    def no_training(*_, **__):
        raise AssertionError("a training began")

    monkeypatch.setattr(trainings, "train_models", no_training)
    monkeypatch.setattr(trainings, "train", no_training)
    before = (run.folder / "results.json").read_bytes()
    _run(options)
    assert (run.folder / "results.json").read_bytes() == before


def test_at_strength_zero_they_are_the_specialists_bit_for_bit(tmp_path):
    from conjoin.experiments.digits.sources import open_source
    from conjoin.experiments.digits.trainings import Task

    counts = {"train": 128, "validation": 50, "test": 50}
    tasks = tuple(Task(open_source(name), counts) for name in ("handwritten", "street"))
    trainer = Trainer(
        tasks,
        1 / 32,
        Schedule(epochs=2, batch_size=32, learning_rate=0.02),
        torch.device("cpu"),
        3,
        StageCache(tmp_path),
        lambda title: lambda done, total: None,
    )
    point = Point(PROFILES["uniform"], 0.0)
    for task, name in enumerate(COUPLED):
        alone, coupled = trainer.network(name).state_dict(), trainer.coupled_network(point, task)
        assert all(torch.equal(alone[key], value) for key, value in coupled.state_dict().items())
    # And coupled, they are not.
    strong = trainer.coupled_network(Point(PROFILES["uniform"], 10.0), 0).state_dict()
    assert not torch.equal(
        strong["block_1.0.weight"], trainer.network(COUPLED[0]).state_dict()["block_1.0.weight"]
    )
    gaps = dict(trainer.coupled_gaps(Point(PROFILES["uniform"], 10.0)))
    assert max(gaps) == 8
    assert all(0 < gap < 0.1 for gap in gaps[8].values())


def test_a_strength_is_searched_on_validation_data(options, tmp_path):
    from dataclasses import replace

    searched = replace(
        options, out=tmp_path, strengths=(), continuum=False, strength="auto", epochs=1,
        profiles=("uniform",), unseen="none",
    )  # fmt: skip
    found = _run(searched)
    chosen = found.info.continuum.chosen
    assert chosen.trainings == len(chosen.tried) == 5
    assert chosen.strength == max(chosen.tried, key=lambda one: one.score).strength
    for one in chosen.tried:
        model = f"uniform {one.strength}: one network"
        values = [
            r.value
            for r in found.view("continuum")
            if (r.model, r.split, r.metric) == (model, "validation", "accuracy")
        ]
        assert one.score == pytest.approx(sum(values) / 2)


def test_what_is_trained():
    given = {"profiles": ["uniform"], "strengths": [0.0, 1.0, math.inf]}
    assert sweep_of(continuum=False, strength=None, **given) is None
    whole = sweep_of(continuum=True, strength=None, **given)
    names = ["uniform 0", "uniform 1", "uniform inf", "trunk inf"]
    assert [point.name for point in whole.points(None)] == names
    one = sweep_of(continuum=False, strength="0.3", **given)
    assert [p.name for p in one.points(None)] == [
        "uniform 0",
        "uniform 0.3",
        "uniform inf",
        "trunk inf",
    ]
    two = sweep_of(
        continuum=True,
        strength=None,
        **{**given, "profiles": ["uniform", "pooled norm:0.1"]},
    )
    assert [point.name for point in two.points(None)] == [*names[:3], "pooled norm 0.1", names[3]]
    only_trunk = Sweep((PROFILES["trunk"],), (math.inf,))
    assert [point.name for point in only_trunk.points(None)] == ["trunk 0", TWO_HEADED.name]
    assert sweep_of(continuum=False, strength="auto", **given).search is PROFILES["uniform"]


@pytest.mark.parametrize("strength", ["-1", "much", "nan", ""])
def test_what_is_no_strength_is_refused(strength):
    with pytest.raises(InputError, match="strength"):
        sweep_of(continuum=False, strength=strength, profiles=["uniform"], strengths=[1.0])


def test_an_unknown_profile_is_refused():
    with pytest.raises(InputError, match="no profile 'flat'; there are uniform"):
        sweep_of(continuum=True, strength=None, profiles=["flat"], strengths=[1.0])


def test_nothing_to_do_is_an_error(options, tmp_path):
    from dataclasses import replace

    with pytest.raises(InputError, match="nothing to do"):
        _run(replace(options, out=tmp_path, continuum=False, strengths=()))
