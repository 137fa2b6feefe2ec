"""Files that appear whole or not at all.

A result is written beside its final place under a hidden name, flushed to the disk, and renamed.
A reader therefore sees the old file, or the new one, never a part of it; after a kill, at most a
hidden ``.NAME.*.partial`` is left over.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from conjoin.errors import InputError, OutputExistsError

__all__ = ["check_writable", "sync_folder", "write_bytes", "writing"]


def check_writable(path: Path, *, overwrite: bool) -> None:
    """Raise before any work is done if `path` cannot become a result.

    Raises:
        InputError: the folder of `path` does not exist, or `path` is a folder.
        OutputExistsError: `path` exists and `overwrite` is false.
    """
    if not path.parent.is_dir():
        raise InputError(
            f"the folder {path.parent} does not exist, so {path.name} cannot be written there"
        )
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file")
    if path.exists() and not overwrite:
        raise OutputExistsError(
            f"{path} exists; nothing was written. Choose another name or overwrite it"
        )


@contextmanager
def writing(path: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """Open a hidden partial file that becomes `path` when the block ends without an exception.

    On an exception, Ctrl-C included, the partial file is removed and `path` is as it was.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     target = Path(folder) / "result.txt"
    ...     with writing(target, overwrite=False) as file:
    ...         _ = file.write(b"whole")
    ...     target.read_bytes()
    b'whole'
    """
    check_writable(path, overwrite=overwrite)
    partial = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial"
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            partial.replace(path)
        else:
            _rename_without_replacing(partial, path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes, *, overwrite: bool = True) -> None:
    """Write a small file whole."""
    with writing(path, overwrite=overwrite) as file:
        file.write(content)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable, where the system can (not on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename_without_replacing(partial: Path, path: Path) -> None:
    # A hard link fails if the name exists, so of two writers that race, one gets the error.
    try:
        os.link(partial, path)
    except FileExistsError:
        raise OutputExistsError(
            f"{path} was written by somebody else meanwhile; it was left as it is"
        ) from None
    except OSError:  # a file system without hard links
        if path.exists():
            raise OutputExistsError(f"{path} exists; nothing was written") from None
        partial.replace(path)
