"""Several processes that write one result."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rank_worker import MERGES
from streaming_runs import bits, filled, in_memory, merged_of, on_disk, small_blocks

from conjoin.checkpoints import open_checkpoint
from conjoin.errors import InputError, StageError
from conjoin.streaming import Ranks, joined_ranks

WORKER = Path(__file__).parent / "rank_worker.py"


def _free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_four_processes_write_what_one_thread_computes(tmp_path):
    states = {
        name: {
            "scalar": filled((), torch.float32, seed),
            "empty": filled((0, 3), torch.bfloat16, seed),
            "wide": filled((37, 61), torch.bfloat16, seed + 10),
            "layer.weight": filled((30, 11), torch.float32, seed + 20),
            "layer.bias": filled((65,), torch.float64, seed + 30),
            "norm.running_mean": filled((5,), torch.float32, seed + 40),
            "norm.running_var": filled((5,), torch.float32, seed + 50).square(),
            "steps": torch.arange(200),
        }
        for seed, name in enumerate("abc")
    }
    for name, state in states.items():
        on_disk(state, tmp_path / f"{name}.safetensors")
    environment = {
        **os.environ,
        "WORLD_SIZE": "4",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": "1",
    }
    started = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(tmp_path)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(4)
    ]
    try:
        told = [process.communicate(timeout=300)[1] for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert [process.returncode for process in started] == [0] * 4, "\n".join(told)
    models = [in_memory(state) for state in states.values()]
    for name, (method, given) in MERGES.items():
        with small_blocks():
            expected = merged_of(models, method, **given)
            wanted = {key: bits(expected[key]) for key in expected}
        found = open_checkpoint(tmp_path / name)
        assert {key: bits(found[key]) for key in found} == wanted, name


@pytest.mark.parametrize("size", [None, "", "1"])
def test_one_process_joins_nobody(monkeypatch, size):
    if size is None:
        monkeypatch.delenv("WORLD_SIZE", raising=False)
    else:
        monkeypatch.setenv("WORLD_SIZE", size)
    with joined_ranks() as ranks:
        assert (type(ranks), ranks.rank, ranks.count) == (Ranks, 0, 1)
        assert ranks.first
        assert ranks.gather("x") == ["x"]
        assert ranks.together(lambda: 5) == 5


def test_an_error_of_the_only_process_is_its_own():
    def fails():
        raise StageError("of the work")

    with pytest.raises(StageError, match="of the work"):
        Ranks().together(fails)


class _Told(Ranks):
    """A process that is told something by the first one."""

    def gather(self, value):
        return [(None, "the disk is full"), value]


def test_an_error_of_the_first_process_is_told_to_all():
    def never():
        raise AssertionError("only the first one works")

    with pytest.raises(InputError, match="process 0 failed: the disk is full"):
        _Told(1, 2).together(never)
