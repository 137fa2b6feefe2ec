"""What a run has done, in a file that survives it.

A line says that a job is finished. It is written when the bytes that it tells of have been handed
to the system: a kill of the process loses neither. A loss of power may lose bytes that a line
tells of, so each line has a digest, and whoever goes on reads the bytes again and believes only
what fits.
"""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["Done", "Journal", "read_journals"]


@dataclass(frozen=True, slots=True)
class Done:
    """A finished job.

    Args:
        job: its number.
        out: digest of the bytes that were written.
        inputs: digest of what was read, for every input in order; None if it was not read whole.
    """

    job: int
    out: str
    inputs: tuple[str | None, ...]


class Journal:
    """One process's journal, open for more lines; a context manager.

    Args:
        folder: that it is in.
        rank: number of the process.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        # A number that no earlier run of this folder has used: nothing is ever written after the
        # torn line of one that was killed.
        taken = {path.name for path in folder.glob("journal-*.jsonl")}
        number = 0
        while (name := f"journal-{rank}-{number}.jsonl") in taken:
            number += 1
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self._descriptor = os.open(folder / name, flags, 0o644)
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def write(self, done: Done) -> None:
        """Add a line."""
        line = json.dumps(asdict(done), separators=(",", ":")).encode() + b"\n"
        with self._lock:
            while line:  # a disk that is nearly full takes a part, and then refuses the rest
                line = line[os.write(self._descriptor, line) :]


def read_journals(folder: Path) -> dict[int, Done]:
    """Give what all runs of a folder have finished, by the job's number.

    A line that is torn, or that is no such line, is passed over: its job is done again.
    """
    found = {}
    for path in sorted(folder.glob("journal-*.jsonl")):
        for line in _lines(path):
            done = _done(line)
            if done is not None:
                found[done.job] = done
    return found


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line


def _done(line: bytes) -> Done | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return _checked(value) if isinstance(value, Mapping) else None


def _checked(value: Mapping[str, Any]) -> Done | None:
    job, out, inputs = value.get("job"), value.get("out"), value.get("inputs")
    if type(job) is not int or not isinstance(out, str) or not isinstance(inputs, list):
        return None
    if not all(one is None or isinstance(one, str) for one in inputs):
        return None
    return Done(job, out, tuple(inputs))
