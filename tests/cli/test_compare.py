"""`conjoin compare` on a project that lies outside: its own network, loaders and checkpoints."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from outside_project import write_project

import conjoin
from conjoin.errors import ConjoinError
from conjoin.records import read_results

QUICK = ("--points", "3", "--curve-examples", "40", "--statistics", "60", "--no-page")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The folder of a project with two networks, ``a.pth`` and ``b.pth``."""
    folder = tmp_path_factory.mktemp("project")
    write_project(folder)
    return folder


@pytest.fixture
def at_project(project, monkeypatch):
    """Stand in the project's folder; what it imports is forgotten afterwards."""
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = dict(sys.modules)
    yield project
    for name in set(sys.modules) - set(before):
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(project)):
            del sys.modules[name]


def start(project, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "conjoin", "compare", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def finish(process):
    out, error = process.communicate(timeout=300)
    return SimpleNamespace(code=process.returncode, out=out, error=error)


def finished(out):
    """The stages that are done -> when."""
    found = (path for path in out.glob("cache/*/stage.json") if path.parent.suffix != ".partial")
    return {path: path.stat().st_mtime_ns for path in found}


FILE = ("--model", "net.py:SmallResNet", "--data", "data.py:loaders", "a.pth", "b.pth")


def test_a_project_outside(project, tmp_path):
    """Killed on its way, gone on with, and named in the two ways that there are."""
    out = tmp_path / "run"
    process = start(project, *FILE, "-o", out, *QUICK)
    while len(finished(out)) < 5 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    finish(process)
    done = finished(out)
    assert len(done) >= 5

    found = finish(start(project, *FILE, "-o", out, *QUICK))
    assert (found.code, found.error) == (0, "")
    assert done.items() <= finished(out).items()
    for text in ("mean + re-estimated statistics", "inverted", "a alone", "Left out:", "Results:"):
        assert text in found.out
    results = read_results(out / "results.json")
    assert results.run["command"] == " ".join(["conjoin", "compare", *FILE, "-o", str(out), *QUICK])
    value = {
        (r.how["row"], r.task): r.value
        for r in results.records
        if r.how["view"] == "row" and r.metric == "accuracy" and r.split == "test"
    }
    assert value["a alone", "digits"] > 50
    assert value["b alone", "inverted"] > 50
    assert results.run["specialists"] == {
        "digits": "models: a alone",
        "inverted": "models: b alone",
    }
    saved = conjoin.open_checkpoint(out / "checkpoints/seed-0/models-mean.safetensors")
    merged = conjoin.merge([project / "a.pth", project / "b.pth"])
    assert saved.keys() == merged.keys()
    assert all(torch.equal(saved[name], merged[name]) for name in merged)

    options = ("--model", "mynets.net:SmallResNet", "--data", "mynets.data:loaders")
    other = finish(start(project, *options, "a.pth", "b.pth", "-o", tmp_path / "other", *QUICK))
    assert other.code == 0
    assert read_results(tmp_path / "other/results.json").records == results.records


def test_interrupted(project, tmp_path):
    out = tmp_path / "run"
    options = ("--model", "net.py:SmallResNet", "--data", "data.py:slow", "a.pth", "b.pth")
    process = start(project, *options, "-o", out, *QUICK)
    while not finished(out) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    found = finish(process)
    assert found.code == 130
    assert found.error == (
        "Interrupted; what is finished is kept. Run the same command again to go on.\n"
    )


def test_workers_that_load(project, tmp_path):
    options = ("--model", "net.py:SmallResNet", "--data", "data.py:in_workers")
    found = finish(start(project, *options, "a.pth", "b.pth", "-o", tmp_path / "run", *QUICK))
    assert (found.code, found.error) == (0, "")


def compare(run, out, *options, code=0, model="net.py:SmallResNet", data="data.py:few"):
    named = ("--model", model, "--data", data)
    return run("compare", *named, "a.pth", "b.pth", "-o", out, *QUICK, *options, code=code)


def test_json_and_options(run, at_project, tmp_path):
    found = compare(
        run, tmp_path / "run", "--json", "--repeat", "b.pth, a.pth",
        "--reference", "all [red]data=a.pth", "--title", "mine",
    )  # fmt: skip
    document = json.loads(found.stdout)
    assert document == json.loads((tmp_path / "run/results.json").read_text())
    assert document["run"]["title"] == "mine"
    assert document["run"]["seeds"] == [0, 1]
    assert "all [red]data" in found.stderr
    assert document["run"]["rows"][-1]["name"] == "all [red]data"


def test_an_entry(run, at_project, tmp_path):
    found = compare(run, tmp_path / "run", "--entry", "ema", code=2)
    assert "no entry 'ema'" in found.stderr


def test_the_page(run, at_project, tmp_path, monkeypatch):
    import conjoin.report

    out, made = tmp_path / "run", []

    def write_report(folders):
        made.append(folders)
        return folders[0] / "report.html"

    monkeypatch.setattr(conjoin.report, "write_report", write_report)
    monkeypatch.setattr(conjoin.report, "save_figures", lambda run, folder: made.append(folder))
    assert f"The page: {out / 'report.html'}" in run("compare", "a.pth", "b.pth", "-o", out).stdout
    assert made == [[out], out / "figures"]
    run("compare", "a.pth", "b.pth", "-o", out, "--no-page")
    assert len(made) == 2

    def missing(folders):
        raise ConjoinError("the package altair is missing")

    monkeypatch.setattr(conjoin.report, "write_report", missing)
    found = run("compare", "a.pth", "b.pth", "-o", out)
    assert "No page: the package altair is missing" in found.stdout
    assert "Results:" in found.stdout


def test_a_real_page(run, at_project, tmp_path):
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    run("compare", "a.pth", "b.pth", "-o", tmp_path / "run")
    assert "<html" in (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert list((tmp_path / "run/figures").glob("*.svg"))


def test_files_alone(run, at_project, tmp_path):
    found = run("compare", "a.pth", "b.pth", "-o", tmp_path / "run", "--no-page")
    assert "--model" in found.stdout
    assert "Distances between the weights" in found.stdout
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == [
        "mean.safetensors",
        "sum.safetensors",
    ]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ({"model": "net.py:SmalResNet"}, 2, "no 'SmalResNet'; did you mean 'SmallResNet'"),
        ({"model": "nets.py:SmallResNet"}, 2, "there is no file nets.py"),
        ({"model": "net.py:sized"}, 1, "function without arguments"),
        ({"model": "net.py:nothing"}, 2, "must give a torch.nn.Module; it gave NoneType"),
        ({"model": "torch.nn:Identity"}, 1, "does not fit Identity"),
        ({"data": "data.py:loader"}, 2, "did you mean 'loaders'"),
        ({"data": "data.py:not_a_function"}, 2, "is no function or class, but int"),
        ({"data": "data.py:none"}, 1, "gave None; it must return the loaders"),
        ({"data": "data.py:no_validation"}, 1, "no validation part"),
        ({"data": "data.py:misspelled"}, 1, "did you mean 'validation'"),
        ({"data": "data.py:channels"}, 1, "float32 [40, 3, 8, 8]"),
        ({"data": "data.py:beyond"}, 1, "labels reach from 1 to 10, but the model has 10"),
        ({"data": "data.py:as_dicts"}, 1, "pairs (inputs, labels)"),
        ({"data": "data.py:raising"}, 1, 'raise RuntimeError("my own mistake")'),
        ({"data": "data.py:gone"}, 1, "image 20 is gone"),
        ({"data": "broken.py:loaders"}, 1, "SyntaxError"),
    ],
)
def test_what_cannot_be_used(run, at_project, tmp_path, options, code, message):
    found = compare(run, tmp_path / "run", code=code, **options)
    assert message in found.stderr
    assert "src/conjoin" not in found.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels", "10,x"], "--labels takes numbers"),
        (["--labels", ","], "--labels takes numbers"),
        (["--reference", "c.pth"], "--reference takes NAME=FILE"),
        (["--reference", "x=a.pth", "--reference", "x=b.pth"], "two files 'x'"),
        (["--repeat", "a.pth"], "repetition 1 has 1 models, but there are 2: a, b"),
        (["--repeat", "a.pth,"], "--repeat takes files"),
        (["--device", "tpu9"], "networks cannot run on the device 'tpu9'"),
        (["--points", "2"], "points"),
    ],
)
def test_options_that_cannot_be_used(run, at_project, tmp_path, options, message):
    assert message in compare(run, tmp_path / "run", *options, code=2).stderr
    assert not (tmp_path / "run").exists()


