"""Files are opened once for many reads, closed again, and no other file is taken for them."""

import io
import os
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import conjoin.checkpoints.descriptors as descriptors
from conjoin import merge
from conjoin.checkpoints import files_kept_open, open_checkpoint, save
from conjoin.checkpoints.descriptors import opened_file, read_into
from conjoin.errors import CheckpointError, InputError
from conjoin.merging.blocks import BLOCK


@pytest.fixture
def opened(monkeypatch):
    """The paths that are opened, in their order."""
    paths, before = [], io.FileIO

    def watched(path, *given, **keywords):
        paths.append(str(path))
        return before(path, *given, **keywords)

    monkeypatch.setattr(io, "FileIO", watched)
    return paths


@pytest.fixture
def path(tmp_path):
    return save({"w": torch.arange(10.0)}, tmp_path / "model.safetensors")


def test_within_a_file_is_opened_once_and_then_closed(path, opened):
    checkpoint = open_checkpoint(path)
    opened.clear()
    with files_kept_open():
        assert [checkpoint.read("w", k, k + 1).item() for k in range(10)] == list(range(10))
        (file,) = descriptors._KEPT.files.values()
        with files_kept_open():  # of which the outer one is the end
            checkpoint.read("w")
        assert not file.closed
    assert opened == [str(path)]
    assert file.closed
    assert checkpoint.read("w", 3, 4).item() == 3
    assert len(opened) == 2
    assert descriptors._KEPT.files is None


def test_an_error_within_closes_it(path):
    checkpoint = open_checkpoint(path)
    seen = []

    def read():
        with files_kept_open():
            checkpoint.read("w")
            seen.extend(descriptors._KEPT.files.values())
            checkpoint.read("w", 3, 11)

    with pytest.raises(InputError, match="the range"):
        read()
    (file,) = seen
    assert file.closed


def test_it_holds_for_one_thread(path, opened):
    checkpoint = open_checkpoint(path)
    opened.clear()
    with files_kept_open():
        checkpoint.read("w")
        thread = threading.Thread(target=checkpoint.read, args=("w",))
        thread.start()
        thread.join()
    assert opened == [str(path)] * 2


def test_a_file_changed_in_place_is_refused_while_it_is_kept_open(path):
    checkpoint = open_checkpoint(path)
    with files_kept_open():
        checkpoint.read("w")
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 4)
        with pytest.raises(CheckpointError, match="has changed since it was opened"):
            checkpoint.read("w")


def test_one_that_took_its_place_is_not_taken_for_it(path, tmp_path):
    first = open_checkpoint(path)
    with files_kept_open():
        assert first.read("w", 1, 2).item() == 1
        other = save({"w": -torch.arange(10.0)}, tmp_path / "other.safetensors")
        other.replace(path)
        second = open_checkpoint(path)
        # The one that was opened is read to the end; its successor is another file.
        assert second.read("w", 1, 2).item() == -1
        assert first.read("w", 1, 2).item() == 1
    with pytest.raises(CheckpointError, match="has changed since it was opened"):
        first.read("w")


def test_a_file_that_is_gone_is_an_error(path):
    checkpoint = open_checkpoint(path)
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot read .* again"):
        checkpoint.read("w")


def test_a_merge_opens_files_per_piece_of_work_and_not_per_block(tmp_path, opened):
    size = 5 * BLOCK
    models = [
        open_checkpoint(save({"w": torch.full((size,), float(k))}, tmp_path / f"{k}.safetensors"))
        for k in (1, 3)
    ]
    opened.clear()
    merged = merge(models, "slerp")["w"]  # looked at twice
    assert torch.equal(merged, torch.full((size,), 2.0))
    assert len([path for path in opened if path.startswith(str(tmp_path))]) <= 6


def test_only_so_many_are_kept(tmp_path, opened):
    count = descriptors._MOST + 2
    paths = [
        save({"w": torch.full((3,), 1.0 * k)}, tmp_path / f"{k}.safetensors") for k in range(count)
    ]
    checkpoints = [open_checkpoint(path) for path in paths]
    opened.clear()
    with files_kept_open():
        for _ in range(3):
            assert [one.read("w", 1, 2).item() for one in checkpoints] == list(range(count))
        assert len(descriptors._KEPT.files) == descriptors._MOST
    assert len(opened) == descriptors._MOST + 3 * 2


@pytest.mark.parametrize("has_preadv", [True, False])
def test_reading_fills_memory_or_says_that_the_file_ends(tmp_path, monkeypatch, has_preadv):
    if not has_preadv:
        monkeypatch.delattr(os, "preadv", raising=False)
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    target = bytearray(40)
    with opened_file("key", lambda: io.FileIO(path)) as file:
        assert read_into(file, memoryview(target), 50)
        assert bytes(target) == bytes(range(50, 90))
        assert not read_into(file, memoryview(target), 61)
        assert read_into(file, memoryview(target)[:0], 1000)
    assert file.closed


@pytest.mark.parametrize("kept", [True, False])
def test_blocks_of_many_files_at_once_hold_few_open(tmp_path, kept):
    descriptors_ = Path("/proc/self/fd")
    if not descriptors_.is_dir():
        pytest.skip("this system does not list open files")
    paths = [save({"w": torch.arange(9.0) + k}, tmp_path / f"{k}.safetensors") for k in range(30)]
    models = [open_checkpoint(path) for path in paths]
    before = len(list(descriptors_.iterdir()))
    with files_kept_open() if kept else nullcontext():
        streams = [model.blocks("w", 0, 9, 2) for model in models]
        for at in range(0, 9, 2):
            blocks = [next(stream)[0].item() for stream in streams]
            assert blocks == [at + k for k in range(30)]
            assert len(list(descriptors_.iterdir())) - before <= (8 if kept else 0)
