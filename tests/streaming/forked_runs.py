"""A program that makes merges in forks of itself, and kills them when it is told to.

It reads orders, one JSON object a line, and answers each with a line: the exit code of the fork,
negative for a signal. Forks begin at once, since everything is imported before, and safely, since
this process itself computes nothing.
"""

import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

EXISTS = 3
"""Exit code of a run that found its result complete."""

FAILED = 4
"""Exit code of a run that ended with another error, which is in the file `error` of the order."""

# Everything of the run that leaves a trace on the disk.
_CALLS = ("pwrite", "write", "fsync", "posix_fallocate")
_EVENTS = ("open", "os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.truncate")


def small_blocks(block: int = 64) -> None:
    """Let tensors of a few hundred elements have many blocks, for good."""
    for name in ("merging.blocks", "merging.merged", "merging.summaries", "streaming.noted"):
        importlib.import_module(f"conjoin.{name}").BLOCK = block  # type: ignore[attr-defined]
    importlib.import_module("conjoin.merging.summaries")._PIECE = 4 * block  # type: ignore[attr-defined]
    importlib.import_module("conjoin.streaming.jobs").SPAN = 2 * block  # type: ignore[attr-defined]


class Killer:
    """Ends this process at a step of its work on the disk; counts the steps.

    Args:
        step: number of the step before which it is killed, from 0; None is never.
    """

    def __init__(self, step: int | None) -> None:
        self.step, self.count, self._lock = step, 0, threading.Lock()

    def reached(self) -> bool:
        """Whether this is the step."""
        with self._lock:
            self.count += 1
            return self.count - 1 == self.step

    def watch(self, name: str) -> None:
        """Count the calls of a function of `os`; of a write, half is done before the end."""
        inner: Callable[..., Any] = getattr(os, name)

        def watched(*arguments: Any) -> Any:
            if self.reached():
                if name in ("pwrite", "write"):
                    data = memoryview(arguments[1])
                    inner(arguments[0], data[: len(data) // 2], *arguments[2:])
                end()
            return inner(*arguments)

        setattr(os, name, watched)

    def heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Count an event of the interpreter that concerns a result."""
        if event in _EVENTS and ".partial" in str(arguments[:2]) and self.reached():
            end()


def end() -> None:
    """As the system ends a process that has used up the memory: nothing is tidied up."""
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()


def merge(order: Mapping[str, Any]) -> int:
    """Carry out the recipe of an order."""
    from conjoin.errors import OutputExistsError
    from conjoin.recipes import Options, make_plan, read_recipe, run_plan

    if order.get("small", True):
        small_blocks()
    plan = make_plan(read_recipe(Path(order["recipe"])), single=order.get("single"))
    if order.get("pause"):
        running = importlib.import_module("conjoin.streaming.running")
        call = running._Work.__call__

        def slow(self: Any, index: int) -> None:
            time.sleep(order["pause"])
            call(self, index)

        running._Work.__call__ = slow  # type: ignore[attr-defined]
    killer = Killer(order.get("step"))
    for name in _CALLS:
        killer.watch(name)
    sys.addaudithook(killer.heard)
    options = Options(**order.get("options", {}))
    try:
        run_plan(plan, Path(order["out"]), options)
    except OutputExistsError:
        return EXISTS
    except Exception as error:
        Path(order["error"]).write_text(f"{type(error).__name__}: {error}")
        return FAILED
    if "count" in order:
        Path(order["count"]).write_text(str(killer.count))
    return 0


def hold(order: Mapping[str, Any]) -> int:
    """Take the place of a result until somebody kills this."""
    from conjoin.streaming import run_place

    with run_place(Path(order["out"])) as place:
        place.begin()
        place.note({"hash": "h"})
        Path(order["ready"]).touch()
        threading.Event().wait()
    return 0


def fork(order: Mapping[str, Any]) -> None:
    """Do what an order says and end, whatever happens."""
    code = 1
    try:
        code = {"merge": merge, "hold": hold}[order["do"]](order)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def main() -> None:
    importlib.import_module("conjoin.recipes")
    importlib.import_module("conjoin.streaming")
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            fork(order)
        if "ready" in order:
            while not Path(order["ready"]).exists():
                time.sleep(0.01)
            sys.stdin.readline()  # until the test has seen enough
            os.kill(child, signal.SIGKILL)
        if "seconds" in order:
            time.sleep(order["seconds"])
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
