import errno
import io
import json
import time

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import conjoin
from conjoin.checkpoints import MemoryCheckpoint, open_checkpoint, save
from conjoin.cli import app
from conjoin.cli import progress as progress_module
from conjoin.cli.progress import byte_bar, tracked
from conjoin.streaming import partial_of
from conjoin.streaming.running import _Files


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ([], {}),
        (["-m", "sum"], {"method": "sum"}),
        (["--weights", "0.3,0.7"], {"method": "linear", "weights": [0.3, 0.7]}),
        (["-w", "2", "-w", "-1"], {"method": "linear", "weights": [2.0, -1.0]}),
        (
            ["-m", "linear", "-w", "1,3", "--set", "normalize=false"],
            {"method": "linear", "weights": [1.0, 3.0], "parameters": {"normalize": False}},
        ),
        (["--keep", "classifier.*=1"], {"keep": {"classifier.*": 1}}),
        (
            ["--kind", "bn.*=constant", "--keep", "bn.*=0"],
            {"kinds": {"bn.*": "constant"}, "keep": {"bn.*": 0}},
        ),
        (["--dtype", "bfloat16"], {"dtype": torch.bfloat16}),
    ],
)
def test_the_file_is_what_python_gives_bit_for_bit(
    assert_same, run, two, tmp_path, options, arguments
):
    out = tmp_path / "out.safetensors"
    run("merge", *two, "-o", out, *options)
    assert_same(out, conjoin.merge(two, **arguments))
    same = save(conjoin.merge(two, **arguments), tmp_path / "python.safetensors")
    assert out.read_bytes() == same.read_bytes()


def test_torch_files_in_and_out_with_an_entry(run, tmp_path):
    paths = []
    for number in (1.0, 3.0):
        path = tmp_path / f"{number}.pt"
        torch.save({"ema": {"w": torch.full((2,), number)}, "model": {"w": torch.ones(2)}}, path)
        paths.append(path)
    result = run("merge", *paths, "-o", tmp_path / "out.pt", "--entry", "ema")
    assert "ema" in result.stderr
    assert torch.equal(open_checkpoint(tmp_path / "out.pt")["w"], torch.full((2,), 2.0))


def test_the_summary_is_one_line_and_a_hint(run, two, tmp_path):
    out = tmp_path / "out.safetensors"
    result = run("merge", *two, "-o", out)
    assert result.stdout.count("\n") == 1
    assert f"{out}: 6 tensors" in result.stdout
    assert "mean of 2 models" in result.stdout
    assert "conjoin.reestimate_batchnorm" in result.stderr
    kept = run("merge", *two, "-o", tmp_path / "kept.safetensors", "--keep", "bn.*=0")
    assert kept.stderr == ""


def test_json(run, two, tmp_path):
    out = tmp_path / "out.safetensors"
    summary = json.loads(run("merge", *two, "-o", out, "--json").stdout)
    assert summary["needs_reestimation"] is True
    assert summary["file_bytes"] == out.stat().st_size
    assert (summary["method"], summary["models"], summary["tensors"]) == ("mean", 2, 6)
    assert summary["bytes"] == 4 * (12 + 4 + 4 + 4 + 8) + 8


def test_an_existing_output_is_refused_before_anything_is_opened_and_left_intact(run, tmp_path):
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"precious")
    result = run("merge", "missing-a", "missing-b", "-o", out, code=1)
    assert "exists" in result.stderr
    assert "--overwrite" in result.stderr
    assert "overwrite=True" not in result.stderr
    assert out.read_bytes() == b"precious"


def test_overwrite(assert_same, run, two, tmp_path):
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"old")
    run("merge", *two, "-o", out, "--overwrite")
    assert_same(out, conjoin.merge(two))


def test_a_record_lies_beside_the_file(run, two, tmp_path):
    out = tmp_path / "out.safetensors"
    run("merge", *two, "-o", out)
    assert sorted(p.name for p in tmp_path.iterdir() if p not in two) == [
        "out.conjoin.json",
        "out.safetensors",
    ]
    record = json.loads((tmp_path / "out.conjoin.json").read_text())
    assert [one["model"] for one in record["inputs"]] == [str(path) for path in two]


