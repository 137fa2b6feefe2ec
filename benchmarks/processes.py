"""Whole processes, timed, and the memory that they have for themselves."""

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Run", "timed"]


@dataclass(frozen=True)
class Run:
    """What one process took: seconds of the clock and of all cores, and MB of anonymous memory."""

    wall: float
    cpu: float
    anonymous: float


def timed(command: Sequence[str]) -> Run:
    """Run a command to its end.

    Raises:
        RuntimeError: it has failed; with what it said.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
        peak = Peak(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        anonymous = peak.stop()
        if process.returncode:
            said.seek(0)
            text = said.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{text}")
    return Run(wall, usage.ru_utime + usage.ru_stime, anonymous)


class Peak:
    """Looks at the anonymous memory of a process and its children until it is stopped.

    Pages of mapped files are not in it: they are the page cache, and go when others need memory. A
    page that several processes share counts once.
    """

    def __init__(self, pid: int) -> None:
        self._pid, self._most = pid, 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        # A look takes some milliseconds of a core, during which the process cannot map memory.
        while not self._ended.wait(0.2):
            try:
                self._most = max(self._most, anonymous_of(self._pid))
            except (FileNotFoundError, ProcessLookupError):
                continue  # a child has ended meanwhile

    def stop(self) -> float:
        """Stop, and give the most MB seen."""
        self._ended.set()
        self._thread.join()
        return self._most * 1024 / 1e6


def anonymous_of(pid: int) -> int:
    """Give the anonymous memory of a process and all below it, in KiB."""
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss_Anon:"):
            total += int(line.split()[1])
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return total + sum(anonymous_of(int(child)) for child in children)
