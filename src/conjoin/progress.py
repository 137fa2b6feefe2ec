"""Progress of long jobs: rate and time left on a terminal, one line per job elsewhere."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

__all__ = ["Bars"]


class _Rate(ProgressColumn):
    """Examples per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", style="progress.data.speed")


class Bars:
    """One bar for each job, titled; use as a context manager.

    >>> with Bars(Console(quiet=True), "seed 0") as bars:
    ...     update = bars.start("training")
    ...     update(5, 10)
    """

    def __init__(self, console: Console, prefix: str) -> None:
        self._console, self._prefix = console, f"{prefix}  " if prefix else ""
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def start(self, title: str) -> Callable[[int, int], None]:
        """Begin a job; give what to call with (done, in all)."""
        bar = self._progress.add_task(f"{self._prefix}{title}", total=None)
        began = time.monotonic()
        ended = False

        def update(done: int, total: int) -> None:
            nonlocal ended
            self._progress.update(bar, completed=done, total=total)
            if done >= total and not ended:
                ended = True
                self._progress.remove_task(bar)
                seconds = time.monotonic() - began
                line = f"{self._prefix}{title}: {total:,} in {seconds:.1f} s"
                self._console.print(line, style="dim", markup=False, highlight=False)

        return update
