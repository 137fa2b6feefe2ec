"""A model -> a graph of operations with exact shapes, by `torch.export`."""

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import (
    Dim,
    ExportedProgram,
    ShapesCollection,
    default_decompositions,
    export,
)
from torch.fx import Node

from conjoin.batches import Inputs, device_of, inputs_on
from conjoin.checkpoints import Checkpoint, Kind, from_module
from conjoin.errors import InputError, TraceError
from conjoin.symmetry.copies import fresh_copy
from conjoin.symmetry.structure import structure_of

__all__ = ["Trace", "name_of", "size_of", "trace"]

WHOLE = (
    "linear", "matmul", "einsum", "scaled_dot_product_attention", "lstm", "gru", "rnn_tanh",
    "rnn_relu", "im2col", "col2im", "roll", "instance_norm", "embedding_bag", "bilinear",
    "matrix_exp",
)  # fmt: skip
"""Operations that are kept as they are: what they decompose into says less."""


@dataclass(frozen=True, eq=False)
class Trace:
    """What a model does.

    Args:
        program: of `torch.export`, decomposed.
        tensors: placeholder -> name of the parameter or buffer.
        names: of a tensor's aliases -> the name it is known by.
        kinds: of parameters and buffers.
        again: traces the same model with other inputs.
        uniform: placeholders of constants with one value everywhere.
    """

    program: ExportedProgram
    tensors: Mapping[str, str]
    names: Mapping[str, str]
    kinds: Mapping[str, Kind]
    again: Callable[[Inputs], "Trace"]
    uniform: frozenset[str] = frozenset()

    @property
    def nodes(self) -> Sequence[Node]:
        """Nodes in the order of execution."""
        return list(self.program.graph.nodes)

    def holds_for(self, sizes: Sequence[int]) -> bool:
        """Whether the operations are what the model does with batches of other sizes too.

        They are not where it makes a plain number of the size, as ``len(x)`` does, or asks an
        ``if`` of it: `torch.export` then takes the size that it has seen, without notice.

        Args:
            sizes: of the first dimension of each input, in their order.

        >>> class Last(nn.Module):
        ...     def forward(self, x):
        ...         return x[torch.arange(len(x)), -1]
        >>> trace(Last(), torch.zeros(2, 3)).holds_for([5])
        False
        >>> trace(nn.Linear(3, 3), torch.zeros(2, 3)).holds_for([5])
        True
        """
        by_name = {node.name: node for node in self.nodes}
        given = [by_name[str(name)] for name in self.program.graph_signature.user_inputs]
        found = [node.meta["val"].shape[0] for node in given]
        pairs = list(zip(found, sizes, strict=True))
        if any(_is_fixed(one) and int(one) != size for one, size in pairs):
            return False
        free = {one.node.expr: size for one, size in pairs if not _is_fixed(one)}
        guards = {guard for one in found if not _is_fixed(one) for guard in _guards_of(one)}
        if 1 in sizes:  # torch.export takes two or more for granted; then sizes differ that may not
            guards = {guard for guard in guards if getattr(guard, "rel_op", "") == "=="}
        # Of sympy: what cannot be told is neither true nor false.
        return not any(guard.subs(free) == False for guard in guards)  # noqa: E712


def trace(model: nn.Module, inputs: Inputs) -> Trace:
    """Export a copy of a model in eval mode.

    Args:
        model: not changed.
        inputs: an example batch of two or more: what a call of the model takes, on any device. The
            first dimension of every tensor is the batch.

    Raises:
        InputError: the example has no batch, or the model does not take it.
        TraceError: the model cannot be exported; the message says what to do.
    """
    args, kwargs = _arguments(inputs)
    tensors = [*args, *kwargs.values()]
    strange = [type(t).__name__ for t in tensors if not isinstance(t, Tensor)]
    if strange:
        raise InputError(
            f"the example inputs must be tensors with a batch; found {', '.join(strange)}. Bind "
            "other arguments of the model first, in a module whose forward takes the tensors"
        )
    if not tensors or any(t.dim() == 0 or len(t) < 2 for t in tensors):
        raise InputError(
            "the example inputs must be tensors with a batch of two or more in their first "
            f"dimension; found {[list(t.shape) for t in tensors]}"
        )
    return _trace(model, inputs)


def _trace(model: nn.Module, inputs: Inputs) -> Trace:
    """Export a copy; with a batch of one, too, though nothing is then known of larger ones."""
    args, kwargs = _arguments(inputs_on(inputs, device_of(model)))
    # Of a view that is not contiguous, torch.export does not find the dimensions that vary.
    args = tuple(tensor.contiguous() for tensor in args)
    kwargs = {name: tensor.contiguous() for name, tensor in kwargs.items()}
    key = _key(model, args, kwargs)
    program = None if key is None else _RECENT.get(key)
    if program is None:
        program = _traced(model, args, kwargs)
        if key is not None and not program.constants:
            _RECENT[key] = program
            while len(_RECENT) > _KEPT:
                _RECENT.pop(next(iter(_RECENT)))
    checkpoint: Checkpoint = from_module(model)
    kinds = {name: spec.kind for name, spec in checkpoint.specs.items()}
    signature = program.graph_signature
    owners = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    again = partial(_trace, model)
    return Trace(program, owners, _canonical(model), kinds, again, _uniform(program))


