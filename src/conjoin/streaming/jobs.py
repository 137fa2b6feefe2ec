"""A result cut into jobs, and jobs divided among processes."""

from collections.abc import Sequence
from dataclasses import dataclass

from conjoin.merging import BLOCK, Merged
from conjoin.streaming.layout import Layout

__all__ = ["SPAN", "Job", "cut_into_jobs", "share_of"]

SPAN = 32 * BLOCK
"""Elements of a job: 16 MB of bfloat16, so that a journal is short and little is done twice."""


@dataclass(frozen=True, slots=True)
class Job:
    """A range of a tensor, and where it goes.

    Args:
        number: in the order of the files.
        name: of the tensor.
        start, stop: elements.
        file: number of the file.
        offset: of the first byte in that file.
        nbytes: of the range in the result.
    """

    number: int
    name: str
    start: int
    stop: int
    file: int
    offset: int
    nbytes: int


def cut_into_jobs(layout: Layout, merged: Merged) -> tuple[Job, ...]:
    """Give the jobs of a result, in the order of its bytes.

    A tensor that needs all of its sources at once is one job; others are cut into spans. One
    without elements is none.
    """
    jobs: list[Job] = []
    for number, file in enumerate(layout.files):
        for name, offset in file.offsets.items():
            spec = merged.specs[name]
            numel, size = spec.numel, spec.stored.itemsize
            step = SPAN if merged.reads_ranges(name) else max(numel, 1)
            for start in range(0, numel, step):
                stop = min(start + step, numel)
                jobs.append(
                    Job(
                        len(jobs),
                        name,
                        start,
                        stop,
                        number,
                        offset + start * size,
                        (stop - start) * size,
                    )
                )
    return tuple(jobs)


def share_of(jobs: Sequence[Job], rank: int, ranks: int) -> list[Job]:
    """Give the jobs of one process: ranges that follow each other, of about equally many bytes.

    >>> jobs = [Job(i, "w", i, i + 1, 0, i, 10) for i in range(5)]
    >>> [[job.number for job in share_of(jobs, rank, 2)] for rank in (0, 1)]
    [[0, 1], [2, 3, 4]]
    """
    total, before, share = sum(job.nbytes for job in jobs), 0, []
    for job in jobs:
        middle = before + job.nbytes / 2
        if min(int(middle * ranks / total), ranks - 1) == rank if total else rank == 0:
            share.append(job)
        before += job.nbytes
    return share
