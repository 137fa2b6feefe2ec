import json
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
from conjoin.errors import DataError, InputError, StageError, TrainingError
from conjoin.experiments.digits.rows import ROWS, SECTIONS
from conjoin.experiments.digits.run import Options, run_digits
from conjoin.experiments.digits.table import cells_of
from conjoin.records import read_records
from conjoin.stages import StageCache

SMALL = {"width": 1 / 16, "epochs": 20, "device": "cpu", "precision": "float32"}


@pytest.fixture(scope="module")
def run(easy_mnist, easy_folder, tmp_path_factory):
    """A finished run over two seeds, its options and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "run"
    options = Options(
        first=f"mnist:{easy_mnist}", second=f"folder:{easy_folder}", out=out, seeds=2, **SMALL
    )
    console = Console(record=True, width=200, file=Path(os.devnull).open("w"))  # noqa: SIM115
    result = run_digits(options, console)
    console.file.close()
    return options, result, console.export_text()


def test_every_row_is_measured_on_its_tasks_for_every_seed(run):
    _, result, printed = run
    records = read_records(result)
    tasks = json.loads(result.read_text())["run"]["tasks"]
    found = {(r.model, r.task, r.seed, r.metric) for r in records if r.split == "test"}
    expected = {
        (row.key, tasks[task], seed, metric)
        for row in ROWS
        for task in SECTIONS[row.section].tasks
        for seed in (0, 1)
        for metric in ("accuracy", "loss")
    }
    assert found == expected
    for title in ("alone", "two-headed network", "ensemble", "thread's code", "k = 5"):
        assert title in printed
    assert records == read_records(result.with_suffix(".csv"))


def test_rows_that_must_agree_do(run):
    _, result, _ = run
    value = {
        (r.model, r.task, r.seed): r.value
        for r in read_records(result)
        if r.split == "test" and r.metric == "accuracy"
    }
    tasks = json.loads(result.read_text())["run"]["tasks"]
    for seed in (0, 1):
        alone = value["references: {first} alone", tasks[0], seed]
        assert (
            value["shuffled: the shuffled copy alone: the same function", tasks[0], seed] == alone
        )
        parents = {
            name: [value[f"references: {name} alone", task, seed] for task in tasks]
            for name in ("{first}", "{second}")
        }
        best = [
            value["references: best single parent (chosen on validation data)", task, seed]
            for task in tasks
        ]
        assert best in list(parents.values())
        # The point of it all: both specialists know their own task.
        assert parents["{first}"][0] > 90
        assert parents["{second}"][1] > 90


def test_only_rows_with_a_network_per_task_use_the_label(run):
    _, result, _ = run
    told = {r.model for r in read_records(result) if r.how.get("uses_task_label")}
    assert told == {
        row.key for row in ROWS if "two-headed" in row.name or row.section.startswith("depth")
    }


def test_cells_are_means_spreads_and_paired_differences(run):
    _, result, _ = run
    records = read_records(result)
    tasks = json.loads(result.read_text())["run"]["tasks"]
    cell = cells_of(records, tasks)["different: mean", tasks[1]]

    def values(row):
        return [
            r.value
            for r in records
            if r.model == row
            and r.task == tasks[1]
            and r.metric == "accuracy"
            and r.split == "test"
        ]

    own, mean = values("references: {second} alone"), values("different: mean")
    assert cell.mean == pytest.approx(statistics.fmean(mean))
    assert cell.spread == pytest.approx(statistics.stdev(mean))
    assert cell.difference == pytest.approx(statistics.fmean(mean) - statistics.fmean(own))


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
    options, result, _ = run
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
    options, result, _ = run
    command = [
        *(sys.executable, "-m", "conjoin", "digits", "--device", "cpu", "--precision", "float32"),
        *("--first", str(options.first), "--second", str(options.second)),
        *("--width", str(options.width), "--epochs", str(options.epochs)),
        *("--seeds", str(options.seeds), "--out", str(tmp_path / "killed")),
    ]
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
    assert (tmp_path / "killed" / "results.json").read_bytes() == result.read_bytes()


def _seconds_of_a_run(options: Options) -> float:
    stages = [p.stat().st_mtime for p in (options.out / "cache").glob("*/stage.json")]
    return max(stages) - min(stages)


def test_a_specialist_that_did_not_learn_stops_the_run(easy_mnist, easy_folder, tmp_path):
    options = Options(
        first=f"mnist:{easy_mnist}",
        second=f"folder:{easy_folder}",
        out=tmp_path / "run",
        **{**SMALL, "epochs": 1, "width": 1 / 32},
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
