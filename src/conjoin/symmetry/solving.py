"""Going through a graph, operation by operation: what must move together, what may not move."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.export.graph_signature import OutputKind
from torch.fx import Node

from conjoin.checkpoints import Kind
from conjoin.symmetry.axes import Axes, Space, size_of_axis
from conjoin.symmetry.left_out import pin_left_out
from conjoin.symmetry.rules import RULES, Rule
from conjoin.symmetry.rules.elementwise import elementwise
from conjoin.symmetry.tracing import Trace, name_of, size_of
from conjoin.symmetry.values import Call, Source, Value

__all__ = ["Solved", "solve"]

CONSTRUCTORS = ("full", "zeros", "ones", "full_like", "zeros_like", "ones_like", "new_zeros",
                "new_ones", "new_full", "scalar_tensor", "empty")  # fmt: skip
"""Operations whose result has one value everywhere."""

EQUAL = ("view", "_unsafe_view", "reshape", "permute", "transpose", "unsqueeze", "squeeze",
         "expand", "repeat", "select", "slice", "clone", "alias", "detach", "sum", "mean", "amax",
         "amin", "_to_copy", "lift_fresh_copy")  # fmt: skip
"""Of equal elements these make equal ones, as what is pointwise does; `cumsum`, say, does not.

What is equal along a dimension, such as a mask that is expanded over heads, stays so under them.
"""

POWER_ITERATION = ("_u", "_v", "weight_u", "weight_v")
"""Buffers of spectral_norm, which move with the weight that they are singular vectors of."""

MUTATIONS = (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION)
"""Results of a traced graph that are no outputs, but what a tensor of the model becomes."""

MOST_SLICES = 64
"""A dimension that is only selected from is followed slice by slice up to this size."""


@dataclass
class Solved:
    """What has been found.

    Args:
        space: of all axes.
        tensors: name of each parameter and buffer -> its axes.
        values: the axes of everything that was computed, too.
        unknown: operations without a rule, and how often they occur.
        aliases: another name of a tied tensor -> the name it is known by.
    """

    space: Space
    tensors: dict[str, Axes] = field(default_factory=dict)
    values: list[Axes] = field(default_factory=list)
    unknown: dict[str, int] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)


def solve(trace: Trace) -> Solved:
    """Go through the graph of a model once."""
    solved = Solved(Space())
    found: dict[Node, Any] = {}
    for node in trace.nodes:
        if node.op == "placeholder":
            found[node] = _placeholder(node, trace, solved)
        elif node.op == "get_attr":
            found[node] = _constant(node, solved)
        elif node.op == "call_function":
            found[node] = _call(node, found, solved)
        elif node.op == "output":
            _output(_resolved(node.args[0], found), trace, solved)
    for name in solved.tensors.keys() - _used_tensors(trace):
        for axis in solved.tensors[name]:
            solved.space.pin(axis, "nothing uses it")
    pin_left_out(trace, found, solved.space)
    solved.aliases.update(
        (name, first)
        for name, first in trace.names.items()
        if name != first and first in solved.tensors
    )
    for value in _values(list(found.values())):
        solved.values.append(value.axes)
        for one in value.slices or ():
            solved.values.append(one)
    return solved


def _used_tensors(trace: Trace) -> set[str]:
    """Name the parameters and buffers that something is done with, by their first names."""
    used = (trace.tensors[n.name] for n in trace.nodes if n.users and n.name in trace.tensors)
    return {trace.names.get(name, name) for name in used}


def _placeholder(node: Node, trace: Trace, solved: Solved) -> Any:
    shape = _shape(node.meta.get("val"))
    if shape is None:
        return size_of(node.meta["val"]) if isinstance(node.meta.get("val"), torch.SymInt) else None
    space = solved.space
    name = trace.tensors.get(node.name)
    if name is None and node.name in trace.uniform:
        return Value(tuple(space.atom(size) for size in shape), "uniform")
    if name is None:
        known = node.name in trace.program.graph_signature.user_inputs
        reason = "an input" if known else "a constant"
        return Value(tuple(space.pinned_atom(size, reason) for size in shape), "plain")
    name = trace.names.get(name, name)
    kind = trace.kinds.get(name, Kind.CONSTANT)
    moves = kind in (Kind.WEIGHT, Kind.STATISTIC) or name.rpartition(".")[2] in POWER_ITERATION
    if name not in solved.tensors:
        solved.tensors[name] = tuple(space.atom(size) for size in shape)
        for axis in solved.tensors[name] if not moves else ():
            space.pin(axis, "a constant")
    if node.name in trace.uniform and not moves:
        return Value(tuple(space.atom(size) for size in shape), "uniform")
    return Value(solved.tensors[name], "learned" if moves else "plain")


def _constant(node: Node, solved: Solved) -> Value | None:
    shape = _shape(node.meta.get("val"))
    if shape is None:
        return None
    return Value(tuple(solved.space.pinned_atom(s, "a constant") for s in shape), "plain")


def _output(results: Sequence[Any], trace: Trace, solved: Solved) -> None:
    """Pin what the caller gets; what a buffer becomes moves as the buffer does."""
    specs = trace.program.graph_signature.output_specs
    for result, spec in zip(results, specs, strict=True):
        name = trace.names.get(str(spec.target), str(spec.target))
        for value in _values([result]):
            axes = value.whole(solved.space)
            if spec.kind in MUTATIONS and name in solved.tensors:
                for own, other in zip(solved.tensors[name], axes, strict=True):
                    solved.space.equate(own, other)
                continue
            for axis in axes:
                solved.space.pin(axis, "an output")


def _call(node: Node, found: Mapping[Node, Any], solved: Solved) -> Any:
    args, kwargs = _resolved(node.args, found), _resolved(node.kwargs, found)
    if node.target is operator.getitem:
        return args[0][args[1]] if isinstance(args[0], list | tuple) else None
    args, kwargs = _fresh(args, solved.space), _fresh(kwargs, solved.space)
    meta = node.meta.get("val")
    shapes = _shapes(meta)
    if not shapes:
        return size_of(meta) if isinstance(meta, int | torch.SymInt) else None
    name = name_of(node.target)
    call = Call(name, args, kwargs, shapes, solved.space, _selected(node), _used(node))
    values = call.values()
    results = _results(node, call, values, solved)
    return results[0] if isinstance(meta, Tensor) else results


def _results(node: Node, call: Call, values: Sequence[Value], solved: Solved) -> list[Any]:
    plain = call.name.partition(".")[2]
    if plain in CONSTRUCTORS:
        return [_free(call, shape, "uniform") for shape in call.shapes]
    learned = any(value.source == "learned" for value in values)
    if not learned:
        keeps = plain in EQUAL or torch.Tag.pointwise in getattr(node.target, "tags", ())
        if keeps and values and all(value.source == "uniform" for value in values):
            return [_free(call, shape, "uniform") for shape in call.shapes]
        if not keeps:
            return _fixed(call)
    rule = _rule(node, call.name)
    if rule is None:
        return _unknown(call, values, solved) if learned else _fixed(call)
    try:
        made = rule(call)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        # A form of the operation that its rule has not met.
        return _unknown(call, values, solved) if learned else _fixed(call)
    source: Source = "learned" if learned else "plain"
    several: Sequence[Axes | Value] = [made] if isinstance(made, Value) else made
    results = [
        Value(one.axes, source, one.slices, one.dim)
        if isinstance(one, Value)
        else Value(tuple(one), source)
        for one in several
    ]
    if [tuple(map(size_of_axis, result.axes)) for result in results] != list(call.shapes):
        return _unknown(call, values, solved) if learned else _fixed(call)
    return results


def _fixed(call: Call) -> list[Value]:
    """Pin what no parameter is among the ancestors of: most of it is masks and positions."""
    reason = "it comes from the input or from constants alone"
    return [
        Value(tuple(call.space.pinned_atom(s, reason) for s in shape), "plain")
        for shape in call.shapes
    ]


def _rule(node: Node, name: str) -> Rule | None:
    rule = RULES.get(name)
    if rule is not None:
        return rule
    tags = getattr(node.target, "tags", ())
    return elementwise if torch.Tag.pointwise in tags else None


def _unknown(call: Call, values: Sequence[Value], solved: Solved) -> list[Value]:
    """Pin all that an operation without a rule touches: never a guess."""
    solved.unknown[call.name] = solved.unknown.get(call.name, 0) + 1
    reason = f"no rule for {call.name}"
    for value in values:
        for axis in value.whole(solved.space):
            solved.space.pin(axis, reason)
    return [
        Value(tuple(solved.space.pinned_atom(s, reason) for s in shape), "learned")
        for shape in call.shapes
    ]


def _free(call: Call, shape: Sequence[int], source: Source) -> Value:
    return Value(tuple(call.space.atom(size) for size in shape), source)


def _selected(node: Node) -> tuple[int, ...]:
    """Name the dimensions of a view's result that are only selected from afterwards."""
    shape = _shape(node.meta.get("val"))
    if shape is None or name_of(node.target) not in ("aten.view", "aten.reshape", "aten.unflatten"):
        return ()
    return tuple(
        dim for dim, size in enumerate(shape) if 1 < size <= MOST_SLICES and _only(node, dim)
    )


