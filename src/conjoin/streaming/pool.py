"""Threads that share work: torch and the system let go of Python's lock while they compute."""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from conjoin.deferred import has_torch, torch
from conjoin.merging import Piece

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Pool", "default_threads"]

J = TypeVar("J")
Work = Callable[[], None]


def default_threads() -> int:
    """Number of cores for this process: those that it may use, divided among torchrun's."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    beside = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, cores // int(beside)) if beside.isdigit() and int(beside) else cores


class Pool:
    """Threads for jobs, and for the parts of a job whose thread wants help; a context manager.

    A thread that asks for help works on the parts itself until none is left, and others join
    between two jobs of theirs; nobody ever waits for work that has not begun, so no order of
    events can lock up.

    Args:
        threads: how many, 1 or more.
    """

    def __init__(self, threads: int) -> None:
        self._count = threads
        self._runs: deque[Work] = deque()
        self._wanted: deque[Work] = deque()
        self._ready = threading.Condition()
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._before: int | None = None
        self._own = threading.local()
        self._threads = [
            threading.Thread(target=self._serve, name=f"conjoin-{i}", daemon=True)
            for i in range(threads)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        with self._ready:
            self._ready.notify_all()
        for thread in self._threads:
            thread.join()
        if self._before is not None:
            torch.set_num_threads(self._before)  # a part of what was set holds for the process

    def run(
        self, jobs: Iterable[J], work: Callable[[J], None], beat: Callable[[], None] | None = None
    ) -> None:
        """Do every job, in about the order given; raise the first error, after all have stopped.

        Args:
            jobs: to be done.
            work: does one.
            beat: is called about ten times a second by the thread that calls this.
        """
        shared, lock, stop = iter(jobs), threading.Lock(), threading.Event()
        left = threading.Semaphore(0)

        def drain() -> None:
            try:
                while not stop.is_set() and not self._ended.is_set():
                    with lock:
                        job = next(shared, shared)
                    if job is shared:
                        return
                    self._be_one_thread()
                    work(job)  # type: ignore[arg-type]  # not the iterator itself
                    self._help()
            except BaseException as error:  # passed on to whoever called
                self._fail(error)
                stop.set()
            finally:
                left.release()

        self._error = None
        for _ in range(self._count):
            self._want(drain, self._runs)
        missing = self._count
        try:
            while missing:
                if left.acquire(timeout=0.1):
                    missing -= 1
                if beat is not None:
                    beat()
        finally:
            stop.set()  # an interrupt of the caller: no further job begins
            for _ in range(missing):
                left.acquire()
        if self._error is not None:
            raise self._error

    def each(self, function: Callable[[Piece], Tensor], pieces: Sequence[Piece]) -> list[Tensor]:
        """Give the result for every piece, in their order, made by all threads that are free."""
        results: list[Tensor | None] = [None] * len(pieces)

        def work(index: int) -> None:
            results[index] = function(pieces[index])

        self._together(len(pieces), work)
        return [result for result in results if result is not None]

    def summed(self, function: Callable[[Piece], Tensor], pieces: Sequence[Piece]) -> Tensor:
        """Give the sum of results that are integers."""
        lock = threading.Lock()
        totals: list[Tensor] = []

        def work(index: int) -> None:
            result = function(pieces[index])
            with lock:
                if totals:
                    totals[0] += result
                else:
                    totals.append(result.clone())

        self._together(len(pieces), work)
        return totals[0]

    def acquire(self, lock: threading.Lock) -> None:
        """Take a lock; until it is free, work on the parts of jobs whose thread wants help."""
        while not lock.acquire(blocking=False):
            with self._ready:
                if not self._wanted:
                    self._ready.wait(0.005)
            self._help()

    def _together(self, count: int, work: Callable[[int], None]) -> None:
        numbers, busy = itertools.count(), threading.Semaphore(0)
        begun, errors = list[int](), list[BaseException]()
        closed, lock = threading.Event(), threading.Lock()

        def share() -> None:
            try:
                while not errors and not self._ended.is_set() and (i := next(numbers)) < count:
                    work(i)
            except BaseException as error:  # raised by the thread that asked
                errors.append(error)

        def help_out() -> None:
            with lock:
                if closed.is_set():
                    return
                begun.append(1)
            share()
            busy.release()

        for _ in range(min(self._count, count) - 1):
            self._want(help_out, self._wanted)
        share()
        with lock:
            closed.set()  # who has not begun need not
        for _ in begun:
            busy.acquire()
        if errors:
            raise errors[0]
        if self._ended.is_set():
            raise KeyboardInterrupt

    def _want(self, work: Work, where: deque[Work]) -> None:
        with self._ready:
            where.append(work)
            self._ready.notify()

    def _help(self) -> None:
        # Parts only: a thread that took the place of another in `run` would leave that one idle.
        while self._wanted:
            with self._ready:
                work = self._wanted.popleft() if self._wanted else None
            if work is not None:
                work()

    def _serve(self) -> None:
        while not self._ended.is_set():
            with self._ready:
                while not (self._runs or self._wanted or self._ended.is_set()):
                    self._ready.wait()
                queue = self._runs or self._wanted
                work = queue.popleft() if queue else None
            if work is not None:
                self._be_one_thread()
                work()

    def _be_one_thread(self) -> None:
        """Have one thread of torch for each of ours: more would only wait for each other."""
        if not has_torch() or getattr(self._own, "told", False):
            return
        with self._ready:
            if self._before is None:
                self._before = torch.get_num_threads()
        torch.set_num_threads(1)
        self._own.told = True

    def _fail(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
