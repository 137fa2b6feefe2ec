"""What a piece of work takes: seconds, and how far memory rises."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

__all__ = ["Usage", "metered"]

T = TypeVar("T")


@dataclass(frozen=True)
class Usage:
    """What a piece of work took.

    Args:
        seconds: wall time.
        peak_bytes: the peak of memory above where it was; None where it cannot be measured.
    """

    seconds: float
    peak_bytes: int | None


def metered(work: Callable[[], T]) -> tuple[T, Usage]:
    """Do some work; give its result, and what it took.

    The memory is what PyTorch has allocated with CUDA, if it has; else, it is the resident memory
    of this process, which only Linux lets one watch for a part of a program.

    >>> value, usage = metered(lambda: 1 + 1)
    >>> value, usage.seconds >= 0
    (2, True)
    """
    cuda = torch.cuda.is_initialized()
    allocated = torch.cuda.memory_allocated() if cuda else 0
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    resident = _reset_peak()
    began = time.perf_counter()
    result = work()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    risen = torch.cuda.max_memory_allocated() - allocated if cuda else 0
    if risen > 0:
        return result, Usage(seconds, risen)
    peak = _status("VmHWM")
    known = resident is not None and peak is not None
    return result, Usage(seconds, max(0, peak - resident) if known else None)  # type: ignore[operator]


def _reset_peak() -> int | None:
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to what is used
    except OSError:
        return None
    return _status("VmRSS")


def _status(key: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith(f"{key}:")]
    return int(found[0][1]) * 1024 if found else None
