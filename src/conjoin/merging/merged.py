"""A merge as a lazy checkpoint: nothing is computed until a tensor is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from conjoin.checkpoints import Checkpoint, Kind, Spec, files_kept_open
from conjoin.compiled import Passed, Program, Programs, Run, Stretch, may_be_read
from conjoin.deferred import torch
from conjoin.dtypes import FLOAT32
from conjoin.errors import MethodError, MismatchError, NonFiniteError
from conjoin.merging.blocks import (
    BLOCK,
    Held,
    block_generator,
    blocks_of,
    check_finite,
    hold,
    read_blocks,
    read_inputs,
    read_source,
)
from conjoin.merging.over_files import run_from_files
from conjoin.merging.rounding import rounded, summable
from conjoin.merging.summaries import Summaries
from conjoin.merging.task import Rule, Source, Task, may_be_compiled, working_dtype
from conjoin.methods import Need

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Merged"]

Span = tuple[int, int] | None
_NOTHING: Held = MappingProxyType({})


class Merged(Checkpoint):
    """The result of merging, tensor by tensor; several threads may ask for parts of it at once.

    Args:
        tasks: of every tensor, by name.
        seed: of random methods.
        allow_nonfinite: whether NaN and infinity pass.
        device: where the arithmetic is done; None is where the tensors are.
        metadata: strings that say how the result was made.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        *,
        seed: int = 0,
        allow_nonfinite: bool = False,
        device: torch.device | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.tasks = MappingProxyType(dict(tasks))
        self._specs = {name: task.spec for name, task in tasks.items()}
        self._seed, self._finite, self.device = seed, not allow_nonfinite, device
        self._metadata = dict(metadata or {})
        self._programs = Programs(rounded)
        self._compiled = dict[str, Program | None]()
        self.summaries = Summaries(tasks, self._programs, seed=seed, finite=self._finite)

    @property
    def specs(self) -> Mapping[str, Spec]:
        return MappingProxyType(self._specs)

    @property
    def metadata(self) -> Mapping[str, str]:
        entries = dict(self._metadata)
        if self.pooled:
            entries["conjoin.statistics"] = "pooled from the inputs; re-estimate them on data"
        return entries

    @property
    def pooled(self) -> list[str]:
        """Names of the statistics that were pooled and should be re-estimated on data."""
        return [
            name
            for name, task in self.tasks.items()
            if task.rule is Rule.POOL and len(task.sources) > 1
        ]

    def __getitem__(self, name: str) -> Tensor:
        spec = self.spec_of(name)
        if not self._task(name)[1].in_blocks or spec.numel == 0:
            return self._part(name, None)
        return self.read(name).reshape(spec.shape)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        start, stop = self.checked_range(name, start, stop)
        if not self._task(name)[1].in_blocks:
            return self[name].reshape(-1)[start:stop]
        if stop - start <= BLOCK - start % BLOCK:
            return self._part(name, (start, stop))
        out, done = torch.empty(0), 0
        with files_kept_open():
            for block in self.blocks(name, start, stop, BLOCK):
                if not done:
                    out = torch.empty(stop - start, dtype=block.dtype, device=block.device)
                out[done : done + block.numel()] = block
                done += block.numel()
        return out

    def blocks(self, name: str, start: int, stop: int, size: int) -> Iterator[Tensor]:
        start, stop = self.checked_range(name, start, stop)
        name, task = self._task(name)
        if size != BLOCK or not task.in_blocks or start == stop:
            yield from super().blocks(name, start, stop, size)
            return
        held = hold(task.inputs)
        program = self._program(name, task) if _in_whole_blocks(task, start, stop) else None
        if program is None:
            for span in blocks_of(start, stop):
                yield self._part(name, span, held)
            return
        run = Run(program)
        for span, raw in read_blocks(task.inputs, start, stop, held):
            made = run(raw, self._generator(name, task, span))
            yield self._by_torch(name, task, span, held) if made is None else made

    def write(self, name: str, start: int, stop: int, output: Stretch) -> Passed | None:
        """Make the elements `start:stop` of a tensor out of files, into a file.

        Args:
            name: of the tensor.
            start: of a block.
            stop: end of a block.
            output: where the result goes.

        Returns:
            None if that cannot be done without tensors, or if there is something wrong with the
            numbers or files, which `blocks` will say; parts may be written by then.
        """
        name, task = self._task(name)
        program = self._program(name, task) if _in_whole_blocks(task, start, stop) else None
        if program is None:
            return None
        return run_from_files(program, task.inputs, start, stop, output=output)

    def may_go_straight(self) -> bool:
        """Say whether every tensor may be made by `write`, if the method has programs.

        What is not in files, has integers, or is not merged by a method of blocks is not.
        """
        if self.device is not None:
            return False
        for task in self.tasks.values():
            if task.spec.alias_of is None and task.spec.numel:
                stored = [source.spec.stored for source in task.inputs]
                if not (may_be_compiled(task) and task.in_blocks and may_be_read(stored)):
                    return False
                if any(one.checkpoint.in_file(one.name) is None for one in task.inputs):
                    return False
        return True

    def reads_ranges(self, name: str) -> bool:
        task = self._task(name)[1]
        return task.in_blocks and all(
            source.checkpoint.reads_ranges(source.name) for source in task.inputs
        )

    def _task(self, name: str) -> tuple[str, Task]:
        name = self.tasks[name].spec.alias_of or name
        return name, self.tasks[name]

    def _part(self, name: str, span: Span, held: Held = _NOTHING) -> Tensor:
        """A block of the result, or a part of one; the whole if `span` is None."""
        name, task = self._task(name)
        return _MAKE[task.rule](self, name, task, span, held)

    def _read(
        self,
        task: Task,
        span: Span,
        held: Held,
        sources: Sequence[Source] | None = None,
        *,
        checked: bool = False,
    ) -> list[Tensor]:
        asked = task.inputs if sources is None else sources
        finite = self._finite and not checked
        tensors = read_inputs(task, asked, span, finite=finite, held=held)
        if self.device is not None:
            tensors = [tensor.to(self.device, non_blocking=True) for tensor in tensors]
        return tensors

    def _by_method(self, name: str, task: Task, span: Span, held: Held) -> Tensor:
        assert task.method is not None
        wanted = span
        if span is not None and task.method.is_random:
            # Random numbers are drawn for whole blocks.
            begin = span[0] // BLOCK * BLOCK
            span = begin, min(begin + BLOCK, task.spec.numel)
        result = None if span is None else self._by_program(name, task, span, held)
        if result is None:
            result = self._by_torch(name, task, span, held)
        if wanted is not None and span is not None and wanted != span:
            result = result[wanted[0] - span[0] : wanted[1] - span[0]]
        return result

    def _program(self, name: str, task: Task) -> Program | None:
        """The program that makes parts of a tensor, if there is one."""
        if self.device is not None or not may_be_compiled(task) or not task.in_blocks:
            return None
        assert task.method is not None
        if name not in self._compiled:
            self._compiled[name] = self._programs.of(
                task.method.function,
                self._keywords(name, task),
                stored=[source.spec.stored for source in task.inputs],
                result=task.spec.stored,
                base=task.base is not None,
                size=task.spec.numel,
            )
        return self._compiled[name]

    def _by_program(
        self, name: str, task: Task, span: tuple[int, int], held: Held
    ) -> Tensor | None:
        """Make a block by a compiled program, if there is one that can."""
        program = self._program(name, task)
        if program is None:
            return None
        return program.run(_raw(task.inputs, span, held), self._generator(name, task, span))

    def _generator(self, name: str, task: Task, span: Span) -> torch.Generator | None:
        if task.method is None or not task.method.is_random:
            return None
        return block_generator(self._seed, name, 0 if span is None else span[0])

    def _keywords(self, name: str, task: Task) -> dict[str, Any]:
        """What a method is given besides tensors and a generator."""
        assert task.method is not None
        keywords: dict[str, Any] = dict(task.settings.parameters)
        if task.method.summarize is not None:
            keywords["summary"] = self.summaries.of(name)
        if Need.WEIGHTS in task.method.needs:
            keywords["weights"] = task.settings.weights or (1.0,) * len(task.sources)
        return keywords

    def _by_torch(self, name: str, task: Task, span: Span, held: Held) -> Tensor:
        assert task.method is not None
        keywords = self._keywords(name, task)
        checked = task.method.passes_nonfinite and _shows_nonfinite(task)
        if task.method.summarize is not None:
            checked = self.summaries.has_checked(name)
        asked = _as_stored(task) if span is None else task
        tensors = self._read(asked, span, held, checked=checked)
        shape = tensors[0].shape
        if task.base is not None:
            keywords["base"] = tensors.pop()
        if task.method.is_random:
            keywords["generator"] = self._generator(name, task, span)
        result = task.method.function(tensors, **keywords)
        if not isinstance(result, torch.Tensor):
            raise MethodError(
                f"{task.method.name} gave {type(result).__name__} for {name!r}, not a tensor"
            )
        if result.is_complex() and not task.working.is_complex:
            raise MethodError(
                f"{task.method.name} gave complex numbers for {name!r}, which is real"
            )
        if result.shape != shape:
            raise MethodError(
                f"{task.method.name} gave shape {list(result.shape)} for {name!r}, "
                f"whose shape is {list(shape)}"
            )
        try:
            return self._finish(name, task, result)
        except NonFiniteError:
            self._read(asked, span, held)  # if it comes from an input, that is named
            raise

    def _finish(self, name: str, task: Task, result: Tensor) -> Tensor:
        exact = result.detach()
        stored = rounded(exact, task.spec.dtype)
        if self._finite:
            check_finite(summable(stored, exact), "the result (overflow?)", name)
        return stored

    def _pool(self, name: str, task: Task, span: Span, held: Held) -> Tensor:
        values = self._read(task, span, held)
        shares = _shares(task)
        pooled = _shared(values, shares)
        means = [_mean_beside(source) for source in task.sources]
        if all(mean is not None for mean in means):
            centres = self._read(task, span, held, [mean for mean in means if mean is not None])
            centre = _shared(centres, shares)
            spread = [(one - centre).square() for one in centres]
            pooled = pooled + _shared(spread, shares)
        return self._finish(name, task, pooled)

    def _maximum(self, _: str, task: Task, span: Span, held: Held) -> Tensor:
        values = _raw(task.sources, span, held)
        largest = torch.stack([value.to(values[0].device) for value in values]).amax(0)
        return largest.to(task.spec.dtype)

    def _agreed(self, name: str, task: Task, span: Span, held: Held) -> Tensor:
        first, *others = _raw(task.sources, span, held)
        for source, value in zip(task.sources[1:], others, strict=True):
            if first.is_meta or value.is_meta or torch.equal(first, value.to(first.device)):
                continue
            whole = task.sources[0].checkpoint[task.sources[0].name]
            other = source.checkpoint[source.name].to(whole.device)
            differs = whole != other
            if whole.is_floating_point():
                differs &= ~(whole.isnan() & other.isnan())
            if count := int(differs.sum()):
                raise MismatchError(
                    f"{name!r} is a constant, and {count} of its {whole.numel()} elements differ "
                    f"between {task.sources[0]} and {source}; if it was trained, say so: "
                    f"kinds={{{name!r}: 'weight'}}; else choose: keep={{{name!r}: 0}}"
                )
        return first

    def _copy(self, name: str, task: Task, span: Span, held: Held) -> Tensor:
        (source,) = task.sources
        (tensor,) = _raw(task.sources, span, held)
        stored = rounded(tensor, task.spec.dtype)
        has_values = tensor.is_floating_point() or tensor.is_complex()
        if self._finite and has_values and task.spec.kind is not Kind.CONSTANT:
            wide = tensor.to(working_dtype([tensor.dtype]).torch)
            check_finite(wide, source)
            if stored.dtype != tensor.dtype:
                check_finite(summable(stored, wide), "the result (overflow?)", name)
        return stored


