"""What a slice of a weight leaves out, and nothing else reads: it is pinned.

A table of 12 positions is cut to the 9 words of the example. The last 3 rows change nothing that
the example can show, but a longer text reads them, each in its place. So it is not known what reads
them, and they stay. A fused weight that is cut into queries, keys and values is read as a whole,
piece by piece: what one slice leaves out, another takes.

Only tensors that are calculated from weights alone are looked at. Units that a layer makes of an
input, and that are cut off afterwards, are as many for every example.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.fx import Node

from conjoin.symmetry.axes import Atom, Space
from conjoin.symmetry.tracing import Trace, name_of
from conjoin.symmetry.values import Value

__all__ = ["pin_left_out"]

LEFT_OUT = "the example uses a part of it only"

TAKING = (
    "aten.slice", "aten.select", "aten.unbind", "aten.split", "aten.split_with_sizes",
    "aten.split_with_sizes_copy", "aten.chunk", "aten.tensor_split", "aten.constant_pad_nd",
)  # fmt: skip
"""Operations whose results have a part of the positions of what they are given.

What other operations do not pass on, such as a sum, they have read; what is looked up by number is
pinned by its rule.
"""


def pin_left_out(trace: Trace, found: Mapping[Node, Any], space: Space) -> None:
    """Pin what slices of weights leave out, unless something else reads it.

    Args:
        trace: the graph.
        found: what each node has been found to be.
        space: of all axes; changed.
    """
    given = _of_inputs(trace)
    cuts = [node for node in trace.nodes if _takes(node) and _weights(node, found, given)]
    if not cuts:
        return
    left: set[Atom] = set()
    for node in cuts:
        weights = _weights(node, found, given)
        left |= _atoms(weights, space) - _atoms(_results(node, found), space)
    if left:
        left -= _read(trace, found, given, space)
    for atom in left:
        space.pin(atom, LEFT_OUT)


def _read(
    trace: Trace, found: Mapping[Node, Any], given: frozenset[Node], space: Space
) -> set[Atom]:
    """Give what stands in what an input has a part in, or in what goes into a sum or an output."""
    read: set[Atom] = set()
    for node in trace.nodes:
        if node in given:
            read |= _atoms(_values(found.get(node)), space)
        if node.op == "placeholder" or node.target is operator.getitem or _takes(node):
            continue
        weights = _atoms(_weights(node, found, given), space)
        if node in given or node.op == "output":
            read |= weights
        elif weights:
            read |= weights - _atoms(_results(node, found), space)
    return read


def _of_inputs(trace: Trace) -> frozenset[Node]:
    """Give the nodes that an input is among the ancestors of; the size of a batch is none."""
    inputs = set(trace.program.graph_signature.user_inputs)
    given: set[Node] = set()
    for node in trace.nodes:
        if isinstance(node.meta.get("val"), int | torch.SymInt):
            continue
        calculated = node.op == "call_function" and not given.isdisjoint(node.all_input_nodes)
        if calculated or node.name in inputs:
            given.add(node)
    return frozenset(given)


def _takes(node: Node) -> bool:
    return node.op == "call_function" and name_of(node.target) in TAKING


def _weights(node: Node, found: Mapping[Node, Any], given: frozenset[Node]) -> list[Value]:
    """Give what a node is given that is calculated from weights alone."""
    arguments = [found.get(one) for one in node.all_input_nodes if one not in given]
    return [one for one in arguments if isinstance(one, Value) and one.source == "learned"]


def _results(node: Node, found: Mapping[Node, Any]) -> list[Value]:
    """Give the results that something is done with."""
    result = found.get(node)
    if isinstance(result, Value):
        return [result]
    users = [user for user in node.users if user.target is operator.getitem and user.users]
    return [value for user in users for value in _values(found.get(user))]


def _values(found: Any) -> list[Value]:
    return [found] if isinstance(found, Value) else []


def _atoms(values: Sequence[Value], space: Space) -> set[Atom]:
    """Give the atoms of tensors, and of their slices where those move apart."""
    every = [axes for value in values for axes in (value.axes, *(value.slices or ()))]
    return {atom for axes in every for axis in axes for atom in space.atoms(axis)}
