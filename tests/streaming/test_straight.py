"""From files to a file in C: the same bytes and digests as by way of tensors."""

import os

import pytest
import torch
from streaming_runs import filled, merged_of, on_disk, small_blocks, tree, write

from conjoin.checkpoints import MemoryCheckpoint
from conjoin.compiled import load_library
from conjoin.errors import CheckpointError, NonFiniteError
from conjoin.merging import Merged
from conjoin.streaming import NotedCheckpoint


@pytest.mark.parametrize("method", ["linear", "slerp", "model_stock", "dare_linear", "passthrough"])
def test_straight_from_files_is_what_tensors_give(method, tmp_path, monkeypatch):
    monkeypatch.setattr("conjoin.compiled.programs.LEAST", 1)
    count = {"passthrough": 1, "linear": 2, "slerp": 2}.get(method, 3)
    states = [
        {"w": filled((700,), torch.bfloat16, k), "v": filled((5, 7), torch.float32, k)}
        for k in range(count)
    ]
    models = [
        NotedCheckpoint(on_disk(state, tmp_path / f"{k}.safetensors"))
        for k, state in enumerate(states)
    ]
    straight = []
    write_straight = Merged.write

    def noted(self, *args):
        straight.append(write_straight(self, *args))
        return straight[-1]

    with small_blocks():
        monkeypatch.setattr(Merged, "write", noted)
        found = write(merged_of(models, method), tmp_path / "straight")
        monkeypatch.setattr(Merged, "write", lambda *args: None)
        expected = write(merged_of(models, method), tmp_path / "tensors")
    assert found == expected  # the digests of all that was read and written
    assert tree(tmp_path / "straight") == tree(tmp_path / "tensors")
    if load_library() is not None:
        assert any(straight) is (method != "dare_linear")  # that one draws masks


def two(tmp_path):
    states = [{"w": filled((700,), torch.bfloat16, k)} for k in range(2)]
    return [on_disk(state, tmp_path / f"{k}.safetensors") for k, state in enumerate(states)]


def test_a_file_that_was_changed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("conjoin.compiled.programs.LEAST", 1)
    models = two(tmp_path)
    path = tmp_path / "1.safetensors"
    with small_blocks():
        merged = merged_of(models, "linear")
        os.utime(path, ns=(1, 1))
        with pytest.raises(CheckpointError, match=r"1\.safetensors has changed"):
            write(merged, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_numbers_that_are_not_finite_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("conjoin.compiled.programs.LEAST", 1)
    state = {"w": filled((700,), torch.bfloat16, 5)}
    state["w"][650] = torch.nan
    models = [two(tmp_path)[0], on_disk(state, tmp_path / "nan.safetensors")]
    with small_blocks(), pytest.raises(NonFiniteError, match="'w' of model 1.* has 1 NaN"):
        write(merged_of(models, "linear"), tmp_path / "out")
    with small_blocks():
        write(merged_of(models, "linear", allow_nonfinite=True), tmp_path / "allowed")


@pytest.mark.skipif(load_library() is None, reason="this installation has no compiled part")
def test_what_may_go_straight(tmp_path):
    def merged(*more, method="linear", files=True):
        states = [{"w": filled((7,), torch.bfloat16, k), **dict(more)} for k in range(2)]
        if not files:
            return merged_of([MemoryCheckpoint(state) for state in states], method)
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        return merged_of(
            [on_disk(s, folder / f"{k}.safetensors") for k, s in enumerate(states)], method
        )

    assert merged().may_go_straight()
    assert merged(("nothing", torch.empty(0, dtype=torch.int64))).may_go_straight()
    assert not merged(("bn.running_mean", torch.ones(3))).may_go_straight()
    assert not merged(("ids", torch.arange(3))).may_go_straight()
    assert not merged(("v", torch.ones(3, dtype=torch.float64))).may_go_straight()
    assert not merged(files=False).may_go_straight()
