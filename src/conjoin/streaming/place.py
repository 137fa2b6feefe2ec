"""The place of a result while it is made, and the moment when it appears.

    OUT.partial/            beside OUT, so that a rename is atomic
        lock                held while a run is at work
        plan.json           what the run is for: the hash of its plan, and how to read it
        journal-*.jsonl     what is finished
        appears.json        which file or folder is about to become OUT
        result/             the files of the result, at their full size from the start

At the end, everything in `result` is on the disk (fsync of every file, then of the folder), and is
renamed to OUT: a reader sees nothing, or all of it. Then OUT.partial is removed.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from conjoin.atomic import sync_folder, try_lock, write_bytes
from conjoin.errors import InputError, OutputExistsError, StageError
from conjoin.streaming.exchange import exchange

__all__ = ["Place", "check_out", "partial_of", "run_place"]

_PLAN, _APPEARS, _LOCK = "plan.json", "appears.json", "lock"
_TEMPORARY = ".conjoin-*.tmp"  # see conjoin.atomic
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".index.json")


def partial_of(out: Path) -> Path:
    """Give the folder in which a result is made.

    >>> partial_of(Path("merged"))
    PosixPath('merged.partial')
    """
    return out.with_name(out.name + ".partial")


def check_out(out: Path, *, overwrite: bool) -> None:
    """Raise if a result cannot appear at `out`, before any work is done for it.

    Raises:
        InputError: its parent is missing, or it is something that is never replaced.
        OutputExistsError: something is there, and is not to be replaced.
    """
    if not out.name:
        raise InputError(f"{out} cannot be a result; name a new folder or file")
    if not out.parent.is_dir():
        raise InputError(f"cannot write {out}: there is no folder {out.parent}; create it first")
    if not os.path.lexists(out):
        return
    if not overwrite and _has_appeared(out):
        raise OutputExistsError(
            f"{out} exists, and is complete: the run that made it was ended only when it cleaned "
            f"up; {partial_of(out)} can be removed"
        )
    if not overwrite:
        raise OutputExistsError(f"{out} exists; choose another name, or pass overwrite=True")
    if out.is_symlink():
        raise InputError(f"{out} is a link, which is never replaced; remove it, or name its target")
    if not out.is_dir() and not out.is_file():
        raise InputError(
            f"{out} is a device, a pipe or the like, which is never replaced; choose another name"
        )
    if out.is_dir() and not _is_result(out):
        raise InputError(
            f"{out} is a folder that is no checkpoint, or holds other folders, and is not "
            "replaced; remove it yourself, or choose another name"
        )


def _has_appeared(out: Path) -> bool:
    """Whether a run that was cut off has left nothing but its cleaning up."""
    try:
        status = out.lstat()
        noted = json.loads((partial_of(out) / _APPEARS).read_bytes())
    except (OSError, ValueError):
        return False
    return bool(noted == [status.st_dev, status.st_ino])


def _is_result(folder: Path) -> bool:
    items = list(folder.iterdir())
    if any(item.is_dir() and not item.is_symlink() for item in items):
        return False
    return not items or any(item.name.endswith(_WEIGHTS) for item in items)


class Place:
    """An open partial folder, which this process has alone (with its helpers).

    Args:
        out: where the result will be.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.folder = out, partial_of(out)
        self.result = self.folder / "result"

    def plan(self) -> Mapping[str, Any] | None:
        """Give what the run was begun for, or None if it was not begun."""
        if not self.result.is_dir():
            return None
        try:
            found = json.loads((self.folder / _PLAN).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def begin(self) -> None:
        """Remove what an earlier run has left, and make room for a result."""
        (self.folder / _PLAN).unlink(missing_ok=True)  # first: without it nothing is gone on with
        _clear(self.folder)
        self.result.mkdir()

    def note(self, plan: Mapping[str, Any]) -> None:
        """Note what the run is for; from now on it can be gone on with."""
        write_bytes(self.folder / _PLAN, json.dumps(plan).encode())

    def give_up(self) -> None:
        """Let nothing be gone on with: the folder is removed when the run leaves it."""
        (self.folder / _PLAN).unlink(missing_ok=True)

    def finish(self, *, overwrite: bool, single: str | None, sync: bool = True) -> None:
        """Let the result appear.

        Args:
            overwrite: whether something may be replaced.
            sync: wait until everything is on the disk, so that a loss of power cannot leave a
                result of which a part is missing.
            single: name of the only file, if the result is that file and not the folder.

        Raises:
            OutputExistsError: something has appeared there since the run began.
        """
        for path in self.result.rglob(_TEMPORARY):
            path.unlink()  # of a run that was killed while it wrote a small file
        if sync:
            for path in sorted(self.result.iterdir()):
                _sync(path)
            sync_folder(self.result)
        check_out(self.out, overwrite=overwrite)
        made = self.result if single is None else self.result / single
        # What belongs beside a single file comes first: nothing is missing when that appears.
        for path in () if single is None else sorted(self.result.iterdir()):
            if path != made:
                path.replace(self.out.with_name(path.name))
        # After an exchange, `made` is what was replaced. Who goes on must be able to tell.
        status = made.lstat()
        noted = json.dumps([status.st_dev, status.st_ino])
        write_bytes(self.folder / _APPEARS, noted.encode())
        if not os.path.lexists(self.out):
            made.rename(self.out)
        elif made.is_dir() or self.out.is_dir():
            exchange(made, self.out)
        else:
            made.replace(self.out)
        sync_folder(self.out.parent)
        (self.folder / _PLAN).unlink(missing_ok=True)
        _vanish(self.folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _clear(folder: Path) -> None:
    for item in folder.iterdir():
        if item.name != _LOCK:
            _remove(item)


def _vanish(folder: Path) -> None:
    """Remove a partial folder; the lock last, since nobody may use a folder that is half gone."""
    _clear(folder)
    (folder / _LOCK).unlink()
    with suppress(OSError):
        folder.rmdir()  # unless another run has just taken it


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextmanager
def run_place(out: Path) -> Iterator[Place]:
    """Take the partial folder of a result for one run.

    At the end it stays if there is something to go on with.

    Raises:
        StageError: another run is at work there.
        InputError: something else has its name.
    """
    folder = partial_of(out)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{folder}, where the result is made, is no folder; remove or rename it")
    finished = f"another run has just finished {out}; look at it, or run this again"
    folder.mkdir(exist_ok=True)
    try:
        lock = (folder / _LOCK).open("ab")
    except FileNotFoundError:
        raise StageError(finished) from None
    with lock:
        if not try_lock(lock.fileno()):
            raise StageError(
                f"another run is making {out} (it holds {folder / _LOCK}); wait for it, or choose "
                "another name"
            )
        if not _is_open(folder / _LOCK, lock.fileno()):
            raise StageError(finished)
        if _has_appeared(out):
            (folder / _PLAN).unlink(missing_ok=True)  # what is left is of no use
        try:
            yield Place(out)
        finally:
            # Not if it is another run's by now.
            if _is_open(folder / _LOCK, lock.fileno()) and not (folder / _PLAN).exists():
                _vanish(folder)


def _is_open(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
