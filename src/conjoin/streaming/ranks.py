"""The processes of a run: this one alone, or those that torchrun has started on any machines.

    torchrun --nproc-per-node 4 -m conjoin merge recipe.yml OUT

Every process plans the same run from the same headers and does its own range of the jobs; they
write into the same files, on a file system that all of them see. torch.distributed (gloo) only
tells them when to begin, adds up the counts of methods that look at the whole model, and tells
the first process when all are done.
"""

from __future__ import annotations

import datetime
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from conjoin.deferred import torch
from conjoin.errors import InputError
from conjoin.merging import Piece, Workers

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Distributed", "Everyone", "Ranks", "joined_ranks"]

_PATIENCE = datetime.timedelta(days=2)
"""How long a process waits for another that is still at work; one that has died ends it at once."""


class Ranks:
    """One process among all of a run; this class is for one that is alone.

    Args:
        rank: its number, from 0.
        count: of processes.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    @property
    def first(self) -> bool:
        """Whether this process prepares, and finishes."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Give the value of every process, to every process, when all have come here."""
        return [value]

    def written(self, done: int, total: int) -> tuple[int, int]:
        """Tell the others how far this process is; give how far those are of which it knows.

        Args:
            done, total: bytes of this process.
        """
        return done, total

    def together(self, work: Callable[[], Any]) -> Any:
        """Let the first process do something, and give all its result, or raise its error in all.

        Raises:
            InputError: in the other processes, if the first one failed.
        """
        result, problem = None, None
        if self.first:
            try:
                result = work()
            except Exception as error:
                problem = error
        told = self.gather((result, None if problem is None else str(problem)))[0]
        if problem is not None:
            raise problem
        if told[1] is not None:
            raise InputError(f"process 0 failed: {told[1]}")
        return told[0]


class Distributed(Ranks):
    """One of the processes that torchrun has started, which torch.distributed connects."""

    def gather(self, value: Any) -> list[Any]:
        """Give the value of every process, to every process, when all have come here."""
        found: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(found, value)
        return found


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the processes that torchrun has started with this one, if it has."""
    count = os.environ.get("WORLD_SIZE", "1")
    if count in ("", "1") or "MASTER_ADDR" not in os.environ:
        yield Ranks()
        return
    if not torch.distributed.is_available():
        raise InputError("this build of torch has no torch.distributed; run one process")
    torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Distributed(torch.distributed.get_rank(), torch.distributed.get_world_size())
    finally:
        torch.distributed.destroy_process_group()


class Everyone:
    """The threads of all processes, for totals over the whole model.

    Args:
        ranks: the processes.
        threads: those of this one.
    """

    def __init__(self, ranks: Ranks, threads: Workers) -> None:
        self._ranks, self._threads = ranks, threads

    def each(self, function: Callable[[Piece], Tensor], pieces: Sequence[Piece]) -> list[Tensor]:
        """Give the result for every piece, in their order."""
        own = self._threads.each(function, self._own(pieces))
        return [part for share in self._ranks.gather(own) for part in share]

    def summed(self, function: Callable[[Piece], Tensor], pieces: Sequence[Piece]) -> Tensor:
        """Give the sum of results that are integers."""
        empty = Piece(pieces[0].name, 0, 0)  # for a process that has none
        own = self._threads.summed(function, self._own(pieces) or [empty])
        first, *others = self._ranks.gather(own)
        total: Tensor = first.clone()
        for other in others:
            total += other
        return total

    def acquire(self, lock: threading.Lock) -> None:
        """Take a lock."""
        self._threads.acquire(lock)

    def _own(self, pieces: Sequence[Piece]) -> list[Piece]:
        rank, count = self._ranks.rank, self._ranks.count
        begin, end = (len(pieces) * k // count for k in (rank, rank + 1))
        return list(pieces[begin:end])
