"""Programs of elementwise operations, and how they are run."""

from __future__ import annotations

import ctypes
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, TypeAlias

from conjoin.compiled.library import load_library
from conjoin.deferred import torch
from conjoin.dtypes import DTYPES, DType, dtype_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "KINDS",
    "REGISTERS",
    "Draw",
    "Instruction",
    "Operation",
    "Program",
    "Run",
    "UntraceableError",
]

REGISTERS = 48
"""As in tiles.c."""

KINDS = {
    DTYPES["bfloat16"]: 0,
    DTYPES["float16"]: 1,
    DTYPES["float32"]: 2,
    DTYPES["int8"]: 3,
    DTYPES["uint8"]: 4,
}
"""What can be loaded: numbers, which can be stored as well, and masks, see `Recorder.note`."""


class UntraceableError(Exception):
    """A function does what programs cannot do."""


class Operation(IntEnum):
    """As in tiles.c."""

    LOAD = 0
    STORE = 1
    FILL = 2
    COPY = 3
    ADD = 4
    SUBTRACT = 5
    MULTIPLY = 6
    DIVIDE = 7
    ADD_SCALED = 8
    ABSOLUTE = 9
    NEGATE = 10
    SIGN = 11
    RELU = 12
    BITS_AND = 13
    EQUAL = 14
    NOT_EQUAL = 15
    LESS = 16
    LESS_EQUAL = 17
    GREATER = 18
    GREATER_EQUAL = 19
    MAXIMUM = 20
    MINIMUM = 21
    HARD_SHRINK = 22
    COPY_SIGN = 23
    SELECT = 24
    SUM = 25
    SUM_OF_PRODUCTS = 26


@dataclass(frozen=True, slots=True)
class Instruction:
    """One operation on values, which are numbered in the order in which they are made.

    Args:
        operation: what is done.
        to: the value that it makes; of STORE, the number of an output; of sums, their number.
        from_: the first value; of LOAD, the number of an input.
        other: the second value, None for the constant.
        third: the third value; of LOAD and STORE, the number of a dtype.
        constant: a number.
    """

    operation: Operation
    to: int
    from_: int = 0
    other: int | None = None
    third: int | None = None
    constant: float = 0.0


class _Encoded(ctypes.Structure):
    _fields_ = (
        ("operation", ctypes.c_int32),
        ("to", ctypes.c_int32),
        ("from_", ctypes.c_int32),
        ("other", ctypes.c_int32),
        ("third", ctypes.c_int32),
        ("constant", ctypes.c_float),
    )


Draw: TypeAlias = "Callable[[torch.Generator, int], Sequence[Tensor]]"
"""Draws the random masks of a block again, of its generator and its size: see `Recorder.note`."""


class Program:
    """Instructions, with values in registers.

    Args:
        instructions: in their order.
        dtypes: of the inputs.
        result: dtype of the result, None if there are only sums.
        sums: how many there are.
        draws: make the inputs behind the given ones.

    Raises:
        ValueError: more values are needed at once than there are registers.
    """

    def __init__(
        self,
        instructions: Sequence[Instruction],
        *,
        dtypes: Sequence[torch.dtype | DType],
        result: torch.dtype | DType | None,
        sums: int = 0,
        draws: Sequence[Draw] = (),
    ) -> None:
        self.dtypes, self.sums = tuple(map(dtype_of, dtypes)), sums
        self.result = None if result is None else dtype_of(result)
        self.draws = tuple(draws)
        encoded = _in_registers(instructions)
        self.code = (_Encoded * len(encoded))(*encoded)
        self.structure = (
            self.dtypes,
            self.result,
            tuple((one.operation, one.to, one.from_, one.other, one.third) for one in encoded),
        )
        """All but the constants."""

    def run(
        self, inputs: Sequence[Tensor], generator: torch.Generator | None = None
    ) -> Tensor | None:
        """Give the result, or the sums: float64 [k].

        Args:
            inputs: flat, of one size.
            generator: of the block, if something is drawn.

        Returns:
            None if the inputs are not those that the program is for, or if numbers among them or
            in the result are NaN or infinite, or a sum is, of which torch has to see.
        """
        return Run(self)(inputs, generator)


