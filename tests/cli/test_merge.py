import errno
import io
import json
import math
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
from conjoin.methods import METHODS, Need
from conjoin.streaming import partial_of
from conjoin.streaming.running import _Files


def assert_same(path, expected):
    found = open_checkpoint(path)
    assert list(found) == list(expected)
    for name in expected:
        assert found[name].dtype == expected[name].dtype
        assert torch.equal(found[name], expected[name]), name


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
def test_the_file_is_what_python_gives_bit_for_bit(run, two, tmp_path, options, arguments):
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


def test_overwrite(run, two, tmp_path):
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


def test_overwriting_an_input(run, two):
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
    run, two, tmp_path, monkeypatch
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


def test_restart_begins_again(run, two, tmp_path, monkeypatch):
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


@pytest.fixture
def recipe(two, tmp_path):
    path = tmp_path / "recipe.yml"
    path.write_text(
        "method: linear\nmodels:\n"
        + "".join(
            f"  - {{model: {name}.safetensors, weight: {weight}}}\n"
            for name, weight in (("a", 0.3), ("b", 0.7))
        )
    )
    return path


def test_a_recipe_is_the_same_as_options(run, two, recipe, tmp_path):
    result = run("merge", recipe, tmp_path / "out")
    assert result.stdout.count("\n") == 1
    assert_same(tmp_path / "out", conjoin.merge(two, "linear", weights=[0.3, 0.7]))
    summary = json.loads(run("merge", recipe, "-o", tmp_path / "more", "--json").stdout)
    assert summary["plan"] == json.loads(run("plan", recipe, "--json").stdout)["hash"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "README.md",
        "conjoin.json",
        "model.safetensors",
    }


def test_models_may_be_references_with_adapters(run, two, tmp_path):
    (tmp_path / "lora").mkdir()
    factors = {
        "base_model.model.conv.lora_A.weight": torch.ones(1, 3),
        "base_model.model.conv.lora_B.weight": torch.ones(4, 1),
    }
    save(factors, tmp_path / "lora" / "adapter_model.safetensors")
    (tmp_path / "lora" / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["conv"]})
    )
    out = tmp_path / "out.safetensors"
    run("merge", f"{two[0]}+{tmp_path / 'lora'}", two[0], "-o", out)
    difference = open_checkpoint(out)["conv.weight"] - open_checkpoint(two[0])["conv.weight"]
    torch.testing.assert_close(difference, torch.full((4, 3), 0.5))
    run("verify", out)
    error = run("merge", tmp_path / "nothing", two[0], "-o", tmp_path / "x", code=2).stderr
    assert "models[0]: there is no file" in error


def test_what_a_recipe_says_is_not_said_by_options_too(run, recipe, tmp_path):
    error = run("merge", recipe, tmp_path / "out", "-w", "1,2", "--seed", 0, code=2).stderr
    assert "--weights, --seed cannot be given beside a recipe" in error
    assert "write it into" in error
    assert "recipe.yml OUT" in run("merge", recipe, code=2).stderr
    assert "recipe.yml OUT" in run("merge", recipe, "x", "y", code=2).stderr


def test_errors_of_a_recipe_speak_of_its_keys(run, recipe, tmp_path):
    save({"conv.weight": torch.ones(4, 3).half()}, tmp_path / "b.safetensors", overwrite=True)
    error = run("merge", recipe, tmp_path / "out", code=2).stderr
    assert f"{recipe}:2: " in error
    assert "`keep: {PATTERN: MODEL}` in the recipe" in error
    assert "--" not in error
    bad = {"w": torch.tensor([math.nan])}
    for name in ("a", "b"):
        save(bad, tmp_path / f"{name}.safetensors", overwrite=True)
    error = run("merge", recipe, tmp_path / "out", code=1).stderr
    assert "write `nonfinite: allow`" in error
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


