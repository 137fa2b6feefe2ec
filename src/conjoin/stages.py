"""Cached stages: long work that is done once, survives a kill, and is never used when stale.

A stage is a name, a version, and everything that its result depends on: settings, and the stages
that it builds upon. The key is the hash of all that, so a changed setting anywhere upstream
changes every key downstream, and an old result is simply not found.

    key = sha256(name, version, settings, {input: key of that stage})

A finished stage is a folder ``NAME-KEY/`` with its files and ``stage.json``, which holds the
settings in readable form and a digest of every file. It appears by one rename. What is unfinished
lives in ``NAME-KEY.partial/``; its ``work/`` survives a kill, so that a stage may save its progress
there and go on.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from conjoin.atomic import sync_folder, try_lock, write_bytes
from conjoin.errors import StageError

__all__ = ["Stage", "StageCache"]

MANIFEST = "stage.json"


@dataclass(frozen=True)
class Stage:
    """What a result depends on.

    Args:
        name: kind of stage; letters, digits and ``-``. Part of the folder's name.
        version: raised by hand whenever the code that makes the stage changes its result.
        settings: JSON values that decide the result.
        inputs: the stages that this one reads.

    >>> data = Stage("data", 1, {"count": 100})
    >>> Stage("train", 1, {"epochs": 2}, {"data": data}).key == Stage(
    ...     "train", 1, {"epochs": 2}, {"data": Stage("data", 1, {"count": 200})}
    ... ).key
    False
    """

    name: str
    version: int
    settings: Mapping[str, Any]
    inputs: Mapping[str, "Stage"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9-]+", self.name):
            raise StageError(f"a stage's name has letters, digits and '-' only, not {self.name!r}")

    @cached_property
    def description(self) -> dict[str, Any]:
        """All that decides the result, as JSON values."""
        return {
            "name": self.name,
            "version": self.version,
            "settings": dict(self.settings),
            "inputs": {name: stage.key for name, stage in self.inputs.items()},
        }

    @cached_property
    def key(self) -> str:
        """Hash of the description (16 hex digits)."""
        try:
            _check_keys(self.settings)
            text = json.dumps(self.description, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise StageError(
                f"the settings of stage {self.name} are not plain JSON: {error}"
            ) from error
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class StageCache:
    """Finished stages in a folder.

    Args:
        folder: made if it is missing.
        notice: called with one line when a stored stage is damaged and is made again.
    """

    folder: Path
    notice: Callable[[str], None] = print

    def get(self, stage: Stage, make: Callable[[Path, Path], None]) -> Path:
        """Give the folder of `stage`; call ``make(out, work)`` if it is not there yet.

        `make` writes the files of the stage into `out`. It may keep its progress in `work`, which
        is handed to it again if it is killed or raises, and is removed when it is done.
        """
        final = self.folder / f"{stage.name}-{stage.key}"
        if final.exists():
            damage = self._damage(final, stage)
            if damage is None:
                return final
            self.notice(f"{final.name} is damaged ({damage}); it is made again")
            _remove(final)
        out = self.folder / f"{final.name}.partial"
        work = out / "work"
        work.mkdir(parents=True, exist_ok=True)
        for leftover in out.iterdir():
            if leftover != work:
                _remove(leftover)
        make(out, work)
        # Out of the way by one rename: a kill while it is removed must not hand back a part of it.
        done = out / ".work-done"
        work.rename(done)
        shutil.rmtree(done)
        files = sorted(
            path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()
        )
        manifest = {
            **stage.description,
            "key": stage.key,
            "files": {f: _digest(out / f) for f in files},
        }
        write_bytes(out / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
        out.rename(final)
        sync_folder(self.folder)
        return final

    def has(self, stage: Stage) -> bool:
        """Whether `stage` is finished (its files are checked when it is used)."""
        return (self.folder / f"{stage.name}-{stage.key}").exists()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; the system lets go of it even after a kill.

        Raises:
            StageError: another process holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("a+b") as file:
            if not try_lock(file.fileno()):
                raise StageError(
                    f"another run is using {self.folder}; wait for it, or name another folder"
                )
            yield

    @staticmethod
    def _damage(final: Path, stage: Stage) -> str | None:
        try:
            manifest = json.loads((final / MANIFEST).read_text(encoding="utf-8"))
            if manifest["key"] != stage.key:
                return "another key"
            for name, digest in manifest["files"].items():
                if _digest(final / name) != digest:
                    return f"{name} has changed"
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return f"{type(error).__name__}: {error}"
        return None


def _check_keys(value: Any) -> None:
    """Refuse keys that JSON would turn into strings, since {1: 0} and {"1": 0} would be one."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is no string")
            _check_keys(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_keys(inner)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