# Graphs of the last structures that were traced, without weights. Whoever merges, aligns or
# compares networks of one structure traces it once for each; a trace takes seconds.
_RECENT: dict[Hashable, ExportedProgram] = {}
_KEPT = 8


def _key(model: nn.Module, args: Sequence[Tensor], kwargs: Mapping[str, Tensor]) -> Hashable | None:
    structure = structure_of(model)
    if structure is None:
        return None
    given = [("", tensor) for tensor in args] + list(kwargs.items())
    shapes = [(name, tuple(t.shape), t.dtype, t.device) for name, t in given]
    return structure, tuple(shapes), torch.get_default_dtype()


def _traced(model: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> Any:
    example = fresh_copy(model).eval()  # some models keep what a first run has computed
    try:
        with torch.no_grad():
            example(*args, **kwargs)
    except Exception as error:
        raise InputError(
            f"{type(model).__name__} does not run on the example inputs "
            f"{[list(t.shape) for t in (*args, *kwargs.values())]}: {error}"
        ) from error
    program = _exported(fresh_copy(model).eval(), args, kwargs)
    program.state_dict.clear()  # the operations are wanted, and not these weights
    return program


def _exported(model: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> Any:
    shapes = ShapesCollection()  # by tensor, so that `forward(*inputs)` is taken too
    for tensor in (*args, *kwargs.values()):
        shapes[tensor] = {0: Dim.AUTO}  # so that it is not taken for a number of channels
    try:
        # Some models do other operations where no gradients are wanted.
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")  # of torch about itself
            sizes = shapes.dynamic_shapes(model, args, kwargs)
            program = export(model, args, kwargs, dynamic_shapes=sizes, strict=False)
            table = default_decompositions()
            for operator in list(table):
                if _is_whole(operator.name()):
                    del table[operator]
            return program.run_decompositions(table)
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise TraceError(
            f"{type(model).__name__} cannot be traced by torch.export: {first}. Symmetries are "
            "found from the operations, which must not depend on values: no `if` on a tensor, no "
            "loop over .item(), no packed sequences. Trace the part without that, or one whose "
            "forward takes the branch as an argument"
        ) from error


def _is_whole(name: str) -> bool:
    base = name.partition("::")[2]
    plain = base.partition(".")[0]
    is_vector = plain.lstrip("_").startswith("upsample") and base.endswith(".vec")
    return plain in WHOLE or plain.startswith("adaptive_") or is_vector


def _arguments(inputs: Inputs) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return tuple(inputs), {}


def _canonical(model: nn.Module) -> dict[str, str]:
    """Give the first name of every tensor: a tied one has several."""
    first: dict[int, str] = {}
    names = {}
    everything = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    for name, tensor in everything:
        names[name] = first.setdefault(id(tensor), name)
    return names


def _uniform(program: ExportedProgram) -> frozenset[str]:
    """Name the placeholders of constants whose elements are equal: nothing in them can move.

    A buffer that is saved with the weights is none: it may be a state that has not changed yet.
    """
    signature = program.graph_signature
    unsaved = set(signature.non_persistent_buffers)
    constants = {
        **signature.inputs_to_lifted_tensor_constants,
        **{place: name for place, name in signature.inputs_to_buffers.items() if name in unsaved},
    }
    return frozenset(
        place for place, name in constants.items() if _are_equal(program.constants.get(name))
    )


def _are_equal(tensor: Any) -> bool:
    """Whether all elements are equal, as far as it is known: on meta, it is not."""
    if not isinstance(tensor, Tensor) or tensor.is_meta or not tensor.numel():
        return False
    return bool((tensor == tensor.flatten()[0]).all())


def name_of(target: Any) -> str:
    """Give ``aten.add`` for every overload of it.

    >>> name_of(torch.ops.aten.add.Tensor)
    'aten.add'
    """
    if isinstance(target, torch._ops.OpOverload):
        return f"{target.namespace}.{target._opname}"
    return str(getattr(target, "__name__", target))


def _is_fixed(size: Any) -> bool:
    """Whether a size is a number, though a dimension was to vary."""
    return isinstance(size, int) or bool(size.node.expr.is_number)


def _guards_of(size: Any) -> Sequence[Any]:
    """Give what a graph takes for granted about the sizes of its inputs."""
    return [guard.expr for guard in size.node.shape_env.guards]


def size_of(value: Any) -> int:
    """Give a size as a number; each dimension of the batch is a prime of its own."""
    if isinstance(value, int):
        return value
    expression = value.node.expr
    return int(expression.subs({one: _prime_of(str(one)) for one in expression.free_symbols}))


@cache
def _prime_of(symbol: str) -> int:
    """Give a prime that stands for a dimension of the batch, so that it is no number of channels.

    >>> _prime_of("s77"), _prime_of("u0")
    (1155017, 1000003)
    """
    number = 2 * int("".join(filter(str.isdigit, symbol)) or 0) + symbol.startswith("s")
    found = 1_000_003 + 1_000 * number
    while any(found % factor == 0 for factor in range(2, isqrt(found) + 1)):
        found += 1
    return found
