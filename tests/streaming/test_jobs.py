"""A result cut into jobs, and jobs divided among processes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from streaming_runs import BLOCK, WHOLE, filled, in_memory, merged_of, small_blocks, some

from conjoin.streaming import Job, cut_into_jobs, lay_out, share_of

sizes = st.lists(st.integers(0, 700), min_size=1, max_size=6)


def _jobs_of_sizes(numbers):
    return [Job(i, "w", i, i + 1, 0, i, nbytes) for i, nbytes in enumerate(numbers)]


@some
@given(sizes, st.sampled_from([torch.float32, torch.bfloat16]), st.integers(1, 2000))
def test_jobs_cover_every_tensor_once_in_the_order_of_the_bytes(numels, dtype, shard_bytes):
    state = {f"w{i}": filled((numel,), dtype, i) for i, numel in enumerate(numels)}
    merged = merged_of([in_memory(state)] * 2)
    layout = lay_out(merged.specs, {}, shard_bytes=shard_bytes)
    with small_blocks():
        jobs = cut_into_jobs(layout, merged)
    assert [job.number for job in jobs] == list(range(len(jobs)))
    reached = dict.fromkeys(state, 0)
    before = (-1, 0)
    for job in jobs:
        assert job.start == reached[job.name]
        assert job.start < job.stop <= job.start + 2 * BLOCK
        assert job.start % (2 * BLOCK) == 0  # so that it begins with a block
        assert job.nbytes == (job.stop - job.start) * dtype.itemsize
        file = layout.files[job.file]
        assert job.offset == file.offsets[job.name] + job.start * dtype.itemsize
        assert (job.file, job.offset) >= before
        reached[job.name], before = job.stop, (job.file, job.offset + job.nbytes)
    assert reached == {name: tensor.numel() for name, tensor in state.items()}


def test_a_tensor_that_is_needed_whole_is_one_job():
    state = {"w": filled((30, 30), torch.float32, 0), "n": torch.arange(900)}
    merged = merged_of([in_memory(state)], WHOLE)
    with small_blocks():
        jobs = cut_into_jobs(lay_out(merged.specs, {}), merged)
    by_name = {name: [job for job in jobs if job.name == name] for name in state}
    assert [(job.start, job.stop) for job in by_name["w"]] == [(0, 900)]
    assert len(by_name["n"]) == 8  # a constant goes through no method


@some
@given(st.lists(st.integers(1, 10**12), max_size=40), st.integers(1, 50))
def test_shares_are_a_partition_in_order(numbers, ranks):
    jobs = _jobs_of_sizes(numbers)
    shares = [share_of(jobs, rank, ranks) for rank in range(ranks)]
    assert [job for share in shares for job in share] == jobs


@some
@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=40), st.integers(1, 8))
def test_no_share_has_more_than_its_part_and_one_job(numbers, ranks):
    jobs = _jobs_of_sizes(numbers)
    for rank in range(ranks):
        nbytes = sum(job.nbytes for job in share_of(jobs, rank, ranks))
        assert nbytes <= sum(numbers) / ranks + max(numbers)


@pytest.mark.parametrize("ranks", [1, 3])
def test_nothing_to_do_is_shared_too(ranks):
    assert [share_of([], rank, ranks) for rank in range(ranks)] == [[]] * ranks
