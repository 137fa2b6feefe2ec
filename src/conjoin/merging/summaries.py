"""What a method has to know of a whole tensor, or of the whole model, before it makes a part of it.

A method's `summarize` is a plain function: it asks for totals, each the sum of a function of
every block, and gives one tensor made of them. Here the totals are formed: in any number of
threads and processes, always to the same bits.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from conjoin.checkpoints import files_kept_open
from conjoin.compiled import Passed, Program, Programs, Run
from conjoin.deferred import torch
from conjoin.dtypes import DType
from conjoin.errors import MethodError
from conjoin.merging.blocks import (
    BLOCK,
    Held,
    block_generator,
    blocks_of,
    hold,
    read_blocks,
    read_inputs,
)
from conjoin.merging.over_files import run_from_files
from conjoin.merging.task import Task, may_be_compiled
from conjoin.methods import Need, Total

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Alone", "Piece", "Summaries", "Workers"]

# Elements of a piece of work. Sums are formed within pieces, then over pieces: a part of what a
# total means, like BLOCK.
_PIECE = 64 * BLOCK

Function: TypeAlias = "Callable[..., Tensor]"


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of one tensor."""

    name: str
    start: int
    stop: int


class Workers(Protocol):
    """Whoever does pieces of work: one thread, several, or several processes."""

    def each(self, function: Callable[[Piece], Tensor], pieces: Sequence[Piece]) -> list[Tensor]:
        """Give the result for every piece, in their order."""
        ...

    def summed(self, function: Callable[[Piece], Tensor], pieces: Sequence[Piece]) -> Tensor:
        """Give the sum of results that are integers, so that their order says nothing."""
        ...

    def acquire(self, lock: threading.Lock) -> None:
        """Take a lock; who has it may be waiting for help meanwhile."""
        ...


class Alone:
    """One thread that does everything itself."""

    def each(self, function: Callable[[Piece], Tensor], pieces: Sequence[Piece]) -> list[Tensor]:
        """Give the result for every piece, in their order."""
        return [function(piece) for piece in pieces]

    def summed(self, function: Callable[[Piece], Tensor], pieces: Sequence[Piece]) -> Tensor:
        """Give the sum of all results."""
        total = function(pieces[0]).clone()
        for piece in pieces[1:]:
            total += function(piece)
        return total

    def acquire(self, lock: threading.Lock) -> None:
        """Take a lock."""
        lock.acquire()