def test_overwriting_an_input(assert_same, run, two):
    expected = {name: tensor.clone() for name, tensor in conjoin.merge(two).items()}
    run("merge", *two, "-o", two[0], "--overwrite")
    assert_same(two[0], expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-m", "meen"], "did you mean 'mean'"),
        (["-w", "1,x"], "'x'"),
        (["-w", "1,nan"], "finite"),
        (["-w", "1,,2"], "''"),
        (["-w", "1"], "one weight per model"),
        (["-m", "sum", "-w", "1,2"], "leave out --weights"),
        (["-w", "1,-1"], "sum to zero"),
        (["--set", "normalize"], "KEY=VALUE"),
        (["--set", "normalise=true"], "no parameter 'normalise'"),
        (["-m", "linear", "--set", "normalize=maybe"], "true or false"),
        (["-m", "linear", "--set", "normalize=[1]"], "one value"),
        (["-m", "linear", "--set", "normalize={"], "cannot read"),
        (["-m", "linear", "--set", "normalize=no", "--set", "normalize=no"], "twice"),
        (["--keep", "classifier.*"], "KEY=VALUE"),
        (["--keep", "classifier.*=first"], "counted from 0"),
        (["--keep", "classifier.*=2"], "--keep 'classifier.*=2' names no model"),
        (["--keep", "clasifier.*=0"], "matches none"),
        (["--kind", "bn.*=banana"], "unknown kind"),
        (["--dtype", "int8"], "int8"),
    ],
)
def test_what_cannot_be_used_is_explained_with_exit_code_2(run, two, tmp_path, options, words):
    result = run("merge", *two, "-o", tmp_path / "out.safetensors", *options, code=2)
    assert words in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_other_arguments_that_cannot_be_used(run, two, tmp_path):
    assert "two or more" in run("merge", two[0], "-o", tmp_path / "o.pt", code=2).stderr
    mistyped = run("merge", *two, "-o", tmp_path / "out.safetensor", code=2).stderr
    assert "did you mean out.safetensors?" in mistyped
    assert "suffix" in run("merge", *two, "-o", tmp_path / "out.gguf", code=2).stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]
    assert "no folder" in run("merge", *two, "-o", tmp_path / "no" / "out.pt", code=2).stderr
    assert "say what to write" in run("merge", *two, code=2).stderr


def test_models_that_cannot_be_merged(run, two, tmp_path):
    out = tmp_path / "out.safetensors"
    other = save({"conv.weight": torch.ones(9)}, tmp_path / "other.safetensors")
    error = run("merge", two[0], other, "-o", out, code=2).stderr
    assert "only in model 0" in error
    assert "--keep 'pattern=number'" in error
    missing = run("merge", two[0], tmp_path / "c.safetensors", "-o", out, code=1)
    assert missing.stderr.startswith("Error: there is no file")
    half = save({"w": torch.ones(2).half()}, tmp_path / "half.safetensors")
    full = save({"w": torch.ones(2)}, tmp_path / "full.safetensors")
    assert "--dtype float32" in run("merge", half, full, "-o", out, code=2).stderr
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


def test_constants_that_differ_are_resolved_as_the_error_says(run, tmp_path):
    out = tmp_path / "out.safetensors"
    paths = [
        save({"attn.mask": torch.tensor([n]), "w": torch.ones(1)}, tmp_path / f"{n}.safetensors")
        for n in (1, 2)
    ]
    error = run("merge", *paths, "-o", out, code=1).stderr
    assert "--keep 'attn.mask=0'" in error
    assert "--kind 'attn.mask=weight'" in error
    run("merge", *paths, "-o", out, "--keep", "attn.mask=0")


def test_nonfinite_numbers(run, tmp_path):
    out = tmp_path / "out.safetensors"
    bad = save({"w": torch.tensor([float("nan")])}, tmp_path / "bad.safetensors")
    assert "--allow-nonfinite" in run("merge", bad, bad, "-o", out, code=1).stderr
    assert [p.name for p in tmp_path.iterdir()] == ["bad.safetensors"]
    run("merge", bad, bad, "-o", out, "--allow-nonfinite")
    assert open_checkpoint(out)["w"].isnan().all()


FAILURES = [
    (OSError(errno.ENOSPC, "No space left on device"), 1, "the disk is full"),
    (PermissionError(13, "Permission denied", "x.pt"), 1, "Permission denied: x.pt"),
    (MemoryError(), 1, "not enough memory"),
    (KeyboardInterrupt(), 130, "Interrupted."),
]


