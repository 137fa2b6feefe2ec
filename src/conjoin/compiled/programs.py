"""The programs of a merge, made when asked for.

A function that symbols suffice for writes its program itself. Of any other its operations are
traced, and the program is proved by running before it is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from types import FunctionType
from typing import TYPE_CHECKING, Any

from conjoin.compiled.library import load_library
from conjoin.compiled.program import KINDS, Draw, Instruction, Operation, Program, UntraceableError
from conjoin.compiled.symbols import Notes, Symbol, SymbolOfSums
from conjoin.deferred import has_torch, torch
from conjoin.dtypes import DType, dtype_of

if TYPE_CHECKING:
    from torch import Tensor

    from conjoin.compiled.tracing import Trace

__all__ = ["LEAST", "Programs", "may_be_read", "note_masks"]

LEAST = 1 << 16
"""Elements of a tensor for which a function is traced: below, it takes longer than it saves."""

_STORED = frozenset(dtype for dtype in KINDS if dtype.is_floating_point)
_SAMPLES = (1031, 1543)  # some tiles and a part of one; two, lest their size is a part of a program
_CLOSE = 1e-6


def may_be_read(dtypes: Iterable[DType]) -> bool:
    """Say whether a program can be for inputs of some dtypes, and whether there are programs."""
    return load_library() is not None and {*dtypes} <= _STORED


class Programs:
    """Programs by what they depend on.

    Args:
        rounded: brings float32 to the dtype of a result.
    """

    def __init__(self, rounded: Callable[[Tensor, torch.dtype], Tensor]) -> None:
        self._rounded = rounded
        self._made = dict[Hashable, Program | None]()
        self._proved = dict[Hashable, bool]()
        self._samples: dict[Hashable, list[Tensor]] = {}

    def of(
        self,
        function: Callable[..., Tensor],
        keywords: Mapping[str, Any],
        *,
        stored: Sequence[torch.dtype | DType],
        result: torch.dtype | DType | None,
        base: bool,
        size: int = LEAST,
    ) -> Program | None:
        """Give a program that does what a function does; None if there is none.

        Args:
            function: ``(tensors, **keywords)``, elementwise. It is given a `base` and a `generator`
                if it has these keywords.
            keywords: the others.
            stored: dtypes of what is read: one per tensor, the base at the end.
            result: dtype of the result; None for a function that gives sums.
            base: whether there is one.
            size: elements of the tensor that it is for.
        """
        read = tuple(map(dtype_of, stored))
        made = None if result is None else dtype_of(result)
        if load_library() is None or not {*read, made} <= {*_STORED, None}:
            return None
        key = None
        with suppress(_UnknownError):
            key = (_known_by(function), read, made, base, _hashable(keywords))
            if key in self._made:
                return self._made[key]
        program = _by_symbols(function, keywords, read, made, base=base)
        if program is None:
            if size < LEAST:
                return None
            try:
                # Whatever is set outside: this is about plain tensors on the CPU.
                with torch.inference_mode(mode=False), torch.no_grad(), _on_cpu():
                    program = self._make(function, keywords, read, made, base=base)
            except Exception:  # torch will meet what is an error, on the numbers that it is about
                program = None
        if key is not None:
            self._made[key] = program
        return program

    def _make(
        self,
        function: Callable[..., Tensor],
        keywords: Mapping[str, Any],
        stored: Sequence[DType],
        result: DType | None,
        *,
        base: bool,
    ) -> Program | None:
        from conjoin.compiled.tracing import Recorder, trace  # only now: it is made of torch

        def called(inputs: Sequence[Tensor], generator: torch.Generator) -> Tensor:
            result: Tensor = _called(function, keywords, inputs, generator, base=base)
            return result

        inputs, others = self._sample(stored)
        recorder = Recorder.seeded(1)
        traced = trace(lambda one: called(one, recorder), _widened(inputs), stored, recorder)
        program = _program(traced, result)
        if not self._same(program.run(inputs, _seeded(1)), traced.given, result):
            return None
        # Other numbers, once for programs of one function that differ in constants alone.
        known = getattr(function, "__code__", object()), program.structure
        if known not in self._proved:
            again = called(_widened(others), _seeded(2))
            self._proved[known] = self._same(program.run(others, _seeded(2)), again, result)
        return program if self._proved[known] else None

    def _same(self, found: Tensor | None, expected: Tensor, result: DType | None) -> bool:
        """Whether a program gave what torch gave: to the last bit, or sums nearly so."""
        if found is None:
            return False
        if result is None:
            size = float(expected.abs().max()) if expected.numel() else 0.0
            return torch.allclose(found, expected, rtol=0, atol=_CLOSE * size)
        bits = torch.int32 if result.itemsize == 4 else torch.int16
        return torch.equal(
            found.view(bits), self._rounded(expected.reshape(-1), result.torch).view(bits)
        )

    def _sample(self, stored: Sequence[DType]) -> tuple[list[Tensor], list[Tensor]]:
        """Give two samples of numbers: of all sizes, zeros, and some that models have in common."""
        key = tuple(stored)
        if key not in self._samples:
            generator = _seeded(0)
            made = []
            for count in _SAMPLES:
                shared = torch.randn(count, generator=generator)
                alike = torch.rand(count, generator=generator) < 0.1
                size = 10 ** torch.empty(count).uniform_(-4, 1, generator=generator)
                for dtype in stored:
                    noise = torch.randn(count, generator=generator)
                    noise[torch.rand(count, generator=generator) < 0.1] *= 0.0  # of both signs
                    values = torch.where(alike, shared, size * noise)
                    made.append(values.to(dtype.torch))
            self._samples[key] = made
        made = self._samples[key]
        return made[: len(stored)], made[len(stored) :]


def _on_cpu() -> AbstractContextManager[object]:
    """Make new tensors on the CPU, whatever else was asked for outside."""
    # A device as a context looks at every call of torch, which takes a third of the tracing.
    elsewhere = torch.get_default_device().type != "cpu"
    return torch.device("cpu") if elsewhere else nullcontext()


def _program(traced: Trace, result: DType | None) -> Program:
    if (result is None) != (traced.result is None):
        raise UntraceableError("gives sums for a result, or a result for sums")
    return Program(
        traced.stored(result),
        dtypes=traced.dtypes,
        result=result,
        sums=traced.sums,
        draws=traced.draws,
    )


def _by_symbols(
    function: Callable[..., Any],
    keywords: Mapping[str, Any],
    stored: Sequence[DType],
    result: DType | None,
    *,
    base: bool,
) -> Program | None:
    """Give the program of a function that needs no tensors to say what it does.

    There is no torch here to compare it with: tests compare it with what tracing gives.
    """
    notes = Notes()
    inputs = [notes.symbol(number, KINDS[dtype]) for number, dtype in enumerate(stored)]
    try:
        found = _called(function, keywords, inputs, None, base=base)
        if result is None and isinstance(found, SymbolOfSums):
            steps, sums = [*notes.instructions, *found.instructions()], len(found.pairs)
            return Program(steps, dtypes=stored, result=None, sums=sums)
        if result is not None and isinstance(found, Symbol):
            store = Instruction(Operation.STORE, 0, found.value, third=KINDS[result])
            return Program([*notes.instructions, store], dtypes=stored, result=result)
    except Exception:  # it asks for more than symbols can do, or will meet its error elsewhere
        return None
    return None


def _called(
    function: Callable[..., Any],
    keywords: Mapping[str, Any],
    inputs: Sequence[Any],
    generator: torch.Generator | None,
    *,
    base: bool,
) -> Any:
    """Call a function as the engine does."""
    wanted = inspect.signature(function).parameters
    tensors, given = [*inputs], dict(keywords)
    ancestor = tensors.pop() if base else None
    if "base" in wanted:
        given["base"] = ancestor
    if "generator" in wanted:
        if generator is None:
            raise UntraceableError("draws random numbers")
        given["generator"] = generator
    return function(tensors, **given)


def note_masks(
    generator: torch.Generator, masks: Sequence[Tensor], dtype: torch.dtype, draw: Draw
) -> None:
    """Note masks that were drawn, see `Recorder.note`, if somebody takes note."""
    from conjoin.compiled.tracing import Recorder  # only now: it is made of torch

    if isinstance(generator, Recorder):
        generator.note(masks, dtype, draw)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _widened(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Give copies in float32."""
    return [tensor.to(torch.float32, copy=True) for tensor in tensors]


