"""Specialists that were fine-tuned from one network, merged by every method."""

import os
from pathlib import Path

import pytest
from rich.console import Console

from conjoin.checkpoints import open_checkpoint
from conjoin.comparison import Settings
from conjoin.experiments.digits.run import Options, run_digits
from conjoin.methods import METHODS

FEW = Settings(
    statistics=100, curve_examples=100, points=3, resolution=2, layers=2, labels=(0,),
    transfer_steps=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def run(easy_mnist, easy_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    options = Options(
        first=f"mnist:{easy_mnist}",
        second=f"folder:{easy_folder}",
        unseen="none",
        out=out,
        settings=FEW,
        table=False,
        methods=True,
        width=1 / 32,
        epochs=8,
        train=500,
        test=100,
        device="cpu",
        precision="float32",
    )
    console = Console(record=True, width=200, file=Path(os.devnull).open("w"))  # noqa: SIM115
    found = run_digits(options, console)
    console.file.close()
    return found


def _mean(run, key, split="test"):
    values = [
        r.value for r in run.view("row") if (r.model, r.split, r.metric) == (key, split, "accuracy")
    ]
    return sum(values) / len(values)


def test_every_method_is_measured_on_both_tasks(run):
    rows = [key.partition(": ")[2] for key in run.rows if key.startswith("fine-tuned: ")]
    fitting = {name for name, method in METHODS.items() if method.models in (None, 2)}
    assert fitting <= set(rows)
    assert "ensemble of outputs" in rows
    (base,) = [row for row in rows if row.startswith("their base")]
    assert run.rows[f"fine-tuned: {base}"].kind == "reference"


def test_the_specialists_come_from_the_base(run):
    folder = run.folder / "checkpoints" / "seed-0"
    base, first, second = (
        open_checkpoint(folder / f"{name}.safetensors")
        for name in ("base", "first-fine-tuned", "second-fine-tuned")
    )

    def distance(a, b):
        return sum(float((a[n] - b[n]).square().sum()) for n in a if n.endswith("weight"))

    # Nearer to the base than its weights are long: they went on, and did not begin anew.
    length = sum(float(base[n].square().sum()) for n in base if n.endswith("weight"))
    for tuned in (first, second):
        assert 0 < distance(base, tuned) < length
    assert distance(first, second) > 0


def test_merging_changes_of_the_base_beats_chance(run):
    for method in ("mean", "task_arithmetic", "ties"):
        assert _mean(run, f"fine-tuned: {method}") > 50