def _used(node: Node) -> frozenset[int]:
    """Name the results, of several, that something is done with."""
    return frozenset(
        int(user.args[1])  # type: ignore[arg-type]
        for user in node.users
        if user.target is operator.getitem and user.users
    )


def _only(node: Node, dim: int) -> bool:
    """Whether every use of a result leads to taking single positions of one of its dimensions."""
    rank = len(_shape(node.meta["val"]) or ())
    return bool(node.users) and all(_follows(user, dim, rank) for user in node.users)


def _follows(user: Node, dim: int, rank: int) -> bool:
    name, args = name_of(user.target), list(user.args)
    if name in ("aten.select", "aten.unbind"):
        return int(args[1] if len(args) > 1 else 0) % rank == dim  # type: ignore[arg-type]
    if name == "aten.slice":  # of one position: what unbind becomes
        own = int(args[1] if len(args) > 1 else 0) % rank == dim  # type: ignore[arg-type]
        return own and (_shape(user.meta["val"]) or ())[dim] == 1
    if name in ("aten.clone", "aten.alias", "aten.contiguous"):
        return _only(user, dim)
    if name in ("aten.permute", "aten.transpose"):
        if name == "aten.permute":
            order = [int(n) % rank for n in args[1]]  # type: ignore[union-attr, arg-type]
        else:
            order = list(range(rank))
            one, other = (int(n) % rank for n in args[1:3])  # type: ignore[arg-type]
            order[one], order[other] = order[other], order[one]
        return _only(user, order.index(dim))
    if name == "aten.unsqueeze":
        return _only(user, dim + (int(args[1]) % (rank + 1) <= dim))  # type: ignore[arg-type]
    if name == "aten.squeeze" and len(args) > 1:
        gone = args[1] if isinstance(args[1], list | tuple) else [args[1]]
        numbers = {int(n) % rank for n in gone}  # type: ignore[arg-type]
        return dim not in numbers and _only(user, dim - sum(n < dim for n in numbers))
    return False