def test_half_of_what_is_needed(run, at_project, tmp_path):
    out = tmp_path / "run"
    found = run("compare", "a.pth", "b.pth", "-o", out, "--model", "net.py:SmallResNet", code=2)
    assert "--model needs --data too" in found.stderr
    found = run("compare", "a.pth", "b.pth", "-o", out, "--data", "data.py:few", code=2)
    assert "--data needs --model too" in found.stderr
    assert "two or more models" in run("compare", "a.pth", "-o", out, code=2).stderr
    assert "called" in run("compare", "a.pth", "a.pth", "-o", out, code=2).stderr
    found = run("compare", "a.pth", "b.pth", "-o", out, "--repeat", "a.pth,b.pth", code=2)
    assert "only run" in found.stderr
    assert "missing.pth" in run("compare", "a.pth", "missing.pth", "-o", out, code=1).stderr
    out.write_text("")
    assert "is a file; name a folder" in compare(run, out, code=2).stderr


def test_checkpoints_that_cannot_be_used(run, at_project, tmp_path):
    tensors = torch.load("a.pth", weights_only=True)
    named = ("--model", "net.py:SmallResNet", "--data", "data.py:few")
    tensors["head.bias"][3] = float("nan")
    torch.save(tensors, tmp_path / "nan.pth")
    for options in (named, ()):
        out = tmp_path / "run"
        found = run("compare", *options, "a.pth", tmp_path / "nan.pth", "-o", out, code=1)
        assert "'head.bias' of nan has 1 NaN" in found.stderr
    del tensors["head.bias"]
    tensors["extra"] = torch.zeros(1)
    torch.save(tensors, tmp_path / "names.pth")
    found = run("compare", *named, "a.pth", tmp_path / "names.pth", "-o", tmp_path / "run", code=1)
    assert "head.bias" in found.stderr
    assert "extra" in found.stderr
    found = run("compare", "a.pth", tmp_path / "names.pth", "-o", tmp_path / "run", code=1)
    assert "not of one structure" in found.stderr
    assert not (tmp_path / "run").exists()


def test_a_full_disk(run, at_project, tmp_path, monkeypatch):
    real, calls = os.fsync, []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) > 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        found = compare(run, tmp_path / "run", code=1)
    assert "the disk is full" in found.stderr
    assert not (tmp_path / "run/results.json").exists()
    compare(run, tmp_path / "run")
    assert (tmp_path / "run/results.json").exists()
