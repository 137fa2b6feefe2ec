"""Whole processes: what they take of time, or of memory that they have for themselves."""

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Run", "anonymous", "timed"]


@dataclass(frozen=True)
class Run:
    """What one process took: seconds of the clock, of all cores, and of these in the system."""

    wall: float
    cpu: float
    system: float


def timed(command: Sequence[str]) -> Run:
    """Run a command to its end.

    Raises:
        RuntimeError: it has failed; with what it said.
    """
    began = time.perf_counter()
    with _started(command) as process:
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_stime)


def anonymous(command: Sequence[str]) -> float:
    """Run a command to its end, and give the most MB of anonymous memory seen.

    Pages of mapped files are not in it: they are the page cache, and go when others need memory. A
    page that several processes share counts once. Each look takes some milliseconds of a core,
    during which the process cannot map memory: such a run is not to be timed.

    Raises:
        RuntimeError: it has failed; with what it said.
    """
    most = 0
    with _started(command) as process:
        while process.poll() is None:
            # A child may end meanwhile.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                most = max(most, anonymous_of(process.pid))
            time.sleep(0.05)
    return most * 1024 / 1e6


@contextlib.contextmanager
def _started(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process, and raise a RuntimeError afterwards if it has failed."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
        yield process
        if process.returncode:
            said.seek(0)
            text = said.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{text}")


def anonymous_of(pid: int) -> int:
    """Give the anonymous memory of a process and all below it, in KiB."""
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss_Anon:"):
            total += int(line.split()[1])
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return total + sum(anonymous_of(int(child)) for child in children)
