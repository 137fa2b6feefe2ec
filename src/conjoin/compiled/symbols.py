"""Symbols that stand for tensors, so that a simple function says what it does without torch.

A function that adds, subtracts, multiplies, divides and bounds what it is given needs no tensors to
be understood: given symbols, it writes its program down. Whatever else a function asks for is an
error here, and it is called with tensors then, see `tracing`. Both give the same program.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn, Self

import numpy as np

from conjoin.compiled.program import Instruction, Operation, UntraceableError

__all__ = ["LARGEST_STRIP", "Notes", "Symbol", "SymbolOfSums"]

LARGEST_STRIP = 1 << 18
"""Elements; a function that takes so many at once may be given a symbol."""

Number = int | float


class Notes:
    """The operations that symbols were asked for, in their order."""

    def __init__(self) -> None:
        self.instructions: list[Instruction] = []
        self._count = 0

    def symbol(self, number: int, kind: int) -> Symbol:
        """Give the symbol of an input.

        Args:
            number: of the input.
            kind: number of its dtype.
        """
        return Symbol(self, self.made(Operation.LOAD, number, third=kind))

    def made(
        self,
        operation: Operation,
        one: int,
        other: int | None = None,
        third: int | None = None,
        constant: float = 0.0,
    ) -> int:
        """Note an operation; give the number of its value."""
        number, self._count = self._count, self._count + 1
        self.instructions.append(Instruction(operation, number, one, other, third, constant))
        return number

    def clamped(self, value: int, bounds: Sequence[int | None]) -> int:
        """Note what makes values at least the first bound and at most the second, in their memory.

        Args:
            value: number of the values.
            bounds: of each, the number of its value; None for none.
        """
        for operation, bound in zip((Operation.MAXIMUM, Operation.MINIMUM), bounds, strict=True):
            if bound is not None:
                value = self.made(operation, bound, value)
        return self.made(Operation.COPY, value)

    def between(self, one: int, other: int, weight: float) -> int:
        """Note the straight line from one value to another, as torch does it: from the nearer end.

        Args:
            one, other: numbers of the values.
            weight: of the other.
        """
        exact = np.float32(weight)
        near = abs(exact) < 0.5
        difference = self.made(Operation.SUBTRACT, other, one)
        factor = float(exact if near else exact - np.float32(1))
        return self.made(Operation.ADD_SCALED, one if near else other, difference, constant=factor)


class _Size:
    """A number of elements, of which all that is known is that one strip has as many."""

    def __le__(self, number: object) -> bool:
        if isinstance(number, int) and number >= LARGEST_STRIP:
            return True
        raise UntraceableError("looks at its size")

    def __eq__(self, other: object) -> bool:
        if other is self:
            return True
        raise UntraceableError("looks at its size")

    __hash__ = object.__hash__


class Symbol:
    """A tensor of which nothing is known but what is done with it; functions take it for a strip.

    >>> notes = Notes()
    >>> one, other = notes.symbol(0, 2), notes.symbol(1, 2)
    >>> _ = (one - other).mul_(0.5).add_(other)
    >>> [step.operation.name for step in notes.instructions]
    ['LOAD', 'LOAD', 'SUBTRACT', 'MULTIPLY', 'ADD']
    """

    __slots__ = ("notes", "value")
    __array_ufunc__ = None  # NumPy would take it for a number
    is_meta = False
    shape = _Size()
    """Nothing but what `view` takes."""

    def __init__(self, notes: Notes, value: int) -> None:
        self.notes, self.value = notes, value

    def __array__(self, *_: Any) -> NoReturn:
        raise UntraceableError("looks at numbers in NumPy")

    def __bool__(self) -> NoReturn:
        raise UntraceableError("looks at numbers")

    def __eq__(self, _: object) -> NoReturn:
        raise UntraceableError("compares numbers")

    __hash__ = object.__hash__

    def numel(self) -> _Size:
        """Give what is not larger than a strip."""
        return self.shape

    def is_complex(self) -> bool:
        """No program has complex numbers."""
        return False

    def reshape(self, shape: object) -> Self:
        """Give the same memory, flat or as it was."""
        if shape is self.shape or (isinstance(shape, int) and shape == -1):
            return self
        raise UntraceableError("has some other shape")

    view = reshape

    def split(self, _: int) -> list[Self]:
        """One strip."""
        return [self]

    def clone(self) -> Symbol:
        """A copy."""
        return Symbol(self.notes, self.notes.made(Operation.COPY, self.value))

    def lerp(self, other: Symbol, weight: Number) -> Symbol:
        """The straight line to another."""
        return Symbol(self.notes, self.notes.between(self.value, other.value, _finite(weight)))

    def clamp_(self, low: Number, high: Number) -> Self:
        """Bring what is outside of a range to its ends, in place."""
        bounds = [
            self.notes.made(Operation.FILL, 0, constant=_finite(bound)) for bound in (low, high)
        ]
        self.value = self.notes.clamped(self.value, bounds)
        return self

    def __add__(self, other: Symbol | Number) -> Symbol:
        return self._new(Operation.ADD, other)

    def __sub__(self, other: Symbol | Number) -> Symbol:
        return self._new(Operation.SUBTRACT, other)

    def __mul__(self, other: Symbol | Number) -> Symbol:
        return self._new(Operation.MULTIPLY, other)

    def __truediv__(self, other: Symbol | Number) -> Symbol:
        return self._new(Operation.DIVIDE, other)

    def mul_(self, other: Symbol | Number) -> Self:
        """Multiply in place."""
        return self._changed(self * other)

    def div_(self, other: Symbol | Number) -> Self:
        """Divide in place."""
        return self._changed(self / other)

    def add_(self, other: Symbol | Number, *, alpha: float = 1) -> Self:
        """Add in place, times `alpha`."""
        if alpha == 1:
            return self._changed(self + other)
        if not isinstance(other, Symbol):
            raise UntraceableError("adds a number with a factor")
        made = self.notes.made(
            Operation.ADD_SCALED, self.value, other.value, constant=_finite(alpha)
        )
        return self._changed(Symbol(self.notes, made))

    # Whoever else sees this memory sees what is written there: without these, Python would make
    # `a -= b` of `a = a - b`.
    def __iadd__(self, other: Symbol | Number) -> Self:
        return self.add_(other)

    def __isub__(self, other: Symbol | Number) -> Self:
        return self._changed(self - other)

    def __imul__(self, other: Symbol | Number) -> Self:
        return self.mul_(other)

    def __itruediv__(self, other: Symbol | Number) -> Self:
        return self.div_(other)

    def _new(self, operation: Operation, other: Symbol | Number) -> Symbol:
        if isinstance(other, Symbol):
            made = self.notes.made(operation, self.value, other.value)
        else:
            made = self.notes.made(operation, self.value, constant=_finite(other))
        return Symbol(self.notes, made)

    def _changed(self, made: Symbol) -> Self:
        self.value = made.value
        return self


class SymbolOfSums:
    """The sums of products of every two symbols: what ends a program, and nothing else.

    Args:
        vectors: the symbols.
    """

    def __init__(self, vectors: Sequence[Symbol]) -> None:
        self.pairs = [(one, other) for k, one in enumerate(vectors) for other in vectors[k:]]

    def tolist(self) -> list[float]:
        """Give sums that they might have: of vectors of length 1 at right angles."""
        return [float(one is other) for one, other in self.pairs]

    def instructions(self) -> list[Instruction]:
        """Give the operations that form them."""
        return [
            Instruction(Operation.SUM_OF_PRODUCTS, number, one.value, other.value)
            for number, (one, other) in enumerate(self.pairs)
        ]


def _finite(number: object) -> float:
    if isinstance(number, (int, float)) and math.isfinite(number):
        return float(number)
    raise UntraceableError(f"uses {number!r}")
