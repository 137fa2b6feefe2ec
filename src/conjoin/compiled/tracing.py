"""From a function of tensors to a program of the same operations.

A method of merging is a plain function of tensors, written for torch. Here it is called once, on a
thousand numbers, and every operation that torch is asked for is noted. Operations that are not in
the tables below make no program: torch does those methods, as it does all of them where nothing was
compiled. So nobody who writes a method has to think of this.

What a function does with numbers in Python or NumPy is not seen here. So that a program does what
its function does is not taken for granted: `programs` compares them on other numbers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from conjoin.compiled.program import KINDS, Draw, Instruction, Operation, UntraceableError
from conjoin.compiled.symbols import Notes
from conjoin.dtypes import DType, dtype_of

__all__ = ["Recorder", "Trace", "trace"]


class Recorder(torch.Generator):
    """A generator that notes the masks which are drawn from it.

    Who draws random masks for a block says so with `note`, and how they are drawn again.
    """

    drawn: list[tuple[Sequence[Tensor], torch.dtype, Draw]]

    @classmethod
    def seeded(cls, seed: int) -> "Recorder":
        """Give one that has noted nothing."""
        made = cls()
        made.manual_seed(seed)
        made.drawn = []
        return made

    def note(self, masks: Sequence[Tensor], dtype: torch.dtype, draw: Draw) -> None:
        """Note masks, int8 [size] each, in the order in which `draw` gives them.

        Args:
            masks: with -1 (all bits) and 0, as the function uses them.
            dtype: of what `draw` gives: int8, the same; or uint8, [size / 8], a bit for each
                element, as `numpy.packbits` makes them.
            draw: makes them again.
        """
        self.drawn.append((masks, dtype, draw))


@dataclass
class Trace:
    """What a function did.

    Args:
        dtypes: of inputs, drawn masks among them.
        instructions: on values.
        draws: of the masks.
        sums: how many it formed.
        result: the value that it gave; None if it gave sums.
        given: what it gave when it was traced.
    """

    dtypes: list[torch.dtype | DType]
    instructions: list[Instruction] = field(default_factory=list)
    draws: list[Draw] = field(default_factory=list)
    sums: int = 0
    result: int | None = None
    given: Tensor = field(default_factory=lambda: torch.empty(0))

    def stored(self, dtype: DType | None) -> list[Instruction]:
        """Give the instructions, with the one that stores the result, of some dtype, if any."""
        if self.result is None or dtype is None:
            return self.instructions
        store = Instruction(Operation.STORE, 0, self.result, third=KINDS[dtype_of(dtype)])
        return [*self.instructions, store]


def trace(
    function: Callable[[Sequence[Tensor]], Tensor],
    inputs: Sequence[Tensor],
    stored: Sequence[DType],
    recorder: Recorder,
) -> Trace:
    """Call a function, and note what it does.

    Args:
        function: elementwise; or one that gives `quick_sums` or `quick_products`.
        inputs: float32 [size] each.
        stored: the dtypes in which the inputs will be given to the program.
        recorder: the generator of the function.

    Raises:
        UntraceableError: the function does something else.
    """
    tracer = _Tracer(inputs, stored, recorder)
    with tracer:
        result = function(inputs)
    return tracer.ended(result)


Operand: TypeAlias = int | float
"""The number of a value, or a constant."""

_BINARY = {
    "add": Operation.ADD,
    "sub": Operation.SUBTRACT,
    "mul": Operation.MULTIPLY,
    "div": Operation.DIVIDE,
    "eq": Operation.EQUAL,
    "ne": Operation.NOT_EQUAL,
    "lt": Operation.LESS,
    "le": Operation.LESS_EQUAL,
    "gt": Operation.GREATER,
    "ge": Operation.GREATER_EQUAL,
    "maximum": Operation.MAXIMUM,
    "minimum": Operation.MINIMUM,
}
_COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
_UNARY = {
    "abs": Operation.ABSOLUTE,
    "neg": Operation.NEGATE,
    "sign": Operation.SIGN,
    "relu": Operation.RELU,
    "clone": Operation.COPY,
}
_WHOLE = (torch.int32, torch.int8)
_SAME = frozenset({"view", "_unsafe_view", "detach", "alias", "split", "expand", "t"})
_NEW = frozenset({"empty_like", "new_empty", "empty"})
_FILLS = MappingProxyType({"zeros_like": 0.0, "ones_like": 1.0, "zero": 0.0, "new_zeros": 0.0})


class _Tracer(TorchDispatchMode):
    """Notes operations; values are known by the memory that they lie in."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch from importing its compiler for this, which takes it a second."""
        return False

    def __init__(
        self, inputs: Sequence[Tensor], stored: Sequence[DType], recorder: Recorder
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._size = inputs[0].numel()
        self._notes = Notes()
        self._trace = Trace(dtypes=list(stored), instructions=self._notes.instructions)
        self._recorder = recorder
        self._values = dict[int, int]()
        self._sums: Tensor | None = None
        self._alive: list[Any] = []  # so that no memory is that of another tensor later
        for number, (tensor, dtype) in enumerate(zip(inputs, stored, strict=True)):
            self._load(tensor, number, dtype)

    def ended(self, result: Any) -> Trace:
        """Give the trace, of a function that gave `result`."""
        if not isinstance(result, Tensor):
            raise UntraceableError("gives no tensor")
        self._trace.given = result
        if self._sums is not None:
            if result is not self._sums:
                raise UntraceableError("does something with sums")
            return self._trace
        self._trace.result = self._value(result)
        return self._trace

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        keywords = kwargs or {}
        result = func(*args, **keywords)
        self._alive.append((args, keywords, result))
        space, _, name = func._schema.name.partition("::")
        touched = self._traced(args) or self._traced(list(keywords.values()))
        if touched or self._meets(name, args):
            if self._sums is not None:
                raise UntraceableError("does something with sums")
            if space == "conjoin":
                self._sum(name, args[0], result)
            else:
                self._note(name, [*args], dict(keywords), result)
        return result

    def _meets(self, name: str, args: Sequence[Any]) -> bool:
        """Whether a tensor that is none of the values is filled, as if it were one."""
        like = name in _FILLS or name in ("fill", "full_like")
        return like and isinstance(args[0], Tensor) and args[0].numel() == self._size

    def _traced(self, args: Sequence[Any]) -> bool:
        return any(
            (isinstance(one, Tensor) and one.untyped_storage().data_ptr() in self._values)
            or (isinstance(one, (list, tuple)) and self._traced(one))
            for one in args
        )

    def _note(self, name: str, args: list[Any], keywords: dict[str, Any], result: Any) -> None:
        if name in _SAME:
            for one in result if isinstance(result, (list, tuple)) else [result]:
                self._value(one)  # the whole, or it cannot be traced
            return
        if name in _NEW:
            return
        if keywords.pop("out", None) is not None or name.endswith("_"):
            name = name.rstrip("_")
        alpha = float(keywords.pop("alpha", 1))
        whole = [arg.dtype for arg in args if isinstance(arg, Tensor) and arg.dtype in _WHOLE]
        if whole and (name != "bitwise_and" or result.dtype != torch.int32):
            raise UntraceableError(f"{name} of {whole[0]}")
        for said in ("dtype", "layout", "device", "pin_memory", "non_blocking", "memory_format"):
            keywords.pop(said, None)
        if name == "clamp":
            args = [args[0], *args[1:], *map(keywords.pop, [*keywords])]
        if keywords or not isinstance(result, Tensor):
            raise UntraceableError(f"{name} with {[*keywords]}")
        self._make(name, args, alpha, result)

    def _make(self, name: str, args: list[Any], alpha: float, result: Tensor) -> None:
        if name in _BINARY and len(args) == 2:
            self._binary(name, args, alpha, result)
        elif name == "rsub" and len(args) == 2 and alpha == 1:
            turned = self._notes.made(Operation.NEGATE, self._value(args[0]))
            self._finish(result, Operation.ADD, turned, self._operand(args[1]))
        elif name in _UNARY:
            self._finish(result, _UNARY[name], self._value(args[0]))
        elif name == "pow" and args[1] == 2:
            value = self._value(args[0])
            self._finish(result, Operation.MULTIPLY, value, value)
        elif name in ("copy", "_to_copy") and result.dtype == torch.float32:
            self._finish(result, Operation.COPY, self._value(args[-1]))
        elif name in _FILLS:
            self._finish(result, Operation.FILL, 0, _FILLS[name])
        elif name in ("fill", "full_like") and result.dtype == torch.float32:
            self._finish(result, Operation.FILL, 0, self._constant(args[1]))
        elif name == "where":
            chosen, one, other = (self._held(self._operand(arg)) for arg in args)
            self._finish(result, Operation.SELECT, chosen, one, third=other)
        elif name == "hardshrink":
            limit = self._operand(args[1] if len(args) > 1 else 0.5)
            self._finish(result, Operation.HARD_SHRINK, self._value(args[0]), limit)
        elif name == "clamp":
            self._clamp(args, result)
        elif name == "copysign":
            one, other = self._value(args[0]), self._value(args[1])
            self._finish(result, Operation.COPY_SIGN, one, other)
        elif name == "lerp":
            self._lerp(args, result)
        elif name in ("bitwise_and", "bitwise_or", "bitwise_not", "logical_not"):
            self._logic(name, args, result)
        else:
            raise UntraceableError(name)

    def _binary(self, name: str, args: list[Any], alpha: float, result: Tensor) -> None:
        one, other = (self._operand(arg) for arg in args)
        if alpha != 1:
            if name not in ("add", "sub"):
                raise UntraceableError(f"{name} with a factor")
            factor = alpha if name == "add" else -alpha
            one, other = self._held(one), self._held(other)
            self._finish(result, Operation.ADD_SCALED, one, other, constant=factor)
            return
        if result.dtype == torch.bool and name not in _COMPARISONS:
            raise UntraceableError(f"{name} in bool")
        self._finish(result, _BINARY[name], self._held(one), other)

    def _clamp(self, args: list[Any], result: Tensor) -> None:
        given = [*args[1:], None][:2]
        bounds = [None if one is None else self._held(self._operand(one)) for one in given]
        self._keep(result, self._notes.clamped(self._value(args[0]), bounds))

    def _lerp(self, args: list[Any], result: Tensor) -> None:
        one, other, weight = self._value(args[0]), self._value(args[1]), args[2]
        if not isinstance(weight, (int, float)):
            raise UntraceableError("lerp with a tensor")
        self._keep(result, self._notes.between(one, other, weight))

    def _logic(self, name: str, args: list[Any], result: Tensor) -> None:
        if name == "bitwise_and" and result.dtype == torch.int32:
            self._finish(result, Operation.BITS_AND, self._value(args[0]), self._value(args[1]))
        elif any(isinstance(arg, Tensor) and arg.dtype != torch.bool for arg in args):
            raise UntraceableError(name)
        elif name == "bitwise_and":
            self._finish(result, Operation.MULTIPLY, self._value(args[0]), self._value(args[1]))
        elif name == "bitwise_or":
            either = self._notes.made(Operation.ADD, self._value(args[0]), self._value(args[1]))
            self._finish(result, Operation.GREATER, either, 0.0)
        else:
            self._finish(result, Operation.EQUAL, self._value(args[0]), 0.0)

    def _sum(self, name: str, vectors: Sequence[Tensor], result: Tensor) -> None:
        values = [self._value(vector) for vector in vectors]
        pairs = [(value, value) for value in values]
        operation = Operation.SUM
        if name == "quick_products":
            operation = Operation.SUM_OF_PRODUCTS
            pairs = [(one, other) for k, one in enumerate(values) for other in values[k:]]
        for number, (one, other) in enumerate(pairs):
            self._trace.instructions.append(Instruction(operation, number, one, other))
        self._trace.sums, self._sums = len(pairs), result
        self._values[result.untyped_storage().data_ptr()] = -1  # whoever touches it is seen

    def _finish(
        self,
        result: Tensor,
        operation: Operation,
        one: int,
        other: Operand | None = None,
        third: int | None = None,
        constant: float = 0.0,
    ) -> None:
        """Note an operation, whose value is now that of `result`'s memory."""
        if isinstance(other, float):
            made = self._notes.made(operation, one, None, third, other)
        else:
            made = self._notes.made(operation, one, other, third, constant)
        self._keep(result, made)

    def _keep(self, result: Tensor, made: int) -> None:
        """Note which value is in the memory of a result."""
        if result.dtype not in (torch.float32, torch.bool, torch.int32):
            raise UntraceableError(f"makes {result.dtype}")
        if result.numel() != self._size:
            raise UntraceableError(f"makes {result.numel()} elements")
        self._values[result.untyped_storage().data_ptr()] = made

    def _load(self, tensor: Tensor, number: int, dtype: torch.dtype | DType) -> None:
        if dtype_of(dtype) not in KINDS:
            raise UntraceableError(f"reads {dtype}")
        value = self._notes.made(Operation.LOAD, number, third=KINDS[dtype_of(dtype)])
        self._values[tensor.untyped_storage().data_ptr()] = value

    def _operand(self, one: Any) -> Operand:
        """Give the number of a tensor's value, or a constant."""
        if isinstance(one, Tensor):
            if one.untyped_storage().data_ptr() in self._values or one.numel() == self._size:
                return self._value(one)
            if one.dim() > 0 and one.dtype != torch.float32:
                raise UntraceableError(f"uses a tensor of {one.dtype}")
        return self._constant(one)

    def _constant(self, one: Any) -> float:
        if isinstance(one, Tensor):
            if one.numel() != 1:
                raise UntraceableError("broadcasts a tensor")
            with torch.utils._python_dispatch._disable_current_modes():
                one = one.item()
        if isinstance(one, (int, float)) and math.isfinite(one):
            return float(one)
        raise UntraceableError(f"uses {one!r}")

    def _held(self, operand: Operand) -> int:
        """Give the number of a value, which is made of a constant if need be."""
        if isinstance(operand, float):
            return self._notes.made(Operation.FILL, 0, constant=operand)
        return operand

    def _value(self, tensor: Any) -> int:
        if not isinstance(tensor, Tensor) or tensor.numel() != self._size:
            raise UntraceableError("looks at a part of a block")
        place = tensor.untyped_storage().data_ptr()
        if place not in self._values:
            self._draw(tensor)
        return self._values[place]

    def _draw(self, tensor: Tensor) -> None:
        """Take masks that were noted as inputs of the program."""
        place = tensor.untyped_storage().data_ptr()
        for masks, dtype, draw in self._recorder.drawn:
            if any(mask.untyped_storage().data_ptr() == place for mask in masks):
                for mask in masks:
                    self._load(mask, len(self._trace.dtypes), dtype)
                    self._trace.dtypes.append(dtype)
                self._trace.draws.append(draw)
                return
        raise UntraceableError("uses a tensor that is none of its inputs")