def test_torch_files_are_written_from_recipes_too(run, two, recipe, tmp_path):
    run("merge", recipe, tmp_path / "out.pt")
    assert_same(tmp_path / "out.pt", conjoin.merge(two, "linear", weights=[0.3, 0.7]))
    error = run("merge", recipe, tmp_path / "more.pt", "--resume", code=2).stderr
    assert "write a .safetensors file or a folder to resume" in error
    recipe.write_text(recipe.read_text() + "output: {format: torch}\n")
    assert "ends in .pt" in run("merge", recipe, tmp_path / "out", code=2).stderr


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


@pytest.mark.parametrize("base", [True, False])
def test_a_base_that_the_method_can_do_without(run, two, tmp_path, base):
    out, ancestor = tmp_path / "out.safetensors", tmp_path / "base.safetensors"
    save({name: tensor + 1 for name, tensor in open_checkpoint(two[0]).items()}, ancestor)
    options = ["--base", ancestor] if base else []
    run("merge", *two, "-o", out, "-m", "nuslerp", "-w", "1,3", *options)
    given = {"base": ancestor} if base else {}
    assert_same(out, conjoin.merge(two, "nuslerp", weights=[1.0, 3.0], **given))


def test_one_model_and_its_base(run, two, tmp_path):
    out = tmp_path / "out.safetensors"
    run("merge", two[0], "--base", two[1], "-m", "nearswap", "--set", "t=0.5", "-o", out)
    assert_same(out, conjoin.merge(two[:1], "nearswap", base=two[1], parameters={"t": 0.5}))
    run("merge", *two, "--base", two[1], "-m", "nearswap", "-o", out, "--overwrite", code=2)
    alone = run("merge", two[0], "-m", "passthrough", "-o", tmp_path / "new.safetensors", code=2)
    assert "one and --base" in alone.stderr


def test_one_result_for_each_task(run, tmp_path):
    for k, name in enumerate(("base", "a", "b")):
        save({"w": torch.arange(6.0) * k, "v": torch.ones(2) * k}, tmp_path / f"{name}.safetensors")
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(
        "method: emr\nbase: base.safetensors\nmodels: [a.safetensors, b.safetensors]\n"
    )
    out = tmp_path / "out"
    result = run("merge", recipe, out, "--json")
    assert [one["out"] for one in json.loads(result.stdout)] == [
        str(path) for path in sorted(out.iterdir())
    ]
    states = [open_checkpoint(tmp_path / f"{name}.safetensors") for name in "ab"]
    base = open_checkpoint(tmp_path / "base.safetensors")
    for k, folder in enumerate(sorted(out.iterdir())):
        expected = conjoin.merge(states, "emr", base=base, parameters={"task": k})
        assert_same(folder, expected)
        assert run("verify", folder).exit_code == 0
    refused = run("merge", recipe, tmp_path / "one.safetensors", code=2)
    assert "one result for each model" in refused.stderr
    assert "exists" in run("merge", recipe, out, code=1).stderr
    assert json.loads(run("merge", recipe, out, "--resume", "--json").stdout or "[]") == []


@pytest.mark.parametrize("row", METHODS.values(), ids=METHODS.keys())
def test_every_method_does_by_options_what_it_does_from_python(row, two, run, tmp_path):
    if row.models == 1 and Need.BASE not in row.needs:
        return  # one model alone is for recipes, where layers are stacked
    models, options, given = two[: row.models or 2], [], {}
    if Need.BASE in row.needs:
        given["base"] = tmp_path / "base.safetensors"
        drawn = {
            name: tensor + 0.5 if tensor.is_floating_point() else tensor
            for name, tensor in open_checkpoint(two[0]).items()
        }
        options += ["--base", save(drawn, given["base"])]
    if Need.WEIGHTS in row.needs:
        given["weights"] = [0.5, 2.0][: len(models)]
        options += ["--weights", ",".join(map(str, given["weights"]))]
    if row.per_task:
        given["parameters"] = {"task": 1}  # else there are several results
        options += ["--set", "task=1"]
    run("merge", *models, "-m", row.name, "-o", tmp_path / "out.safetensors", *options)
    assert_same(tmp_path / "out.safetensors", conjoin.merge(models, row.name, **given))
