"""Files that are opened once for many reads."""

import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from conjoin.errors import CheckpointError

__all__ = ["FileRange", "KnownFile", "files_kept_open", "opened_file", "read_into"]

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


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file that has to stay what it was when it was opened first.

    Args:
        path: of the file.
        identity: what it was (`KnownFile.of`).
    """

    path: Path
    identity: tuple[int, ...]

    @classmethod
    def of(cls, path: Path, file: io.BufferedIOBase | io.FileIO) -> "KnownFile":
        """Take note of an open file."""
        return cls(path, _identity(file.fileno()))

    @contextmanager
    def opened(self) -> Iterator[io.FileIO]:
        """Give the file, or one that is kept open; who has read it asks `check`.

        Raises:
            CheckpointError: it cannot be opened.
        """
        with opened_file(self, self._open) as file:
            yield file

    def check(self, file: io.FileIO) -> None:
        """Raise a CheckpointError if it has changed, or is another file now."""
        if _identity(file.fileno()) != self.identity:
            raise CheckpointError(
                f"{self.path} has changed since it was opened; open it again to read what it "
                "holds now"
            )

    def _open(self) -> io.FileIO:
        try:
            return io.FileIO(self.path)
        except OSError as error:
            raise CheckpointError(
                f"cannot read {self.path} again: {error.strerror or error}"
            ) from error


def _identity(descriptor: int) -> tuple[int, ...]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@dataclass(frozen=True, slots=True)
class FileRange:
    """Where the bytes of a tensor lie in a file, as they are.

    Args:
        file: that holds them.
        begin, end: of the range, in bytes.
    """

    file: KnownFile
    begin: int
    end: int
