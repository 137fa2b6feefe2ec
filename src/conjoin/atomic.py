"""Files that appear whole or not at all.

A result is written beside its final place under a hidden name, flushed to the disk, and renamed.
A reader therefore sees the old file, or the new one, never a part of it; after a kill, at most a
hidden `.conjoin-*.tmp` is left over.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from conjoin.errors import InputError, OutputExistsError

__all__ = ["atomic_file", "check_target", "sync_folder", "try_lock", "write_bytes"]


def check_target(path: Path, *, overwrite: bool) -> None:
    """Raise if a file cannot be put at `path`, before any work is done for it.

    Raises:
        InputError: the parent folder is missing, or `path` is a folder, a device or a pipe.
        OutputExistsError: something is there, and it is not to be overwritten.
    """
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}; create it first")
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise InputError(
            f"cannot write {path}: it is a device, a pipe or the like, and would be replaced by a "
            "file; name a file"
        )
    if not overwrite and os.path.lexists(path):  # a dangling link counts: it would be replaced
        raise _exists(path)


@contextmanager
def atomic_file(path: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that takes its place at the end of the block.

    On any exception, KeyboardInterrupt too, the temporary is removed and `path` is as before.
    Data are on the disk before the name is. Of two writers that do not overwrite, one wins and
    the other raises.

    Raises:
        InputError, OutputExistsError: as `check_target`; the latter also at the end.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_file(Path(folder, "a.bin"), overwrite=False) as file:
    ...         _ = file.write(b"abc")
    ...     Path(folder, "a.bin").read_bytes()
    b'abc'
    """
    check_target(path, overwrite=overwrite)
    # The same folder: a rename is atomic only within one file system.
    temporary = path.parent / f".conjoin-{os.getpid()}-{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            temporary.replace(path)
        else:
            _claim(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a small file whole, in the place of one that may be there."""
    with atomic_file(Path(path), overwrite=True) as file:
        file.write(content)


def _claim(temporary: Path, path: Path) -> None:
    try:
        path.hardlink_to(temporary)  # fails if the name is taken, unlike a rename
    except FileExistsError:
        raise _exists(path) from None
    except OSError:
        # A file system without hard links: take the name first, then put the data there.
        try:
            path.open("xb").close()
        except FileExistsError:
            raise _exists(path) from None
        temporary.replace(path)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable, where the system can."""
    if os.name != "posix":
        return  # folders cannot be opened there
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exists(path: Path) -> OutputExistsError:
    return OutputExistsError(f"{path} exists; choose another name, or pass overwrite=True")


def try_lock(descriptor: int) -> bool:
    """Take an open file for this process alone until it is closed; False if another has it."""
    if os.name == "nt":
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