_MAKE: Mapping[Rule, Callable[[Merged, str, Task, Span, Held], Tensor]] = {
    Rule.METHOD: Merged._by_method,
    Rule.POOL: Merged._pool,
    Rule.MAXIMUM: Merged._maximum,
    Rule.AGREE: Merged._agreed,
    Rule.COPY: Merged._copy,
}


def _in_whole_blocks(task: Task, start: int, stop: int) -> bool:
    return start % BLOCK == 0 and (stop % BLOCK == 0 or stop == task.spec.numel)


def _shows_nonfinite(task: Task) -> bool:
    """Whether NaN and infinity are still such when they are rounded to the dtype of the result."""
    dtype = task.spec.dtype
    # Numbers of one byte may have no infinity; a real number has no imaginary part to show it.
    real = dtype.is_floating_point and dtype.itemsize > 1 and not task.working.is_complex
    return real or dtype.is_complex


def _as_stored(task: Task) -> Task:
    """The task without another dtype for the arithmetic, if its method sees to that itself."""
    assert task.method is not None
    dtype = task.spec.dtype
    if (
        not task.method.widens
        or dtype not in (torch.bfloat16, torch.float16)
        or task.working != FLOAT32
        or any(source.spec.dtype != dtype for source in task.inputs)
    ):
        return task
    return replace(task, working=task.spec.stored)


def _raw(sources: Sequence[Source], span: Span, held: Held) -> list[Tensor]:
    return [read_source(source, span, held) for source in sources]


def _shares(task: Task) -> list[float]:
    weights = task.settings.weights or (1.0,) * len(task.sources)
    sizes = [abs(weight) for weight in weights]
    return [size / sum(sizes) for size in sizes] if sum(sizes) else sizes


def _mean_beside(source: Source) -> Source | None:
    """The running mean that belongs to a running variance."""
    prefix, _, last = source.name.rpartition("running_")
    name = f"{prefix}running_mean"
    if last != "var" or name not in source.checkpoint.specs:
        return None
    return Source(source.model, source.checkpoint, name)


def _shared(tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    total = torch.zeros_like(tensors[0])
    for share, tensor in zip(shares, tensors, strict=True):
        total += share * tensor
    return total
