import json
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from conjoin.cli import main
from conjoin.errors import DataError

NAMES = [
    *("preset", "seeds", "first_seed", "mnist", "svhn", "first", "second", "unseen", "out"),
    *("device", "precision", "width", "epochs", "train", "test", "settings"),
    *("table", "methods", "continuum", "strength", "profiles", "strengths", "download", "command"),
]


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """The options of each call of a `run_digits` that does nothing but print and write."""
    calls = []
    module: Any = ModuleType("conjoin.experiments.digits.run")

    @dataclass(frozen=True, kw_only=True)
    class Options:
        __annotations__ = dict.fromkeys(NAMES, Any)
        settings = None  # for tests; no option of the command line

    def run_digits(options, console):
        calls.append(options)
        console.print("[bold]the table[/bold]")
        (tmp_path / "results.json").write_text('{"rows": [1, 2]}\n', encoding="utf-8")
        return SimpleNamespace(folder=tmp_path)

    module.Options, module.run_digits = Options, run_digits
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


def test_defaults(run, calls):
    result = run("digits")
    (options,) = calls
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    unset = dict.fromkeys(
        [
            "mnist",
            "svhn",
            "first",
            "second",
            "unseen",
            "width",
            "epochs",
            "train",
            "test",
            "settings",
            "command",
            "strength",
        ],
        None,
    )
    assert values == unset | {
        "preset": "quick",
        "seeds": 1,
        "first_seed": 0,
        "out": Path("runs/digits-quick"),
        "device": "auto",
        "precision": "auto",
        "download": False,
        "table": True,
        "methods": False,
        "continuum": False,
        "profiles": (),
        "strengths": (),
    }
    assert type(options.preset) is str
    assert result.stdout == "the table\n"


def test_options_arrive(run, calls, monkeypatch):
    monkeypatch.setenv("CONJOIN_SVHN", "somewhere")
    run(
        *("digits", "--preset", "thesis", "--seeds", 3, "--first-seed", 4, "--mnist", "m"),
        *(
            "--first",
            "street",
            "--second",
            "folder:x",
            "--unseen",
            "none",
            "-o",
            "there",
            "--device",
            "cpu",
        ),
        *("--precision", "float32", "--width", 0.5, "--epochs", 2, "--train", 30, "--test", 40),
        *("--download", "--no-table", "--methods", "--continuum", "--strength", "auto"),
        *("--profile", "uniform", "--profile", "tied finish", "--strengths", "0, .1,inf"),
    )
    (o,) = calls
    assert (o.table, o.methods, o.continuum, o.strength) == (False, True, True, "auto")
    assert o.profiles == ("uniform", "tied finish")
    assert o.strengths == (0.0, 0.1, float("inf"))
    assert (o.preset, o.seeds, o.first_seed, o.mnist, o.svhn) == (
        "thesis",
        3,
        4,
        Path("m"),
        Path("somewhere"),
    )
    assert (o.first, o.second, o.out, o.device) == ("street", "folder:x", Path("there"), "cpu")
    assert (o.precision, o.width, o.epochs, o.train, o.test) == ("float32", 0.5, 2, 30, 40)
    assert o.download
    assert o.unseen == "none"


def test_the_command_is_handed_on(calls):
    with pytest.raises(SystemExit) as end:
        main(["digits", "-o", "my runs"])
    assert end.value.code == 0
    assert calls[0].command == "conjoin digits -o 'my runs'"


def test_json_is_alone_on_stdout(run, calls):
    result = run("digits", "--json")
    assert json.loads(result.stdout) == {"rows": [1, 2]}
    assert "the table" in result.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--preset", "huge"],
        ["--seeds", "0"],
        ["--first-seed", "-1"],
        ["--device", "tpu"],
        ["--width", "0"],
        ["--width", "nan"],
        ["--epochs", "0"],
        ["--strengths", "0;1"],
    ],
)
def test_options_that_cannot_be_used(run, calls, options):
    run("digits", *options, code=2)
    assert calls == []


def _raising(monkeypatch, error):
    def run_digits(options, console):
        raise error

    monkeypatch.setattr(sys.modules["conjoin.experiments.digits.run"], "run_digits", run_digits)


def test_interruption(run, calls, monkeypatch):
    _raising(monkeypatch, KeyboardInterrupt())
    expected = "Interrupted; what is finished is kept. Run the same command again to go on.\n"
    assert run("digits", code=130).stderr == expected


def test_errors_of_the_experiment(run, calls, monkeypatch):
    _raising(monkeypatch, DataError("no MNIST there"))
    assert run("digits", code=1).stderr == "Error: no MNIST there\n"


def test_a_missing_package(run, monkeypatch):
    class Missing:
        def find_spec(self, name, path=None, target=None):
            if name == "conjoin.experiments.digits.run":
                raise ModuleNotFoundError("No module named 'pooch'", name="pooch")

    monkeypatch.delitem(sys.modules, "conjoin.experiments.digits.run", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    error = run("digits", code=1).stderr
    assert "pooch" in error
    assert "conjoin[digits]" in error


def test_options_are_those_of_the_experiment():
    run_module = pytest.importorskip("conjoin.experiments.digits.run")
    assert [f.name for f in fields(run_module.Options)] == NAMES
