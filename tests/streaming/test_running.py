"""What is written is what is computed in memory, whatever the number of threads and files."""

import errno
import math
import os
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from streaming_runs import (
    ANY,
    REAL,
    bits,
    few,
    filled,
    in_memory,
    merged_of,
    on_disk,
    small_blocks,
    write,
)

from conjoin.checkpoints import Checkpoint, MemoryCheckpoint, open_checkpoint
from conjoin.errors import NonFiniteError
from conjoin.streaming import (
    NotedCheckpoint,
    Ranks,
    allocate,
    cut_into_jobs,
    lay_out,
    run_forked,
    run_place,
    write_tensors,
)

FLOATS = [
    *(torch.bfloat16, torch.float16, torch.float32, torch.float64),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
]
CONSTANTS = [torch.bool, torch.uint8, torch.int16, torch.int64]
sizes = st.sampled_from([0, 1, 2, 63, 64, 65, 127, 128, 129, 300, 700])
names = st.text(st.characters(exclude_categories=("Cs",)), max_size=8).filter(
    lambda name: name not in ("__metadata__", "format", "pt", "conjoin.order")
)


@st.composite
def states(draw, *, real):
    """Three models of one structure: every dtype, nasty shapes, BatchNorm, a tied pair."""
    floats = FLOATS if real else [*FLOATS, torch.complex64]
    structure = draw(
        st.dictionaries(
            names,
            st.tuples(
                st.one_of(st.just(()), sizes.map(lambda n: (n,)), sizes.map(lambda n: (n, 3))),
                st.sampled_from([*floats, *CONSTANTS]),
            ),
            max_size=6,
        )
    )
    models = []
    for seed in range(3):
        state = {}
        for number, (name, (shape, dtype)) in enumerate(structure.items()):
            if dtype in CONSTANTS:
                state[f"{name}."] = (torch.arange(math.prod(shape)) % 2).to(dtype).reshape(shape)
            else:
                state[f"{name}."] = filled(shape, dtype, 10 * number + seed)
        state["bn.running_mean"] = filled((70,), torch.float32, seed)
        state["bn.running_var"] = filled((70,), torch.float32, seed + 5).square()
        state["bn.num_batches_tracked"] = torch.tensor(seed)
        state["head.weight"] = state["embedding.weight"] = filled((20, 7), torch.float32, seed + 9)
        models.append(state)
    return models


def _expected(models, method, **settings):
    merged = merged_of([in_memory(state) for state in models], method, **settings)
    return {name: bits(merged[name]) for name in merged}


def _read(out):
    found = open_checkpoint(out)
    return {name: bits(found[name]) for name in found}


# The bytes ----------------------------------------------------------------------------------------


def _check(models, method, threads, shard_bytes, stored, folder, **settings):
    with small_blocks():
        expected = _expected(models, method, **settings)
        opened: list[Checkpoint] = [in_memory(state) for state in models]
        if stored:
            opened = [
                NotedCheckpoint(on_disk(state, folder / f"{i}.safetensors"))
                for i, state in enumerate(models)
            ]
        merged = merged_of(opened, method, **settings)
        done = write(merged, folder / "out", shard_bytes=shard_bytes, threads=threads)
        if stored:  # all that was read is known by its digest
            assert all(None not in one.inputs for one in done.values())
    assert _read(folder / "out") == expected


@few
@given(
    states(real=False),
    st.sampled_from(ANY),
    st.sampled_from([1, 2, 4]),
    st.none() | st.integers(1, 5000),
    st.booleans(),
)
def test_written_is_what_is_computed_in_memory(models, method, threads, shard_bytes, stored):
    with tempfile.TemporaryDirectory() as folder:
        _check(models, method, threads, shard_bytes, stored, Path(folder))


@few
@given(
    states(real=True),
    st.sampled_from(REAL),
    st.sampled_from([1, 2, 4]),
    st.none() | st.integers(1, 5000),
    st.sampled_from(["model", "tensor"]),
)
def test_written_is_what_is_computed_with_a_look_at_all_first(
    models, method, threads, shard_bytes, per
):
    parameters = {"per": per} if "per" in method.defaults else {}
    with tempfile.TemporaryDirectory() as folder:
        _check(models, method, threads, shard_bytes, True, Path(folder), parameters=parameters)


@pytest.mark.parametrize("method", ["linear", "slerp", "dare_linear"])
def test_blocks_of_their_true_size(tmp_path, method):
    # Two jobs and a little, of which the first has 32 blocks.
    models = [{"w": filled((2900, 2900), torch.bfloat16, seed)} for seed in range(3)]
    expected = _expected(models, method)
    opened = [on_disk(state, tmp_path / f"{i}.safetensors") for i, state in enumerate(models)]
    write(merged_of(opened, method), tmp_path / "out", threads=2)
    assert _read(tmp_path / "out") == expected