class _UnknownError(Exception):
    """It is not known whether a value is equal to another."""


def _known_by(function: Callable[..., Tensor]) -> tuple[Hashable, ...]:
    """Give what tells functions apart that do different things: code, and what it hangs on.

    Raises:
        _UnknownError: that is not known.
    """
    if not isinstance(function, FunctionType):
        raise _UnknownError
    try:
        cells = tuple(_hashable(cell.cell_contents) for cell in function.__closure__ or ())
    except (ValueError, RecursionError) as error:  # an empty cell; or it hangs on itself
        raise _UnknownError from error
    defaults = _hashable(function.__defaults__ or ()), _hashable(function.__kwdefaults__ or {})
    return function.__code__, cells, defaults


def _hashable(value: Any) -> Hashable:
    """Give a value that can be a key, equal for equal values only."""
    if has_torch() and isinstance(value, torch.Tensor):
        return (str(value.dtype), tuple(value.shape), value.detach().cpu().numpy().tobytes())
    if isinstance(value, Mapping):
        return tuple((name, _hashable(one)) for name, one in sorted(value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(map(_hashable, value))
    if isinstance(value, FunctionType):
        return _known_by(value)
    if isinstance(value, float):
        return value.hex()  # zeros have signs
    if value is None or isinstance(value, (bool, int, str)):
        return (type(value), value)
    raise _UnknownError