def _resolved(items: Any, found: Mapping[Node, Any]) -> Any:
    if isinstance(items, Node):
        return found[items]
    if isinstance(items, dict):
        return {key: _resolved(item, found) for key, item in items.items()}
    if isinstance(items, list | tuple):
        return [_resolved(item, found) for item in items]
    if isinstance(items, torch.SymInt):
        return size_of(items)
    return items


def _fresh(items: Any, space: Space) -> Any:
    """Give what is uniform new axes for each use: being there twice does not tie its readers."""
    if isinstance(items, Value) and items.source == "uniform":
        sizes = map(size_of_axis, items.axes)
        return Value(tuple(space.atom(size) for size in sizes), "uniform")
    if isinstance(items, dict):
        return {key: _fresh(item, space) for key, item in items.items()}
    return [_fresh(item, space) for item in items] if isinstance(items, list | tuple) else items


def _values(items: Any) -> list[Value]:
    if isinstance(items, Value):
        return [items]
    if isinstance(items, list | tuple):
        return [value for item in items for value in _values(item)]
    return []


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(map(size_of, value.shape)) if isinstance(value, Tensor) else None


def _shapes(meta: Any) -> tuple[tuple[int, ...], ...]:
    several = meta if isinstance(meta, list | tuple) else [meta]
    return tuple(shape for one in several if (shape := _shape(one)) is not None)
