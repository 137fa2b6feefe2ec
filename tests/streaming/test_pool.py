"""Threads that share work: everything once, errors told, and no order of events locks up."""

import threading
import time
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from streaming_runs import some

from conjoin.merging import Piece
from conjoin.streaming.pool import Pool, default_threads

PIECES = [Piece("w", i, i + 1) for i in range(7)]


class Jobs:
    """Notes which jobs were done, and by which threads."""

    def __init__(self):
        self.done = Counter()
        self.threads = set()
        self._lock = threading.Lock()

    def __call__(self, job):
        with self._lock:
            self.done[job] += 1
            self.threads.add(threading.current_thread())


def _in_time(work, seconds=30):
    """Run something in a thread; a lock-up is a failure of the test and not its end."""
    errors = []

    def run():
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "locked up"
    if errors:
        raise errors[0]


@some
@given(st.integers(0, 60), st.integers(1, 6))
def test_every_job_is_done_once(count, threads):
    jobs = Jobs()
    with Pool(threads) as pool:
        pool.run(range(count), jobs)
        pool.run(range(count, 2 * count), jobs)
    assert jobs.done == Counter(range(2 * count))
    assert threading.main_thread() not in jobs.threads


def test_jobs_run_at_the_same_time_even_while_help_is_wanted():
    barrier = threading.Barrier(3, timeout=20)

    def work(job):
        pool.each(lambda piece: torch.tensor(piece.start), PIECES)
        barrier.wait()  # passes only with three jobs under way

    with Pool(3) as pool:
        _in_time(lambda: pool.run(range(30), work))


def test_a_run_keeps_all_threads_although_the_first_job_ends_at_once():
    # A thread that looked for help to give, and found the place of another in the run, would
    # leave that other one idle until the end.
    for _ in range(200):
        barrier = threading.Barrier(2, timeout=20)

        def work(job, barrier=barrier):
            if job > 1:
                barrier.wait()

        with Pool(2) as pool:
            _in_time(lambda pool=pool, work=work: pool.run(range(4), work))


@pytest.mark.parametrize("error", [ValueError("of the job"), KeyboardInterrupt()])
def test_an_error_of_a_job_reaches_the_caller_and_no_further_job_begins(error):
    done = Jobs()

    def work(job):
        if job == 5:
            raise error
        done(job)

    with Pool(2) as pool:
        with pytest.raises(type(error)) as caught:
            pool.run(range(10_000), work)
        assert caught.value is error
        assert len(done.done) < 10_000
        again = Jobs()
        pool.run(range(20), again)  # the pool is of use afterwards
        assert len(again.done) == 20


def test_an_error_of_a_part_is_raised_by_the_job_that_asked():
    def part(piece):
        if piece.start == 3:
            raise ValueError("of a part")
        return torch.zeros(())

    caught = []

    def work(job):
        try:
            pool.each(part, PIECES)
        except ValueError as error:
            caught.append((job, str(error)))
        if job == 9:
            pool.summed(part, PIECES)

    with Pool(3) as pool, pytest.raises(ValueError, match="of a part"):
        pool.run(range(10), work)
    assert sorted(caught) == [(job, "of a part") for job in range(10)]


@some
@given(st.integers(1, 8), st.integers(1, 30), st.integers(0, 40))
def test_parts_keep_their_order_and_sums_are_exact(threads, jobs, parts):
    pieces = [Piece("w", i, i + 1) for i in range(max(1, parts))]
    found = {}

    def work(job):
        each = pool.each(lambda piece: torch.tensor([piece.start, job]), pieces)
        total = pool.summed(lambda piece: torch.tensor([piece.start, 1]), pieces)
        found[job] = torch.stack(each).tolist(), total.tolist()

    with Pool(threads) as pool:
        _in_time(lambda: pool.run(range(jobs), work))
    count = len(pieces)
    expected = [count * (count - 1) // 2, count]
    assert found == {j: ([[i, j] for i in range(count)], expected) for j in range(jobs)}


def test_many_threads_that_ask_for_help_within_parts_do_not_lock_up():
    def part(piece):
        inner = pool.summed(lambda one: torch.tensor(one.start), PIECES)
        return inner + piece.start

    def work(job):
        totals.append(int(pool.summed(part, PIECES)))

    totals = []
    with Pool(16) as pool:
        _in_time(lambda: pool.run(range(60), work))
    assert totals == [21 * 7 + 21] * 60


def test_the_caller_may_ask_for_parts_itself():
    with Pool(4) as pool:
        assert int(pool.summed(lambda piece: torch.tensor(piece.start), PIECES)) == 21


def test_what_is_summed_is_not_changed():
    given = [torch.ones(2) for _ in PIECES]
    with Pool(1) as pool:
        assert pool.summed(lambda piece: given[piece.start], PIECES).tolist() == [7, 7]
    assert all(tensor.tolist() == [1, 1] for tensor in given)


def test_who_waits_for_a_lock_helps_its_owner():
    lock, helpers, owner = threading.Lock(), set(), []

    def part(piece):
        helpers.add(threading.current_thread())
        deadline = time.monotonic() + 20
        while len(helpers) < 2 and time.monotonic() < deadline:
            time.sleep(0.001)  # until another thread has come
        return torch.zeros(())

    def work(job):
        pool.acquire(lock)
        try:
            if not owner:
                owner.append(job)
                pool.each(part, PIECES)
        finally:
            lock.release()

    with Pool(2) as pool:
        _in_time(lambda: pool.run(range(2), work))  # both threads want the lock
    assert len(helpers) == 2


def test_an_interrupt_of_the_caller_lets_jobs_end_and_none_begin():
    started, ended = Jobs(), Jobs()

    def work(job):
        started(job)
        time.sleep(0.002)
        ended(job)

    def beat():
        if len(started.done) > 4:
            raise KeyboardInterrupt

    with Pool(3) as pool:
        with pytest.raises(KeyboardInterrupt):
            pool.run(range(100_000), work, beat)
        assert started.done == ended.done  # nobody is at work any more
    assert len(started.done) < 100_000


def test_the_beat_comes_from_the_caller_while_jobs_run():
    beats = []
    gate = threading.Event()

    def beat():
        beats.append(threading.current_thread())
        gate.set()

    with Pool(1) as pool:
        pool.run([0], lambda job: gate.wait(20), beat)
    assert set(beats) == {threading.current_thread()}


def test_the_number_of_torch_threads_is_as_before():
    before = torch.get_num_threads()
    seen = []
    try:
        torch.set_num_threads(3)
        with Pool(2) as pool:
            pool.run(range(4), lambda job: seen.append(torch.get_num_threads()))
        assert torch.get_num_threads() == 3
        with pytest.raises(ValueError, match="of the body"), Pool(2):
            raise ValueError("of the body")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}


def test_no_thread_is_left():
    with Pool(5) as pool:
        pool.run(range(5), Jobs())
    assert not [t for t in threading.enumerate() if t.name.startswith("conjoin-")]


def test_there_is_a_core():
    assert default_threads() >= 1