class _Alone(Ranks):
    """A process of several that waits for no other."""

    def gather(self, value):
        return [value]


@few
@given(
    states(real=False),
    st.sampled_from(ANY),
    st.integers(1, 5),
    st.permutations(range(5)),
    st.integers(1, 5),
)
def test_processes_write_their_shares_in_any_order(models, method, count, order, later):
    with tempfile.TemporaryDirectory() as folder, small_blocks():
        merged = merged_of([in_memory(state) for state in models], method)
        layout = lay_out(merged.specs, merged.metadata, shard_bytes=900)
        jobs = cut_into_jobs(layout, merged)
        out, done = Path(folder, "out"), {}
        with run_place(out) as place:
            place.begin()
            allocate(place, layout)
            for rank in (rank for rank in order if rank < count):
                done |= write_tensors(
                    merged, layout, jobs, place, ranks=_Alone(rank, count), threads=1
                )
            # Other processes, another number of them: all is done already.
            for rank in range(later):
                again = write_tensors(
                    merged, layout, jobs, place, ranks=_Alone(rank, later), threads=1
                )
                assert again.items() <= done.items()
            place.finish(overwrite=False, single=None, sync=False)
        assert done.keys() == {job.number for job in jobs}
        assert _read(out) == _expected(models, method)


def test_lazily_conjugated_numbers_are_written_as_they_are(tmp_path):
    number = filled((5,), torch.complex64, 0)
    models = [in_memory({"w": number.conj(), "v": number})]
    merged = merged_of(models, "mean", kept={"w": 0, "v": 0})
    write(merged, tmp_path / "out")
    found = open_checkpoint(tmp_path / "out")
    assert torch.equal(found["w"], number.conj().resolve_conj())


def test_a_merge_is_of_use_after_it_was_written(tmp_path):
    models = [{"w": filled((300,), torch.float32, seed)} for seed in range(3)]
    with small_blocks():
        merged = merged_of([in_memory(state) for state in models], "slerp")
        write(merged, tmp_path / "out")
        other = merged_of([in_memory(state) for state in models], "slerp")
        write(other, tmp_path / "again")
        other.summaries._known.clear()  # it has to be made anew, by whoever asks
        assert bits(other["w"]) == bits(merged["w"]) == _read(tmp_path / "out")["w"]


@pytest.mark.parametrize("threads", [1, 3])
def test_progress_ends_at_all_bytes_and_never_goes_back(tmp_path, threads):
    models = [in_memory({"w": filled((900,), torch.float32, seed)}) for seed in range(2)]
    with small_blocks(), run_place(tmp_path / "out") as place:
        merged = merged_of(models)
        layout = lay_out(merged.specs, {})
        jobs = cut_into_jobs(layout, merged)
        place.begin()
        allocate(place, layout)
        for begin in (0, 3600):  # the second time all is done before
            seen = []
            write_tensors(
                *(merged, layout, jobs, place),
                threads=threads,
                progress=lambda done, total, seen=seen: seen.append((done, total)),
            )
            assert seen[0] == (begin, 3600)
            assert seen[-1] == (3600, 3600)
            assert seen == sorted(seen)


# Errors -------------------------------------------------------------------------------------------


def _prepared(place, merged, shard_bytes=700):
    layout = lay_out(merged.specs, merged.metadata, shard_bytes=shard_bytes)
    place.begin()
    allocate(place, layout)
    place.note({"hash": "h"})
    return layout, cut_into_jobs(layout, merged)


def _some_models():
    return [
        {f"w{i}": filled((100 + 70 * i,), torch.float32, 9 * seed + i) for i in range(4)}
        for seed in range(3)
    ]


