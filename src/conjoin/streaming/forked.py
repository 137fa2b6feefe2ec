"""Processes for the cores of this machine, which share all that has been read and planned.

Python's lock lets one thread at a time start an operation. For methods of many short operations
two threads are little faster than one; two processes take half of the time. So a run divides its
jobs among copies of itself, made by `fork` when the plan is ready, as torchrun divides them among
machines. Each has one thread. Where there is no safe fork (not on Linux, or with a GPU), threads
do the same work.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import pickle
import signal
import struct
import sys
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NoReturn, TypeVar

from conjoin.deferred import has_torch, torch
from conjoin.errors import StageError
from conjoin.streaming.ranks import Ranks

__all__ = ["can_fork", "run_forked"]

T = TypeVar("T")

_PAIR = struct.Struct("qq")
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h


def can_fork(device: torch.device | None) -> bool:
    """Whether processes can be copies of this one, for work on a device (None: the CPU)."""
    return sys.platform == "linux" and (device is None or device.type == "cpu")


def run_forked(work: Callable[[Ranks], T], count: int) -> T:
    """Do the same in `count` processes, of which this is the first; give its result.

    The others end before this returns, whatever happens: also if this process is killed.

    Args:
        work: is called once in each process. Only what it gathers comes back from the others.
        count: of processes, 1 or more.

    Raises:
        StageError: another process has died.
        Exception: what `work` raised, here or in another process.
    """
    if count == 1:
        return work(Ranks())
    board = mmap.mmap(-1, count * _PAIR.size)  # shared by all, since it has no file
    links, children = list[Connection](), list[int]()
    parent, frozen = os.getpid(), gc.get_freeze_count()
    # Nobody looks for garbage among what is there now: the copies would touch all of it, some
    # 300,000 objects of torch, and so have their own of its memory.
    gc.freeze()
    try:
        for rank in range(1, count):
            ours, theirs = Pipe()
            child = _fork()
            if child == 0:
                for link in (*links, ours):
                    link.close()
                _be_child(work, _Child(rank, count, board, theirs), parent)
            theirs.close()
            links.append(ours)
            children.append(child)
        return work(_Parent(0, count, board, links))
    finally:
        for link in links:
            link.close()
        for child in children:
            _end(child)
        board.close()
        if not frozen:  # else it may be that somebody wants it so
            gc.unfreeze()


def _fork() -> int:
    with warnings.catch_warnings():
        # Python warns of any thread that a copy lacks. Those of OpenMP are never waited for by a
        # process with one thread, and this module's own begin after the fork.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _be_child(work: Callable[[Ranks], Any], ranks: _Child, parent: int) -> NoReturn:
    # Nothing of the parent's may run here at the end: no `finally`, no test runner, no output.
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _die_with(parent)
        if has_torch():
            torch.set_num_threads(1)  # threads that OpenMP had before are not here
        work(ranks)
        status = 0
    except BaseException as error:
        ranks.report(error)
    finally:
        os._exit(status)


def _die_with(parent: int) -> None:
    """Let the system kill this process when its parent dies, in whatever way."""
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it has died before that was said
        os._exit(1)


def _end(child: int) -> None:
    # Who has done its work has ended or is about to; any other is not needed any more. What is
    # half done is in no journal.
    try:
        if os.waitpid(child, os.WNOHANG) == (0, 0):
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
    except (ChildProcessError, ProcessLookupError):
        return  # somebody else has waited for it


class _Forked(Ranks):
    """One of the processes."""

    def __init__(self, rank: int, count: int, board: mmap.mmap) -> None:
        super().__init__(rank, count)
        self._board = board

    def written(self, done: int, total: int) -> tuple[int, int]:
        """Note how far this process is; give how far all are."""
        _PAIR.pack_into(self._board, self.rank * _PAIR.size, done, total)
        pairs = [_PAIR.unpack_from(self._board, k * _PAIR.size) for k in range(self.count)]
        return sum(done for done, _ in pairs), sum(total for _, total in pairs)


class _Child(_Forked):
    """One that was made by fork: it speaks with the first one alone."""

    def __init__(self, rank: int, count: int, board: mmap.mmap, link: Connection) -> None:
        super().__init__(rank, count, board)
        self._link = link

    def gather(self, value: Any) -> list[Any]:
        """Send the value, and wait for those of all."""
        self._link.send_bytes(pickle.dumps((value, None)))
        found: list[Any] = pickle.loads(self._link.recv_bytes())
        return found

    def report(self, error: BaseException) -> None:
        """Send an error instead."""
        try:
            told = pickle.dumps((None, error))
            pickle.loads(told)  # not every error that can be written can be read
        except Exception:
            told = pickle.dumps((None, StageError(f"{type(error).__name__}: {error}")))
        try:
            self._link.send_bytes(told)
        except OSError:
            return  # nobody is there to hear it


class _Parent(_Forked):
    """The first process."""

    def __init__(
        self, rank: int, count: int, board: mmap.mmap, links: Sequence[Connection]
    ) -> None:
        super().__init__(rank, count, board)
        self._links = links
        self._heard = [deque[Any]() for _ in links]

    def gather(self, value: Any) -> list[Any]:
        """Wait for the values of all, and send them to all."""
        values = [value]
        for link, own in zip(self._links, self._heard, strict=True):
            if not own:
                self._hear(link, own)
            values.append(own.popleft())
        told = pickle.dumps(values)
        for link in self._links:
            link.send_bytes(told)
        return values

    def written(self, done: int, total: int) -> tuple[int, int]:
        """Give how far all are; an error of another process is raised here."""
        for link, own in zip(self._links, self._heard, strict=True):
            while not own and link.poll():
                self._hear(link, own)
        return super().written(done, total)

    def _hear(self, link: Connection, own: deque[Any]) -> None:
        try:
            value, error = pickle.loads(link.recv_bytes())
        except (EOFError, OSError):
            raise StageError(
                "a process of this run has died; was it killed, or is there too little memory? Go "
                "on with resume=True, with fewer workers perhaps"
            ) from None
        if error is not None:
            raise error
        own.append(value)
