"""Files that are opened once for many reads."""

import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["files_kept_open", "opened_file", "read_into"]

_MOST = 8
"""Files that a thread keeps open: a merge has a few models, and a system may allow few files."""


class _Kept(threading.local):
    files: dict[object, io.FileIO] | None = None


_KEPT = _Kept()


@contextmanager
def files_kept_open() -> Iterator[None]:
    """Within it, what this thread reads from files in ranges is read from files opened once.

    For many reads one after the other: opening a file takes as long as reading 50 KB of it, and
    on a network far longer. It is not for long, since a file that is removed takes room on the disk
    until it is closed. At most 8 files are kept; others are opened for each read.
    """
    if _KEPT.files is not None:
        yield
        return
    files: dict[object, io.FileIO] = {}
    try:
        _KEPT.files = files
        yield
    finally:
        _KEPT.files = None
        for file in files.values():
            file.close()


@contextmanager
def opened_file(key: object, opened: Callable[[], io.FileIO]) -> Iterator[io.FileIO]:
    """Give a file that is kept open, or open it: for now, or to be kept.

    Args:
        key: what it is known by: equal keys are of one file.
        opened: opens it.
    """
    kept = _KEPT.files
    if kept is not None and key in kept:
        yield kept[key]
    elif kept is not None and len(kept) < _MOST:
        yield kept.setdefault(key, opened())
    else:
        with opened() as file:
            yield file


def read_into(file: io.FileIO, target: memoryview, offset: int) -> bool:
    """Fill memory with what a file holds from an offset on; False if it ends before."""
    if not hasattr(os, "preadv"):
        file.seek(offset)
    while target:
        if hasattr(os, "preadv"):
            count = os.preadv(file.fileno(), [target], offset)
        else:
            count = file.readinto(target) or 0
        if not count:
            return False
        target, offset = target[count:], offset + count
    return True
