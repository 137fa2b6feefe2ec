"""Files that are opened once for many reads."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["descriptor_of", "files_kept_open", "read_into"]


class _Kept(threading.local):
    files: "dict[object, int] | None" = None


_KEPT = _Kept()


@contextmanager
def files_kept_open() -> Iterator[None]:
    """Within it, what this thread reads from files in ranges is read from files opened once.

    For many reads one after the other: opening a file takes as long as reading 100 KB of it. It is
    not for long, since a file that is removed takes room on the disk until it is closed.
    """
    if _KEPT.files is not None:
        yield
        return
    _KEPT.files = {}
    try:
        yield
    finally:
        files, _KEPT.files = _KEPT.files, None
        for descriptor in files.values():
            os.close(descriptor)


@contextmanager
def descriptor_of(key: object, opened: Callable[[], int]) -> Iterator[int]:
    """Give the descriptor of a file that is kept open, or open it for now.

    Args:
        key: what it is known by: equal keys are of one file.
        opened: opens it.
    """
    kept = _KEPT.files
    if kept is not None:
        if key not in kept:
            kept[key] = opened()
        yield kept[key]
        return
    descriptor = opened()
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_into(descriptor: int, target: memoryview, offset: int) -> bool:
    """Fill memory with what a file holds from an offset on; False if it ends before."""
    while target:
        if hasattr(os, "preadv"):
            count = os.preadv(descriptor, [target], offset)
        else:
            os.lseek(descriptor, offset, os.SEEK_SET)
            data = os.read(descriptor, len(target))
            count = len(data)
            target[:count] = data
        if not count:
            return False
        target, offset = target[count:], offset + count
    return True
