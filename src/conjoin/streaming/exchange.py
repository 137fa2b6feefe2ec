"""Two names exchanged at once, where the system can."""

import ctypes
import os
import sys
from pathlib import Path

__all__ = ["exchange"]

_AT_FDCWD = -100
_EXCHANGE = 2  # RENAME_EXCHANGE of linux/fs.h


def exchange(first: Path, second: Path) -> None:
    """Give each of two paths of one file system the name of the other.

    On Linux that is one atomic step (renameat2). Elsewhere, and on file systems that cannot, it is
    two renames, between which `second` is missing for a moment; nothing is lost in between.
    """
    if _exchange_at_once(first, second):
        return
    aside = first.with_name(first.name + ".old")
    second.rename(aside)
    try:
        first.rename(second)
    except OSError:
        aside.rename(second)
        raise
    aside.rename(first)


def _exchange_at_once(first: Path, second: Path) -> bool:
    if sys.platform != "linux":
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False  # an old C library
    names = os.fsencode(first), os.fsencode(second)
    return bool(rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _EXCHANGE) == 0)
