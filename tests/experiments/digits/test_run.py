import os
import random
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from conjoin.checkpoints import open_checkpoint
from conjoin.comparison import Settings
from conjoin.errors import DataError, InputError, StageError, TrainingError
from conjoin.experiments.digits.run import Options, run_digits
from conjoin.records import read_records
from conjoin.report.table import cells_of
from conjoin.stages import StageCache

# As little as lets every specialist know its task: each test image is right from 7 epochs on.
SMALL = {
    "width": 1 / 32, "epochs": 8, "train": 500, "test": 100, "device": "cpu",
    "precision": "float32",
}  # fmt: skip
FEW = Settings(
    statistics=100, curve_examples=100, points=5, resolution=3, layers=4, labels=(0, 10),
    transfer_steps=5,
)  # fmt: skip
BEST = "references: best single parent (chosen on validation data)"


@pytest.fixture(scope="module")
def run(easy_mnist, easy_folder, tmp_path_factory):
    """A finished run over two seeds, its options, what it is, and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "run"
    options = Options(
        first=f"mnist:{easy_mnist}",
        second=f"folder:{easy_folder}",
        unseen="handwritten",
        out=out,
        seeds=2,
        settings=FEW,
        **SMALL,
    )
    console = Console(record=True, width=200, file=Path(os.devnull).open("w"))  # noqa: SIM115
    found = run_digits(options, console)
    console.file.close()
    return options, found, console.export_text()


def _values(run, metric="accuracy"):
    """Values on the test part by (row, task, seed)."""
    return {
        (r.model, r.task, r.seed): r.value
        for r in run.view("row")
        if r.split == "test" and r.metric == metric
    }


def test_every_row_is_measured_on_its_tasks_for_every_seed(run):
    _, found, printed = run
    first, second, unseen = found.tasks
    told = {key for key, row in found.rows.items() if row.uses_task_label}
    expected = {
        (key, task, seed)
        for key, row in found.rows.items()
        for task in [*found.groups[row.group].tasks, unseen]
        for seed in (0, 1)
        if task != unseen or key not in told
    }
    for metric in ("accuracy", "loss", "calibration error"):
        assert set(_values(found, metric)) == expected
    assert not found.tasks[unseen].trained_on
    assert found.tasks[first].trained_on
    assert found.tasks[second].trained_on
    for title in ("alone", "two-headed network", "ensemble", "thread's code", "k = 5", "unseen"):
        assert title in printed
    for title in (
        "networks to compare with",
        "from different initializations",
        "from a shared initialization",
        "twice, from two initializations",
        "a shuffled copy of itself",
    ):
        assert title in printed
    assert list(found.records) == read_records(found.folder / "results.csv")


def test_rows_that_must_agree_do(run):
    _, found, _ = run
    value = _values(found)
    first, second, _ = found.tasks
    for seed in (0, 1):
        alone = {
            name: [value[f"references: {name} alone", task, seed] for task in (first, second)]
            for name in (first, second)
        }
        copied = value["shuffled: the shuffled copy alone", first, seed]
        assert copied == alone[first][0]
        assert [value[BEST, task, seed] for task in (first, second)] in list(alone.values())
        # The point of it all: both specialists know their own task.
        assert alone[first][0] > 90
        assert alone[second][1] > 90
        # No part averaged: each task has its own specialist, with statistics estimated again.
        for key in ("different", "shared"):
            none = value[f"depth, {key}: k = 0", first, seed]
            assert none == pytest.approx(alone[first][0], abs=5)


def test_curves_end_at_the_networks_and_the_shuffled_copy_is_behind_a_barrier(run):
    _, found, _ = run
    first = next(iter(found.tasks))
    ends = {
        (r.how["group"], r.seed, r.how["t"]): r.value
        for r in found.view("interpolation")
        if r.task == first and r.metric == "loss" and not r.how["reestimated"]
    }
    # The curve and its ends use the first examples of the test part; here, those are all.
    alone = _values(found, "loss")
    for seed in (0, 1):
        for group in ("different", "shared", "same task", "shuffled"):
            own = alone[f"references: {first} alone", first, seed]
            assert ends[group, seed, 0.0] == pytest.approx(own, rel=1e-5)
        assert ends["shuffled", seed, 1.0] == pytest.approx(ends["shuffled", seed, 0.0], rel=1e-3)
    barriers = [
        r.value
        for r in found.view("barrier")
        if r.how["group"] == "shuffled" and r.metric == "loss barrier" and not r.how["reestimated"]
    ]
    assert min(barriers) > 0.5


def test_every_view_and_transfer_from_every_start_are_there(run):
    _, found, _ = run
    for view in ("interpolation", "barrier", "depth", "activations", "distances"):
        groups = {r.how["group"] for r in found.view(view)}
        assert {"different", "shared"} <= groups, view
    # The network on all data has their start too: a plane through three that are not far apart.
    assert {r.how["group"] for r in found.view("plane")} == {"shared"}
    assert "one network on all data" in found.view("plane")[0].how["corners"]
    starts = {r.how["start"] for r in found.view("transfer")}
    first, second, unseen = found.tasks
    assert {
        f"{first} alone",
        f"{second} alone",
        "one network on all data",
        "two-headed network (shared trunk)",
        "mean + re-estimated statistics (from a shared initialization)",
        "a new network, never trained",
    } <= starts
    assert {r.task for r in found.view("transfer")} == {unseen}


def test_only_rows_with_a_network_per_task_use_the_label(run):
    _, found, _ = run
    told = {key for key, row in found.rows.items() if row.uses_task_label}
    known = ("two-headed", "per task")
    expected = {
        key for key in found.rows if key.startswith("depth") or any(one in key for one in known)
    }
    assert told == {key for key in expected if "task inferred" not in key}
    assert len(expected) > len(told)


def test_cells_are_means_spreads_and_paired_differences(run):
    _, found, _ = run
    second = list(found.tasks)[1]
    cell = cells_of(found)["different: mean", second]
    value = _values(found)
    own = [value[f"references: {second} alone", second, seed] for seed in (0, 1)]
    mean = [value["different: mean", second, seed] for seed in (0, 1)]
    assert cell.mean == pytest.approx(statistics.fmean(mean))
    assert cell.spread == pytest.approx(statistics.stdev(mean))
    assert cell.difference == pytest.approx(statistics.fmean(mean) - statistics.fmean(own))
    assert cell.low <= cell.difference <= cell.high


def test_saved_networks_are_those_of_the_table(run):
    options, _, _ = run
    folder = options.out / "checkpoints" / "seed-0"
    first, second, mean = (
        open_checkpoint(folder / f"{name}.safetensors")
        for name in ("first", "second", "different-mean")
    )
    name = "block_2.0.weight"
    assert mean[name].equal((first[name] + second[name]) / 2)


def test_running_again_trains_nothing_and_gives_the_same_file(run, monkeypatch):
    options, found, _ = run
    result = found.folder / "results.json"
    before = result.read_bytes()

    def forbidden(*_args, **_kwargs):
        pytest.fail("trained again")

    monkeypatch.setattr("conjoin.experiments.digits.trainings.train", forbidden)
    run_digits(options, Console(quiet=True))
    assert result.read_bytes() == before


def test_a_second_run_in_the_same_folder_is_refused(run):
    options, _, _ = run
    with StageCache(options.out / "cache").locked(), pytest.raises(StageError, match="another run"):
        run_digits(options, Console(quiet=True))


@pytest.mark.slow
def test_killing_it_at_five_random_moments_changes_nothing(run, tmp_path):
    options, found, _ = run
    again = replace(options, out=tmp_path / "killed")
    imports = (
        "from pathlib import *",
        "from rich.console import Console",
        "from conjoin.comparison import Settings",
        "from conjoin.experiments.digits.run import Options, run_digits",
    )
    code = "\n".join([*imports, f"run_digits({again!r}, Console(quiet=True))"])
    command = [sys.executable, "-c", code]
    whole = _seconds_of_a_run(options)
    chance = random.Random()
    kills = 0
    while kills < 5:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(3 + chance.uniform(0, whole / 3))
        if child.poll() is not None:
            break  # it has finished meanwhile
        child.send_signal(signal.SIGKILL)
        child.wait()
        kills += 1
    assert kills >= 1
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    results = tmp_path / "killed" / "results.json"
    assert results.read_bytes() == (found.folder / "results.json").read_bytes()


def _seconds_of_a_run(options: Options) -> float:
    stages = [p.stat().st_mtime for p in (options.out / "cache").glob("*/stage.json")]
    return max(stages) - min(stages)


def test_a_specialist_that_did_not_learn_stops_the_run(easy_mnist, easy_folder, tmp_path):
    options = Options(
        first=f"mnist:{easy_mnist}",
        second=f"folder:{easy_folder}",
        out=tmp_path / "run",
        **{**SMALL, "epochs": 1},
    )
    with pytest.raises(TrainingError, match="did not learn"):
        run_digits(options, Console(quiet=True))
    assert not (tmp_path / "run" / "results.json").exists()


def test_files_are_fetched_only_when_asked_for(tmp_path, monkeypatch):
    fetched = []

    def fetch(folder, *, progress):
        fetched.append(folder)
        progress(1, 1)
        raise DataError("no network here")

    monkeypatch.setattr("conjoin.experiments.digits.run.fetch_mnist", fetch)
    options = Options(preset="standard", mnist=tmp_path / "new", out=tmp_path / "run", epochs=1)
    with pytest.raises(DataError, match="fetch_mnist|--download"):
        run_digits(options, Console(quiet=True))
    assert not fetched
    with pytest.raises(DataError, match="no network here"):
        run_digits(replace(options, download=True), Console(quiet=True))
    assert fetched == [tmp_path / "new"]


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"preset": "quik"}, InputError, "no preset 'quik'"),
        ({"preset": "standard"}, InputError, "MNIST"),
        ({"seeds": 0}, InputError, "seeds must be positive"),
        ({"width": -1.0}, InputError, "width must be positive"),
        ({"width": 1e-3}, InputError, "no channel"),
        ({"device": "tpu"}, InputError, "auto, cpu or cuda"),
        ({"precision": "int8"}, InputError, "float32 or bfloat16"),
        ({"second": "handwritten"}, InputError, "two different"),
        ({"first": "streat"}, DataError, "street"),
        ({"preset": "standard", "mnist": Path("nowhere")}, DataError, "nowhere"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is_done(tmp_path, changes, error, match):
    with pytest.raises(error, match=match):
        run_digits(Options(**{"out": tmp_path / "run", **changes}), Console(quiet=True))
    assert not (tmp_path / "run").exists()
