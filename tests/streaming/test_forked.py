"""Copies of a process that share its work: same bits, and no process is ever left over."""

import gc
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from conjoin.errors import NonFiniteError, StageError
from conjoin.streaming import Ranks, run_forked
from conjoin.streaming.forked import can_fork

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="no safe fork here")


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_all_gather_the_values_of_all():
    def work(ranks):
        first = ranks.gather(ranks.rank * 10)
        second = ranks.gather(torch.full((3,), ranks.rank))
        return ranks.count, first, sum(second).tolist(), torch.get_num_threads()

    before = torch.get_num_threads()
    assert run_forked(work, 1)[:3] == (1, [0], [0, 0, 0])
    count, first, total, threads = run_forked(work, 4)
    assert (count, first, total) == (4, [0, 10, 20, 30], [6, 6, 6])
    assert threads == torch.get_num_threads() == before
    assert type(run_forked(lambda ranks: ranks, 1)) is Ranks


def test_a_large_value_in_both_directions():
    value = bytes(3 << 20)  # more than a pipe holds
    found = run_forked(lambda ranks: ranks.gather(value + bytes([ranks.rank])), 3)
    assert found == [value + bytes([rank]) for rank in range(3)]


def test_how_far_all_are():
    def work(ranks):
        ranks.written(ranks.rank + 1, 10)
        ranks.gather(None)
        found = ranks.written(ranks.rank + 1, 10)
        ranks.gather(None)  # a process ends with all others, or has died
        return found

    assert run_forked(work, 3) == (6, 30)


class _StrangeError(Exception):
    """Can be written by pickle, and not be read again."""

    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")


@pytest.mark.parametrize("by", ["gather", "written"])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NonFiniteError("'w' has a NaN"), (NonFiniteError, "'w' has a NaN")),
        (OSError(28, "No space left"), (OSError, "No space left")),
        (_StrangeError(1, 2), (StageError, "_StrangeError: 1 and 2")),
        (SystemExit(3), (SystemExit, "3")),
    ],
    ids=["ours", "full disk", "strange", "exit"],
)
def test_an_error_of_another_process_is_raised_here(by, error, expected):
    def work(ranks):
        if not ranks.first:
            raise error
        if by == "gather":
            return ranks.gather(0)
        for _ in range(500):
            ranks.written(0, 1)
            time.sleep(0.02)
        return None

    with pytest.raises(expected[0], match=expected[1]):
        run_forked(work, 3)


def _pids(count, work):
    """Run, and give the pids of the other processes, which must be gone."""
    told, tell = os.pipe()

    def noting(ranks):
        if not ranks.first:
            os.write(tell, f"{os.getpid()} ".encode())
        return work(ranks)

    try:
        return run_forked(noting, count), None
    except BaseException as error:
        return None, error
    finally:
        os.close(tell)
        pids = [int(pid) for pid in os.read(told, 1000).split()]
        os.close(told)
        assert len(pids) <= count - 1
        assert not any(_alive(pid) for pid in pids)


def test_no_process_is_left_over_after_an_error_here():
    def work(ranks):
        if ranks.first:
            time.sleep(0.2)
            raise KeyboardInterrupt
        time.sleep(60)

    began = time.monotonic()
    _, error = _pids(3, work)
    assert isinstance(error, KeyboardInterrupt)
    assert time.monotonic() - began < 30


def test_a_process_that_is_killed():
    def work(ranks):
        if ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return ranks.gather(0)

    _, error = _pids(3, work)
    assert isinstance(error, StageError)
    assert "has died" in str(error)


def test_an_interrupt_of_the_terminal_is_the_first_process_s_alone():
    def work(ranks):
        if not ranks.first:
            os.kill(os.getpid(), signal.SIGINT)
        return ranks.gather(ranks.rank)

    assert run_forked(work, 2) == [0, 1]


def test_the_others_die_with_the_first():
    told, tell = os.pipe()

    def work(ranks):
        if not ranks.first:
            os.write(tell, f"{os.getpid()} ".encode())
            time.sleep(60)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)

    parent = os.fork()
    if parent == 0:
        try:
            run_forked(work, 3)
        finally:
            os._exit(1)
    os.waitpid(parent, 0)
    os.close(tell)
    pids = []
    while data := os.read(told, 1000):
        pids += data.split()
    os.close(told)
    assert len(pids) == 2
    deadline = time.monotonic() + 20
    while any(_alive(int(pid)) and not _zombie(int(pid)) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _zombie(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "Z"
    except FileNotFoundError:
        return True


def test_nothing_of_the_caller_runs_in_the_copies(tmp_path):
    path = tmp_path / "ends"
    try:
        run_forked(lambda ranks: ranks.gather(0), 4)
    finally:
        with path.open("a") as file:
            file.write("once\n")
    assert path.read_text() == "once\n"


def test_where_it_can_be_done():
    assert can_fork(None)
    assert can_fork(torch.device("cpu"))
    assert not can_fork(torch.device("cuda"))


@pytest.mark.parametrize("wanted", [False, True])
def test_copies_do_not_look_for_garbage_among_what_was_there(wanted):
    if wanted:
        gc.freeze()
    try:
        before = gc.get_freeze_count()
        counts = run_forked(lambda ranks: ranks.gather(gc.get_freeze_count()), 3)
        assert all(count > 1000 for count in counts)
        # Here it is as it was.
        assert (gc.get_freeze_count() > 0) == (before > 0) == wanted
    finally:
        gc.unfreeze()
