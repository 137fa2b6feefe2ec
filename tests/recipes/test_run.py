"""A run gives the whole result, or a state to go on with, and mixes nothing."""

import errno
import hashlib
import json
import os
import sys

import pytest
import torch

from conjoin.checkpoints import open_checkpoint, save
from conjoin.errors import (
    InputError,
    MismatchError,
    NonFiniteError,
    OutputExistsError,
    StageError,
)
from conjoin.merging import Merged
from conjoin.recipes import Options, make_plan, recipe_from, run_plan, verify
from conjoin.recipes.verifying import read_record
from conjoin.streaming.running import _Files

TEXT = "method: mean\nmodels: [a, b]\n"


@pytest.fixture
def both(model):
    return model("a"), model("b")


def left(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("out"))


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_result_is_the_merge(both, made, tmp_path):
    found = made(TEXT)
    for name, tensor in both[0].items():
        assert torch.equal(found[name], (tensor + both[1][name]) / 2)
    assert left(tmp_path) == ["out"]
    assert set(bytes_of(tmp_path / "out")) == {"README.md", "conjoin.json", "model.safetensors"}


def test_a_path_may_be_text(both, plan, tmp_path):
    made = run_plan(plan("method: mean\nmodels: [a, b]\n"), str(tmp_path / "out"))
    assert read_record(str(tmp_path / "out"))["outputs"] == made["outputs"]
    assert not verify(str(tmp_path / "out")).wrong


@pytest.mark.parametrize(("name", "number"), [("processes", 0), ("processes", 1.5), ("threads", 0)])
def test_what_is_no_number_of_processes_or_threads(name, number):
    with pytest.raises(InputError, match=f"{name} has to be a whole number from 1 on"):
        Options(**{name: number})


def test_options_are_options(both, plan, tmp_path):
    with pytest.raises(InputError, match=r"such as Options\(processes=2\), not dict"):
        run_plan(plan("method: mean\nmodels: [a, b]\n"), tmp_path / "out", {"processes": 1})


def test_shards_have_an_index(both, made, tmp_path):
    found = made(TEXT + "output: {shard_size: 60 B}\n")
    assert list(found) == list(both[0])
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(both[0])


def test_one_file(both, plan, tmp_path):
    out = tmp_path / "out.safetensors"
    run_plan(plan(TEXT, single=out.name), out)
    assert list(open_checkpoint(out)) == list(both[0])
    assert left(tmp_path) == ["out.conjoin.json", "out.safetensors"]


def test_without_a_card_and_with_sha256(both, made, tmp_path):
    made(TEXT, options=Options(card=False, sha256=True, sync=False))
    assert set(bytes_of(tmp_path / "out")) == {"conjoin.json", "model.safetensors"}
    record = json.loads((tmp_path / "out" / "conjoin.json").read_text())
    found = record["inputs"][1]["files"][0]["sha256"]
    data = (tmp_path / "b" / "model.safetensors").read_bytes()
    assert found == hashlib.sha256(data).hexdigest()


def test_progress_is_told_from_nothing_to_all(both, made, tmp_path):
    heard = []
    made(TEXT, options=Options(progress=lambda done, total: heard.append((done, total))))
    nbytes = 4 * sum(tensor.numel() for tensor in both[0].values())
    assert heard[0] == (0, nbytes)
    assert heard[-1] == (nbytes, nbytes)
    assert heard == sorted(heard)