class Summaries:
    """The summaries of a merge, each made when it is first asked for.

    Args:
        tasks: of all tensors of the result.
        programs: that may form the totals.
        seed: of random methods.
        finite: refuse NaN and infinity.
        workers: who makes the totals.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        programs: Programs,
        *,
        seed: int,
        finite: bool,
        workers: Workers | None = None,
    ) -> None:
        self._tasks, self._programs = tasks, programs
        self._seed, self._finite = seed, finite
        self.workers: Workers = workers or Alone()
        self._known: dict[str, Any] = {}
        self._keys = dict[str, str]()
        self._checked = set[str]()
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        # glibc gives memory of more than some size back to the system at once, and takes it anew,
        # with a page fault for each 4 KB: a third of the time of a method with temporaries of a
        # block. Letting go of one large tensor raises that size for the process.
        np.empty(31 << 20, np.uint8)

    def keys_of_models(self) -> dict[str, str]:
        """Give the keys of summaries over the whole model, each with one of its tensors."""
        found: dict[str, str] = {}
        for name, task in self._tasks.items():
            if task.spec.alias_of is None and task.summarized and _over_model(task):
                found.setdefault(self.key(name), name)
        return found

    def key(self, name: str) -> str:
        """Give what identifies the summary of a tensor: its name, or its method and settings."""
        if name not in self._keys:  # it is asked for with every block
            self._keys[name] = self._new_key(name)
        return self._keys[name]

    def _new_key(self, name: str) -> str:
        task = self._tasks[name]
        if not _over_model(task):
            return name
        assert task.method is not None
        asked = sorted(_keywords(task).items())
        return f"{task.method.name} of {len(task.sources)}: {asked!r}"

    def make_models(self, everyone: Workers) -> None:
        """Make the summaries over the whole model, with the help of every process.

        Raises:
            MethodError: settings differ between tensors.
        """
        for key, name in self.keys_of_models().items():
            if key not in self._known:
                self._known[key] = self._make(name, key, everyone)

    def of(self, name: str) -> Any:
        """Give the summary for a tensor.

        Raises:
            MethodError: one is needed over the whole model, whose tensors have other settings.
        """
        key = self.key(name)
        if key in self._known:
            return self._known[key]
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        # Another part of this tensor may be under way, and its thread is making the summary.
        self.workers.acquire(lock)
        try:
            if key not in self._known:
                self._known[key] = self._make(name, key, self.workers)
            return self._known[key]
        finally:
            lock.release()

    def has_checked(self, name: str) -> bool:
        """Whether all inputs of a tensor were found to be finite when its summary was made."""
        return self.key(name) in self._checked

    def of_models(self) -> dict[str, Any]:
        """Give the summaries over the whole model that have been made, by key."""
        return {key: self._known[key] for key in self.keys_of_models() if key in self._known}

    def know(self, known: Mapping[str, Any]) -> None:
        """Take summaries, by key, as they were made before."""
        self._known.update(known)

    def _make(self, name: str, key: str, workers: Workers) -> Any:
        task = self._tasks[name]
        assert task.method is not None
        assert task.method.summarize is not None
        names = [name]
        if _over_model(task):
            keys = self.keys_of_models()
            if len(keys) > 1:
                raise MethodError(
                    f"{task.method.name} with per='model' looks at the whole model at once, so "
                    "that its parameters have to be the same for all tensors; they are not: "
                    + "; ".join(keys)
                    + ". Use one value, or the parameter per='tensor'"
                )
            names = [
                other
                for other, one in self._tasks.items()
                if one.spec.alias_of is None and one.summarized and self.key(other) == key
            ]
        pieces = [
            Piece(other, start, min(start + _PIECE, self._tasks[other].spec.numel))
            for other in names
            for start in range(0, self._tasks[other].spec.numel, _PIECE)
        ]
        # A tensor without elements has the totals of an empty block.
        pieces = pieces or [Piece(name, 0, 0)]
        total = _Total(
            self._tasks, pieces, workers, self._programs, seed=self._seed, finite=self._finite
        )
        made = task.method.summarize(total, **_keywords(task))
        if self._finite and total.saw_all:
            self._checked.add(key)
        return made


class _Total(Total):
    """The totals over some pieces."""

    def __init__(
        self,
        tasks: Mapping[str, Task],
        pieces: Sequence[Piece],
        workers: Workers,
        programs: Programs,
        *,
        seed: int,
        finite: bool,
    ) -> None:
        self._tasks, self._pieces, self._workers = tasks, pieces, workers
        self._programs = programs
        self._seed, self._finite = seed, finite
        self.saw_all = False

    @property
    def size(self) -> int:
        return sum(piece.stop - piece.start for piece in self._pieces)

    def __call__(self, function: Function, /) -> Tensor:
        compiled = self._compiled(function)

        def measure(piece: Piece) -> Tensor:
            with files_kept_open():
                return self._measured(function, piece, compiled)

        first = measure(Piece(self._pieces[0].name, 0, 0))  # tells the dtype, and costs nothing
        if first.is_floating_point():
            parts = self._workers.each(measure, self._pieces)
            result = parts[0].clone()
            for part in parts[1:]:
                result += part
        else:
            result = self._workers.summed(measure, self._pieces)
        self.saw_all = True
        return result

    def numbers(self, function: Function, /) -> list[float]:
        compiled = self._compiled(function)
        if any(self._program(piece, compiled) is None for piece in self._pieces):
            return super().numbers(function)

        def measure(piece: Piece) -> Any:
            with files_kept_open():
                passed = self._passed(piece, compiled)
                if passed is not None:
                    return passed.sums
                return self._measured(function, piece, compiled).numpy()

        parts = self._workers.each(measure, self._pieces)
        self.saw_all = True
        numbers: list[float] = sum(parts[1:], parts[0]).tolist()
        return numbers

    def sample(self, function: Function, count: int, /) -> Tensor:
        # An odd step does not meet the same column of every row of 2**k elements.
        step = max(1, -(-self.size // count)) | 1 if self.size > count else 1

        def draw(piece: Piece) -> Tensor:
            task = self._tasks[piece.name]
            held = hold(task.inputs) if piece.start < piece.stop else {}
            tensors = self._read(task, (piece.start, piece.stop), held, step)
            base = None if task.base is None else tensors.pop()
            wanted = inspect.signature(function).parameters
            return function(tensors, **({"base": base} if "base" in wanted else {}))

        return torch.cat(self._workers.each(draw, self._pieces), -1)

    def _compiled(self, function: Function) -> dict[Hashable, Program | None]:
        """Give the programs that form the total of a function, for every kind of tensor."""
        wanted, found = inspect.signature(function).parameters, dict[Hashable, Program | None]()
        if "into" in wanted:
            return found
        for name in {piece.name for piece in self._pieces}:
            task = self._tasks[name]
            stored = _stored(task)
            if stored not in found and may_be_compiled(task):
                found[stored] = self._programs.of(
                    function,
                    {},
                    stored=stored,
                    result=None,
                    base=task.base is not None,
                    size=task.spec.numel,
                )
        return found

    def _program(self, piece: Piece, compiled: Mapping[Hashable, Program | None]) -> Program | None:
        task = self._tasks[piece.name]
        if piece.start == piece.stop or not may_be_compiled(task):
            return None
        return compiled.get(_stored(task))

    def _passed(self, piece: Piece, compiled: Mapping[Hashable, Program | None]) -> Passed | None:
        """What is found without tensors, if something is."""
        program = self._program(piece, compiled)
        if program is None:
            return None
        return run_from_files(program, self._tasks[piece.name].inputs, piece.start, piece.stop)

    def _measured(
        self, function: Function, piece: Piece, compiled: Mapping[Hashable, Program | None]
    ) -> Tensor:
        wanted = inspect.signature(function).parameters
        task, found = self._tasks[piece.name], None
        empty = piece.start == piece.stop
        passed = self._passed(piece, compiled)
        if passed is not None:
            return torch.from_numpy(passed.sums)
        held = {} if empty else hold(task.inputs)
        program = self._program(piece, compiled)
        run = None if program is None else Run(program)
        for span, raw in self._blocks(task, piece, held, raw=run is not None):
            given: dict[str, Any] = {}
            if "generator" in wanted:
                given["generator"] = block_generator(self._seed, piece.name, span[0])
            if run is not None:
                value = run(raw, **given)
                if value is not None:
                    found = value.clone() if found is None else found.add_(value)
                    continue
                if "generator" in wanted:  # as it was
                    given["generator"] = block_generator(self._seed, piece.name, span[0])
            tensors = self._read(task, span, held)
            base = None if task.base is None else tensors.pop()
            if "base" in wanted:
                given["base"] = base
            if "into" in wanted:
                found = function(tensors, **given, into=found)
            else:
                value = function(tensors, **given)
                found = value.clone() if found is None else found.add_(value)
        assert found is not None
        return found

    def _blocks(
        self, task: Task, piece: Piece, held: Held, *, raw: bool
    ) -> Iterable[tuple[tuple[int, int], list[Tensor]]]:
        """Give the blocks of a piece, with the inputs as they are stored if these are wanted."""
        if raw:
            return read_blocks(task.inputs, piece.start, piece.stop, held)
        spans = [*blocks_of(piece.start, piece.stop)] or [(piece.start, piece.stop)]
        return [(span, []) for span in spans]

    def _read(self, task: Task, span: tuple[int, int], held: Held, step: int = 1) -> list[Tensor]:
        return read_inputs(task, task.inputs, span, finite=self._finite, held=held, step=step)


def _stored(task: Task) -> tuple[DType, ...]:
    return tuple(source.spec.stored for source in task.inputs)


def _over_model(task: Task) -> bool:
    assert task.method is not None
    return bool({**task.method.defaults, **task.settings.parameters}.get("per") == "model")


def _keywords(task: Task) -> dict[str, Any]:
    """The keywords of `summarize`: those of weights and parameters that it has."""
    method = task.method
    assert method is not None
    assert method.summarize is not None
    given = {**method.defaults, **task.settings.parameters}
    if Need.WEIGHTS in method.needs:
        given["weights"] = task.settings.weights or (1.0,) * len(task.sources)
    wanted = inspect.signature(method.summarize).parameters
    return {name: value for name, value in given.items() if name in wanted}
