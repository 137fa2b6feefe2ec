"""What the system is told about what will be read."""

import os

import pytest
import torch
from streaming_runs import filled, in_memory, merged_of, on_disk, small_blocks

from conjoin.streaming import cut_into_jobs, lay_out
from conjoin.streaming.ahead import ReadAhead

pytestmark = pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="no posix_fadvise here")


def _jobs(models):
    merged = merged_of(models)
    with small_blocks():
        jobs = cut_into_jobs(lay_out(merged.specs, {}), merged)
    return [(job, merged.tasks[job.name]) for job in jobs]


def test_every_byte_is_told_once_and_before_its_job(tmp_path, monkeypatch):
    models = [
        on_disk({"w": filled((500,), torch.bfloat16, i)}, tmp_path / f"{i}.safetensors")
        for i in range(2)
    ]
    told = []
    monkeypatch.setattr(os, "posix_fadvise", lambda file, at, count, what: told.append((at, count)))
    jobs = _jobs(models)
    ahead = ReadAhead(jobs, 1)
    for index in range(len(jobs)):
        ahead.reached(index)
        assert len(told) == 2 * min(index + 2, len(jobs))  # two files, one job ahead
    ahead.close()
    begin = models[0].in_file("w").begin
    starts = [begin + 2 * 128 * number for number in range(4)]
    counts = [256, 256, 256, 2 * (500 - 3 * 128)]
    pairs = zip(starts, counts, strict=True)
    assert told == [pair for pair in pairs for _ in range(2)]


def test_what_is_in_memory_or_gone_is_passed_over(tmp_path):
    state = {"w": filled((500,), torch.bfloat16, 0)}
    stored = on_disk(state, tmp_path / "m.safetensors")
    (tmp_path / "m.safetensors").unlink()
    ahead = ReadAhead(_jobs([in_memory(state), stored]), 3)
    ahead.reached(0)  # whoever reads the file will say so
    ahead.close()


def test_files_are_closed(tmp_path):
    stored = on_disk({"w": filled((500,), torch.bfloat16, 0)}, tmp_path / "m.safetensors")
    ahead = ReadAhead(_jobs([stored] * 2), 3)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None  # noqa: PTH112, PTH208
    ahead.reached(0)
    ahead.close()
    ahead.close()
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