@pytest.fixture
def interrupted(both, made, tmp_path, monkeypatch):
    """A run of which two tensors are done."""
    write, calls = _Files.write, []

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) > 2:
            raise OSError(errno.EIO, "Input/output error")
        write(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(_Files, "write", fail)
        patched.setattr(Merged, "write", lambda *_: None)  # C writes by itself
        with pytest.raises(OSError, match="Input/output") as caught:
            made(TEXT, options=Options(threads=1))
    assert caught.value.__notes__ == [
        f"What is done lies in {tmp_path / 'out.partial'}; go on with resume=True."
    ]
    assert left(tmp_path) == ["out.partial"]
    return tmp_path


def test_going_on_does_only_what_is_not_done(interrupted, made, tmp_path, monkeypatch):
    write, calls = _Files.write, []

    def counted(*arguments):
        calls.append(arguments)
        write(*arguments)

    monkeypatch.setattr(_Files, "write", counted)
    monkeypatch.setattr(Merged, "write", lambda *_: None)
    found = made(TEXT, options=Options(resume=True))
    assert len(calls) == len(found) - 2
    made(TEXT, "whole")
    one, other = bytes_of(tmp_path / "out"), bytes_of(tmp_path / "whole")
    for name in ("model.safetensors", "conjoin.json"):
        assert one[name] == other[name]


def test_bytes_that_have_changed_since_are_done_again(interrupted, made, tmp_path):
    (file,) = (tmp_path / "out.partial" / "result").iterdir()
    data = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    data[start] ^= 1
    file.write_bytes(bytes(data))
    made(TEXT, options=Options(resume=True))
    made(TEXT, "whole")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


def test_what_is_left_is_not_taken_or_removed_without_being_asked(interrupted, made):
    with pytest.raises(StageError, match="pass resume=True to go on with it, or restart=True"):
        made(TEXT)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tmp_path: None, "the recipe has changed"),
        (
            lambda tmp_path: save(
                open_checkpoint(tmp_path / "b"),
                tmp_path / "b" / "model.safetensors",
                overwrite=True,
            ),
            "an input has changed",
        ),
    ],
)
def test_another_plan_is_not_gone_on_with(interrupted, made, tmp_path, change, words):
    change(tmp_path)
    text = TEXT + "seed: 3\n" if words.startswith("the recipe") else TEXT
    with pytest.raises(StageError, match=words):
        made(text, options=Options(resume=True))
    assert left(tmp_path) == ["out.partial"]
    made(text, options=Options(restart=True))
    assert left(tmp_path) == ["out"]


def test_going_on_with_nothing_begins(both, made):
    assert list(made(TEXT, options=Options(resume=True))) == list(both[0])


def test_an_existing_result_is_refused_and_stays(both, made, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        made(TEXT)
    with pytest.raises(InputError, match="no checkpoint"):
        made(TEXT, options=Options(overwrite=True))
    assert bytes_of(tmp_path / "out") == {"precious": b"x"}
    assert left(tmp_path) == ["out"]


def test_a_failed_run_leaves_the_result_that_was_there(both, model, made, tmp_path):
    made(TEXT)
    before = bytes_of(tmp_path / "out")
    model("b", both[1] | {"model.norm.weight": torch.tensor([1, torch.inf])})
    with pytest.raises(NonFiniteError):
        made(TEXT, options=Options(overwrite=True))
    assert bytes_of(tmp_path / "out") == before
    assert left(tmp_path) == ["out"]


def test_models_that_cannot_be_merged_leave_nothing(both, model, made, tmp_path):
    model("a", both[0] | {"mask": torch.tensor([1])})
    model("b", both[1] | {"mask": torch.tensor([2])})
    with pytest.raises(MismatchError, match="mask"):
        made(TEXT)
    assert left(tmp_path) == []


def test_an_input_that_changes_while_it_is_read_is_noticed(both, plan, tmp_path):
    made = plan(TEXT)
    path = tmp_path / "b" / "model.safetensors"

    def change(done, total):
        if done == total:
            save(both[0], path, overwrite=True)

    with pytest.raises(StageError, match="an input was changed while it was read"):
        run_plan(made, tmp_path / "out", Options(progress=change))
    assert not (tmp_path / "out").exists()
    run_plan(plan(TEXT), tmp_path / "out", Options(restart=True))
    assert torch.equal(
        open_checkpoint(tmp_path / "out")["lm_head.weight"], both[0]["lm_head.weight"]
    )


def test_what_appears_at_the_result_meanwhile_is_not_replaced(both, plan, tmp_path):
    def appear(done, total):
        if done == total:
            (tmp_path / "out").mkdir(exist_ok=True)
            (tmp_path / "out" / "precious").write_text("x")

    with pytest.raises(OutputExistsError):
        run_plan(plan(TEXT), tmp_path / "out", Options(progress=appear))
    assert bytes_of(tmp_path / "out") == {"precious": b"x"}
    (tmp_path / "out").rename(tmp_path / "theirs")
    run_plan(plan(TEXT), tmp_path / "out", Options(resume=True))  # nothing was lost
    assert left(tmp_path) == ["out"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_text_is_no_error(tmp_path):
    save({"w": torch.ones(2)}, tmp_path / "a.safetensors")
    recipe = recipe_from({"method": "mean", "models": ["a.safetensors"] * 2}, folder=tmp_path)
    out = tmp_path / os.fsdecode(b"p\xff")
    run_plan(make_plan(recipe), out, Options(sync=False))
    assert "p?" in (out / "README.md").read_text()
    assert torch.equal(open_checkpoint(out)["w"], torch.ones(2))
