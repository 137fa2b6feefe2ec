"""Measuring model after model in a process that may crash, run out of memory or hang."""

import json
import multiprocessing
import resource
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

__all__ = ["Measure", "known", "run"]

Measure = Callable[[str, str], dict[str, Any]]
"""Family and name of a model -> what is found of it."""

GIB = 2**30


def known(path: Path | None) -> dict[tuple[str, str], dict[str, Any]]:
    """Read what is measured already, a JSON object a line."""
    if path is None or not path.exists():
        return {}
    records = map(json.loads, path.read_text().splitlines())
    return {(record["family"], record["name"]): record for record in records}


def run(
    tasks: Sequence[tuple[str, str]],
    measure: Measure,
    output: Path | None,
    *,
    seconds: float,
    memory: float,
    say: Callable[[Mapping[str, Any]], None],
) -> dict[tuple[str, str], dict[str, Any]]:
    """Measure what is not in the output yet; append each to it as soon as it is there.

    Args:
        tasks: family and name of each model.
        measure: a function of a module, so that another process can import it.
        output: a file of JSON lines.
        seconds: after so many of the processor's time a model is given up.
        memory: that the process may take, in GiB.
        say: is called with each record.
    """
    found = known(output)
    worker: _Worker | None = None
    for family, name in tasks:
        if (family, name) in found:
            continue
        worker = worker or _Worker(measure, seconds, memory)
        record = {"family": family, "name": name, **worker.ask(family, name)}
        if not worker.alive:
            worker = None
        found[family, name] = record
        if output is not None:
            with output.open("a") as file:
                file.write(json.dumps(record) + "\n")
        say(record)
    if worker is not None:
        worker.pipe.close()
        worker.end()
    return {task: found[task] for task in tasks}


class _Worker:
    """Another process, which answers one question at a time."""

    def __init__(self, measure: Measure, seconds: float, memory: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.seconds, self.alive = seconds, True
        self.pipe, other = context.Pipe()
        arguments = (other, measure, seconds, memory)
        self.process = context.Process(target=_answer, args=arguments, daemon=True)
        self.process.start()
        other.close()

    def ask(self, family: str, name: str) -> dict[str, Any]:
        self.pipe.send((family, name))
        try:
            answer: dict[str, Any] = self.pipe.recv()
            return answer
        except EOFError:
            self.end()
            if self.process.exitcode == -signal.SIGPROF:
                return {"reason": f"given up after {self.seconds:g} seconds of the processor"}
            return {"reason": f"the process died, exit code {self.process.exitcode}"}

    def end(self) -> None:
        self.alive = False
        self.process.join(60)  # it ends by itself; on a busy machine that takes a while
        self.process.kill()
        self.process.join()


def _answer(pipe: Connection, measure: Measure, seconds: float, memory: float) -> None:
    size = int(memory * GIB)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    while True:
        try:
            family, name = pipe.recv()
        except EOFError:
            return
        # The signal ends the process, whatever it is in. Time that others take does not count.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        began = time.process_time()
        try:
            answer = measure(family, name)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".strip()
            answer = {"reason": reason[:600], "seconds": time.process_time() - began}
        signal.setitimer(signal.ITIMER_PROF, 0)
        pipe.send(answer)