@pytest.mark.parametrize("method", ["mean", "ties", "dare_ties"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_in_the_middle_leaves_what_can_be_gone_on_with(
    tmp_path, monkeypatch, method, code
):
    models, out = _some_models(), tmp_path / "out"
    write_bytes, calls = os.pwrite, []

    def fails(descriptor, data, offset):
        calls.append(offset)
        if len(calls) > 7:
            raise OSError(code, os.strerror(code))
        return write_bytes(descriptor, data, offset)

    with small_blocks():
        merged = merged_of([in_memory(state) for state in models], method)
        with run_place(out) as place:
            layout, jobs = _prepared(place, merged)
            with monkeypatch.context() as patch:
                patch.setattr(os, "pwrite", fails)
                with pytest.raises(OSError, match=os.strerror(code)):
                    write_tensors(merged, layout, jobs, place, threads=2)
        calls.clear()
        monkeypatch.setattr(os, "pwrite", lambda *three: calls.append(0) or write_bytes(*three))
        merged = merged_of([in_memory(state) for state in models], method)
        with run_place(out) as place:
            assert place.plan() == {"hash": "h"}
            write_tensors(merged, layout, jobs, place, threads=2)
            place.finish(overwrite=False, single=None, sync=False)
        blocks = sum(-(-job.nbytes // 256) for job in jobs)
        assert len(calls) < blocks  # not everything was done again
        assert _read(out) == _expected(models, method)


def test_what_the_system_writes_in_parts_is_written_whole(tmp_path, monkeypatch):
    models, write_bytes = _some_models(), os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: write_bytes(file, data[:13], at))
    with small_blocks():
        write(merged_of([in_memory(state) for state in models]), tmp_path / "out")
        assert _read(tmp_path / "out") == _expected(models, "mean")


@pytest.mark.parametrize("at", [0, 9, -1, -8, "missing", "short"])
def test_a_stored_look_at_the_model_is_made_again_if_it_has_changed(tmp_path, at):
    models = [{"w": filled((900,), torch.float32, seed)} for seed in range(3)]
    parameters = {"density": 0.3, "per": "model"}
    with small_blocks(), run_place(tmp_path / "out") as place:
        expected = bits(merged_of(map(in_memory, models), "ties", parameters=parameters)["w"])
        for again in (False, True):
            merged = merged_of(map(in_memory, models), "ties", parameters=parameters)
            layout = lay_out(merged.specs, {})
            if again:
                (path,) = place.folder.glob("summaries*")
                data = bytearray(path.read_bytes())
                if at == "missing":
                    path.unlink()
                elif at == "short":
                    path.write_bytes(data[:-9])
                else:
                    data[at] ^= 1
                    path.write_bytes(data)
                for file in place.result.glob("*.safetensors"):  # so that nothing counts as done
                    written = file.read_bytes()
                    file.write_bytes(written[:-3600] + bytes(3600))
            else:
                place.begin()
                allocate(place, layout)
            write_tensors(merged, layout, cut_into_jobs(layout, merged), place, threads=1)
        place.finish(overwrite=False, single=None, sync=False)
    assert _read(tmp_path / "out")["w"] == expected


def test_numbers_that_are_not_finite_end_a_run_and_are_told(tmp_path):
    models = _some_models()
    models[1]["w2"][77] = math.nan
    with small_blocks(), run_place(tmp_path / "out") as place:
        merged = merged_of([in_memory(state) for state in models])
        layout, jobs = _prepared(place, merged)
        with pytest.raises(NonFiniteError, match=r"'w2' of model 1 .* 1 NaN and 0 infinite"):
            write_tensors(merged, layout, jobs, place, threads=3)


def test_an_interrupt_leaves_what_can_be_gone_on_with(tmp_path):
    models, out = _some_models(), tmp_path / "out"

    def stop(done, total):
        if done:
            raise KeyboardInterrupt

    with small_blocks():
        merged = merged_of([in_memory(state) for state in models])
        with run_place(out) as place:
            layout, jobs = _prepared(place, merged)
            with pytest.raises(KeyboardInterrupt):
                write_tensors(merged, layout, jobs, place, threads=2, progress=stop)
        with run_place(out) as place:
            assert place.plan() == {"hash": "h"}
            write_tensors(merged, layout, jobs, place, threads=2)
            place.finish(overwrite=False, single=None, sync=False)
        assert _read(out) == _expected(models, "mean")


SHAPES = {"a": (40, 17), "b": (300,), "c": (), "d": (5, 90), "e": (0, 3), "f": (64,)}


@pytest.mark.skipif(sys.platform != "linux", reason="no safe fork here")
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", ["linear", "slerp", "ties", "dare_ties", "iso_c"])
def test_copies_of_the_process_write_the_same_bytes(tmp_path, name, count):
    models = [
        MemoryCheckpoint({n: filled(shape, torch.float32, seed) for n, shape in SHAPES.items()})
        for seed in range(3)
    ]
    with small_blocks():
        merged = merged_of(models, name)
        write(merged, tmp_path / "alone")
        layout = lay_out(merged.specs, merged.metadata)
        jobs = cut_into_jobs(layout, merged)
        seen = []
        with run_place(tmp_path / "out") as place:
            place.begin()
            allocate(place, layout)
            run_forked(
                lambda ranks: write_tensors(
                    merged,
                    layout,
                    jobs,
                    place,
                    ranks=ranks,
                    threads=1,
                    progress=(lambda done, total: seen.append((done, total)))
                    if ranks.first
                    else None,
                ),
                count,
            )
            place.finish(overwrite=False, single=None, sync=False)
    files = [path / "model.safetensors" for path in (tmp_path / "alone", tmp_path / "out")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert seen == sorted(seen)
    assert seen[-1][1] == sum(job.nbytes for job in jobs)