@pytest.mark.parametrize(("error", "code", "words"), FAILURES)
def test_after_a_failure_a_run_is_gone_on_with(run, two, tmp_path, monkeypatch, error, code, words):
    out = tmp_path / "out.safetensors"
    write, calls = _Files.write, []

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise error
        write(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(_Files, "write", fail)
        result = run("merge", *two, "-o", out, "--workers", 1, code=code)
    assert words in result.stderr
    assert f"What is done lies in {out}.partial; go on with --resume." in result.stderr
    assert "Traceback" not in result.stderr
    assert not out.exists()
    again = run("merge", *two, "-o", out, code=1).stderr
    assert "pass --resume to go on with it, or --restart to remove it" in again
    run("merge", *two, "-o", out, "--resume")
    whole = tmp_path / "whole.safetensors"
    run("merge", *two, "-o", whole)
    assert out.read_bytes() == whole.read_bytes()
    assert not partial_of(out).exists()


def test_an_interrupt_before_anything_is_written_says_so(run, two, tmp_path, monkeypatch):
    def interrupt(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr("conjoin.recipes.plan.build_tasks", interrupt)
    result = run("merge", *two, "-o", tmp_path / "out", code=130)
    assert result.stderr == "Interrupted. Nothing was written.\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_an_interrupt_while_the_result_is_made_durable_loses_nothing(
    assert_same, run, two, tmp_path, monkeypatch
):
    out = tmp_path / "out"

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("conjoin.streaming.place._sync", interrupt)
        result = run("merge", *two, "-o", out, code=130)
    assert "go on with --resume." in result.stderr
    run("merge", *two, "-o", out, "--resume")
    assert_same(out, conjoin.merge(two))


def test_restart_begins_again(assert_same, run, two, tmp_path, monkeypatch):
    out = tmp_path / "out.safetensors"

    def fail(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(_Files, "write", fail)
        run("merge", *two, "-o", out, code=1)
    other = run("merge", *two, "-o", out, "-m", "sum", "--resume", code=1).stderr
    assert "of another plan (the recipe has changed)" in other
    assert "--restart" in other
    run("merge", *two, "-o", out, "-m", "sum", "--restart")
    assert_same(out, conjoin.merge(two, "sum"))


def test_devices_that_are_not_there(run, two, tmp_path):
    error = run("merge", *two, "-o", tmp_path / "out", "--device", "gpu", code=2).stderr
    assert "no device 'gpu'" in error


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1, "the disk is full"),
        (KeyboardInterrupt(), 130, "Interrupted"),
    ],
)
def test_failures_that_torch_hides(run, two, tmp_path, monkeypatch, error, code, words):
    def fail(*arguments):
        try:
            raise error
        finally:
            raise RuntimeError("unexpected pos 704 vs 598")

    monkeypatch.setattr(torch, "save", fail)
    assert words in run("merge", *two, "-o", tmp_path / "out.pt", code=code).stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_a_mistake_in_the_program_is_not_hidden(two, tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("a bug")

    monkeypatch.setattr(torch, "save", fail)
    arguments = ["merge", *map(str, two), "-o", str(tmp_path / "out.pt")]
    with pytest.raises(RuntimeError, match="a bug"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_debug_shows_the_traceback_and_keeps_the_exit_code(run, two, tmp_path, monkeypatch):
    arguments = ["merge", *two, "-o", tmp_path / "out.pt", "-m", "meen"]
    result = run("--debug", *arguments, code=2)
    assert "Traceback" in result.stderr
    assert "Error: no method 'meen'" in result.stderr
    monkeypatch.setenv("CONJOIN_DEBUG", "1")
    assert "Traceback" in run(*arguments, code=2).stderr


def test_a_bar_counts_every_tensor_once(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress_module, "PATIENCE", 0.0)
    inner = MemoryCheckpoint({"x": torch.ones(4), "y": torch.arange(3)}, metadata={"k": "v"})
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120)
    with tracked(inner, console) as counted:
        time.sleep(0.05)
        assert (counted.metadata, counted.source) == ({"k": "v"}, "memory")
        assert counted.specs == inner.specs
        assert torch.equal(counted.read("x", 0, 2), torch.ones(2))
        assert torch.equal(counted.read("x", 2), torch.ones(2))
        assert torch.equal(counted["x"], torch.ones(4))
        assert torch.equal(counted["y"], torch.arange(3))
        time.sleep(0.25)
    assert "2/2 tensors" in stream.getvalue()
    assert "40/40 bytes" in stream.getvalue()


def test_no_bar_without_a_terminal_or_for_quick_work(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    inner = MemoryCheckpoint({"x": torch.ones(4)})
    stream = io.StringIO()
    with tracked(inner, Console(file=stream, force_terminal=False)) as same:
        assert same is inner
    with tracked(inner, Console(file=stream, force_terminal=True)) as counted:
        counted["x"]
    assert stream.getvalue().strip() == ""


def test_a_bar_of_bytes(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress_module, "PATIENCE", 0.0)
    stream = io.StringIO()
    with byte_bar(Console(file=stream, force_terminal=True, width=120)) as update:
        time.sleep(0.01)
        update(500, 2000)
        update(1000, 2000)
        time.sleep(0.25)
    assert "1.0/2.0 kB" in stream.getvalue()


def test_no_bar_of_bytes_without_a_terminal_or_for_quick_work(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = io.StringIO()
    for terminal in (False, True):
        with byte_bar(Console(file=stream, force_terminal=terminal)) as update:
            update(1, 2)
            update(2, 2)
    assert stream.getvalue().strip() == ""
