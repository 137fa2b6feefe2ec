"""A bar for work that goes through a checkpoint and takes long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from conjoin.checkpoints import Checkpoint, Spec
from conjoin.cli.output import error_console

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Counted", "byte_bar", "tracked"]

PATIENCE = 2.0
"""Seconds before a bar appears."""


class Counted(Checkpoint):
    """A checkpoint that moves a bar when its tensors are read."""

    def __init__(self, inner: Checkpoint, progress: Progress, task: TaskID) -> None:
        self._inner, self._progress, self._task = inner, progress, task
        self._left = {
            name: spec.nbytes for name, spec in inner.specs.items() if spec.alias_of is None
        }
        self._total = len(self._left)

    @property
    def specs(self) -> Mapping[str, Spec]:
        return self._inner.specs

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._inner.metadata

    @property
    def source(self) -> str:
        return self._inner.source

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._inner[name]
        self._count(name, tensor)
        return tensor

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        tensor = self._inner.read(name, start, stop)
        self._count(name, tensor)
        return tensor

    def _count(self, name: str, tensor: Tensor) -> None:
        # A tensor that is read twice moves the bar once.
        nbytes = min(tensor.numel() * tensor.dtype.itemsize, self._left.get(name, 0))
        if name in self._left:
            self._left[name] -= nbytes
            if self._left[name] == 0:
                del self._left[name]
        done = self._total - len(self._left)
        self._progress.update(self._task, advance=nbytes, tensors=f"{done}/{self._total} tensors")


@contextmanager
def tracked(checkpoint: Checkpoint, console: Console | None = None) -> Iterator[Checkpoint]:
    """Give a checkpoint whose reading is shown on stderr, if that is a terminal and it takes long.

    Args:
        checkpoint: what is read, or computed, once.
        console: where the bar goes; default: stderr.
    """
    console = console or error_console()
    if not console.is_interactive:
        yield checkpoint
        return
    progress = _make_progress(console)
    nbytes = sum(spec.nbytes for spec in checkpoint.specs.values() if spec.alias_of is None)
    task = progress.add_task("", total=nbytes, tensors="")
    timer = threading.Timer(PATIENCE, progress.start)
    timer.daemon = True
    timer.start()
    try:
        yield Counted(checkpoint, progress, task)
    finally:
        timer.cancel()
        timer.join()
        progress.stop()


@contextmanager
def byte_bar(console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """Give what to call with (bytes done, bytes in all); a bar appears when it takes long.

    Where stderr is no terminal there is none.
    """
    console = console or error_console()
    progress = _make_progress(console)
    task = progress.add_task("", total=None, tensors="", start=False)
    began, shown = time.monotonic(), False

    def update(done: int, total: int) -> None:
        nonlocal shown
        if not console.is_interactive:
            return
        if not shown and done < total and time.monotonic() - began > PATIENCE:
            shown = True
            progress.start()
        progress.start_task(task)
        progress.update(task, completed=done, total=total)

    try:
        yield update
    finally:
        if shown:
            progress.stop()


def _make_progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.fields[tensors]}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        get_time=time.monotonic,
    )
