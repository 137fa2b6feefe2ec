"""Telling the system what will be read next, so that the disk works while the cores compute."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from conjoin.merging import Task
from conjoin.streaming.jobs import Job

__all__ = ["ReadAhead"]


class ReadAhead:
    """Advice about the inputs of jobs; it does nothing where the system takes none.

    Args:
        jobs: in the order in which they are done.
        distance: how many jobs ahead.
    """

    def __init__(self, jobs: Sequence[tuple[Job, Task]], distance: int) -> None:
        self._jobs, self._distance, self._told = jobs, distance, 0
        self._files: dict[Path, int] = {}
        self._lock = threading.Lock()

    def reached(self, index: int) -> None:
        """Say that the job at an index begins."""
        if not hasattr(os, "posix_fadvise"):
            return
        with self._lock:
            begin, end = self._told, min(index + 1 + self._distance, len(self._jobs))
            self._told = max(self._told, end)
        for job, task in self._jobs[begin:end]:
            self._advise(job, task)

    def _advise(self, job: Job, task: Task) -> None:
        for source in task.inputs:
            where = source.checkpoint.in_file(source.name)
            if where is None:
                continue
            size = source.spec.stored.itemsize
            descriptor = self._opened(where.file.path)
            if descriptor is not None:
                os.posix_fadvise(
                    descriptor,
                    where.begin + job.start * size,
                    (job.stop - job.start) * size,
                    os.POSIX_FADV_WILLNEED,
                )

    def _opened(self, path: Path) -> int | None:
        with self._lock:
            if path not in self._files:
                try:
                    self._files[path] = os.open(path, os.O_RDONLY)
                except OSError:
                    return None  # whoever reads it will say so
            return self._files[path]

    def close(self) -> None:
        """Close all files."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()