class Run:
    """A program that is run over one block after the other, in the same memory.

    Args:
        program: that is run.
    """

    def __init__(self, program: Program) -> None:
        self._program, self._library = program, load_library()
        self._known: list[Tensor] = []
        self._addresses = list[int]()  # of these
        self._size, self._result = -1, torch.empty(0)
        self._held: list[Tensor] = []
        self._dtypes = [dtype.torch for dtype in program.dtypes]
        self._sums = torch.zeros(program.sums, dtype=torch.float64, device="cpu")
        self._inputs: ctypes.Array[ctypes.c_void_p] = (ctypes.c_void_p * 0)()
        self._outputs = (ctypes.c_void_p * 1)(None)

    def __call__(
        self, inputs: Sequence[Tensor], generator: torch.Generator | None = None
    ) -> Tensor | None:
        """Give the result, or the sums, as `Program.run` does, until the next call."""
        given = [*inputs]
        if generator is not None:
            for draw in self._program.draws:
                given += draw(generator, inputs[0].numel())
        if not self._are_known(given) and not self._prepare(given):
            return None
        assert self._library is not None
        self._sums.zero_()
        code = self._program.code
        found = self._library.conjoin_run(
            code, len(code), self._inputs, self._outputs, self._sums.data_ptr(), self._size
        )
        if found or not all(map(math.isfinite, self._sums.tolist())):
            return None
        return self._sums if self._program.result is None else self._result

    def _are_known(self, given: Sequence[Tensor]) -> bool:
        """Whether the inputs are those of the last call, where they were, and as large."""
        return (
            len(given) == len(self._known)
            and all(map(operator.is_, given, self._known))
            and given[0].numel() == self._size
            and [tensor.data_ptr() for tensor in given] == self._addresses
        )

    def _prepare(self, given: Sequence[Tensor]) -> bool:
        """Note where the inputs are; False if they are not those that the program is for."""
        size, dtypes = given[0].numel(), self._dtypes
        if self._library is None or len(given) != len(dtypes):
            return False
        for tensor, dtype in zip(given, dtypes, strict=True):
            wanted = -(-size // 8) if dtype == torch.uint8 else size
            if (tensor.dtype, tensor.device.type, tensor.numel()) != (dtype, "cpu", wanted):
                return False
        self._held = [_plain(tensor) for tensor in given]
        self._addresses = [tensor.data_ptr() for tensor in self._held]
        # What a copy was made of may have other numbers the next time.
        lasting = self._addresses == [tensor.data_ptr() for tensor in given]
        self._known = [*given] if lasting else []
        self._inputs = (ctypes.c_void_p * len(given))(*self._addresses)
        if self._program.result is not None and size != self._size:
            self._result = torch.empty(size, dtype=self._program.result.torch, device="cpu")
            self._outputs[0] = self._result.data_ptr()
        self._size = size
        return True


def _plain(tensor: Tensor) -> Tensor:
    """Give a tensor whose elements lie one after the other in memory as they are."""
    plain = tensor.detach().resolve_neg().contiguous()
    return plain.clone() if plain.data_ptr() % plain.element_size() else plain


_NO_VALUE = frozenset({Operation.STORE, Operation.SUM, Operation.SUM_OF_PRODUCTS})
_DTYPED = frozenset({Operation.LOAD, Operation.STORE})


def _reads(one: Instruction) -> list[int]:
    read = [] if one.operation in (Operation.LOAD, Operation.FILL) else [one.from_]
    if one.other is not None:
        read.append(one.other)
    if one.third is not None and one.operation not in _DTYPED:
        read.append(one.third)
    return read


def _in_registers(instructions: Sequence[Instruction]) -> list[_Encoded]:
    """Give each value a register until it is read for the last time.

    The register that an instruction writes is never one that it reads: the compiler counts on it.
    """
    last = {value: place for place, one in enumerate(instructions) for value in _reads(one)}
    free, where = list(range(REGISTERS))[::-1], dict[int, int]()
    encoded = []
    for place, one in enumerate(instructions):
        makes = one.operation not in _NO_VALUE
        if makes:
            if not free:
                raise ValueError("too many values at once")
            where[one.to] = free.pop()
        loads, dtyped = one.operation is Operation.LOAD, one.operation in _DTYPED
        encoded.append(
            _Encoded(
                one.operation,
                where[one.to] if makes else one.to,
                one.from_ if loads else where.get(one.from_, 0),  # FILL has none
                -1 if one.other is None else where[one.other],
                -1 if one.third is None else one.third if dtyped else where[one.third],
                one.constant,
            )
        )
        for value in {*_reads(one), *([one.to] if makes else [])}:
            if last.get(value, -1) <= place:
                free.append(where.pop(value))
    return encoded
