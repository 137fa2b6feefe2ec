"""Running a traced model step by step: to the input of a layer, stop, and go on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.export.graph_signature import InputKind
from torch.fx import Node
from torch.fx.node import map_arg

from conjoin.batches import Inputs
from conjoin.errors import InputError, MismatchError, TraceError
from conjoin.symmetry.tracing import Trace

__all__ = ["Execution", "Program"]


class Program:
    """A traced model without its weights: any tensors of the same names can be put in.

    A graph may be right for one number of examples only: where the model computes with ``len(x)``,
    for instance. Then the model is traced again for each other number, once.

    Args:
        trace: of `conjoin.symmetry.tracing.trace`. Tensors that the graph holds itself (constants,
            buffers that are not saved) are taken from it, and so are on its device.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.nodes: Sequence[Node] = trace.nodes
        self.place = {node: at for at, node in enumerate(self.nodes)}
        self.dead: list[list[Node]] = [[] for _ in self.nodes]  # what no later node reads
        for node in self.nodes:
            last = max((self.place[user] for user in node.users), default=self.place[node])
            self.dead[last].append(node)
        program = trace.program
        self.inputs = [str(name) for name in program.graph_signature.user_inputs]
        in_spec = program.call_spec.in_spec
        named = None if in_spec is None else in_spec.child(1).context
        # A placeholder is not called `input` or `max`, but an argument may be.
        self._names = [str(name) for name in named] if named else self.inputs
        by_name = {node.name: node for node in self.nodes}
        self._shapes = [by_name[name].meta["val"].shape for name in self.inputs]
        self._constants = {
            spec.arg.name: program.constants[str(spec.target)]
            for spec in program.graph_signature.input_specs
            if spec.kind == InputKind.CONSTANT_TENSOR
            or (spec.kind == InputKind.BUFFER and spec.persistent is False)
        }
        self._for_sizes: dict[tuple[int, ...], Program] = {}

    def for_batch(self, inputs: Inputs) -> "Program":
        """Give the program that is right for a batch of this size: nearly always this one.

        Its nodes are those of this one, one by one; numbers among their arguments differ.

        Raises:
            InputError: as `placeholders`.
            TraceError: with that many examples the model does other operations.
        """
        sizes = tuple(map(len, self._values_of(inputs)))
        if sizes not in self._for_sizes:
            fits = self.trace.holds_for(sizes)
            self._for_sizes[sizes] = self if fits else self._again(inputs, sizes)
        return self._for_sizes[sizes]

    def _again(self, inputs: Inputs, sizes: Sequence[int]) -> "Program":
        try:
            found = Program(self.trace.again(inputs))
        except TraceError as error:
            raise TraceError(f"{_other_operations(sizes)} ({error})") from error
        if not _have_same_operations(self, found):
            raise TraceError(_other_operations(sizes))
        return found

    def placeholders(self, inputs: Inputs) -> dict[str, Any]:
        """Give the values of all placeholders that are no weights or buffers of the state.

        Raises:
            InputError: other inputs than the model was traced with: their number, their names, or
                their shapes, the number of examples aside.
        """
        values = self._values_of(inputs)
        return {**self._constants, **dict(zip(self.inputs, values, strict=True))}

    def _values_of(self, inputs: Inputs) -> list[Tensor]:
        """Give the tensors of a batch in the order in which the model takes them."""
        if isinstance(inputs, Mapping):
            if set(inputs) != set(self._names):
                raise InputError(
                    f"the model was traced with the inputs {', '.join(self._names)}; the batch has "
                    f"{', '.join(map(str, inputs))}. Give it the same, or trace it with these"
                )
            values = [inputs[name] for name in self._names]
        else:
            values = [inputs] if isinstance(inputs, Tensor) else list(inputs)
        if len(values) != len(self.inputs):
            raise InputError(
                f"the model was traced with {len(self.inputs)} inputs; the batch has {len(values)}"
            )
        for name, value, shape in zip(self._names, values, self._shapes, strict=True):
            _check_shape(name, value, shape)
        return values


class Execution:
    """One batch on its way through a model in eval mode.

    A value is let go of after the last operation that reads it, so that memory does not grow with
    the depth of the model.

    Args:
        program: what is run.
        tensors: weights and buffers by name; of a tied one any name will do. They are looked up
            when they are used, so that they may change while the batch is on its way.
        inputs: the batch, on the device of the tensors.
        keep: nodes whose values are held, though they may have been passed when they are asked for:
            the ends of two layers may stand in the other order than the layers.

    Raises:
        InputError: inputs of other names, number or shapes than the model was traced with.
        TraceError: with that many examples the model does other operations than it was traced with.

    >>> import torch
    >>> from torch import nn
    >>> from conjoin.data_statistics import layers_of
    >>> from conjoin.symmetry.tracing import trace
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> program = Program(trace(net, torch.zeros(2, 2)))
    >>> x, hidden = torch.rand(5, 2), layers_of(program.trace)[1].source
    >>> torch.equal(Execution(program, net.state_dict(), x).value(hidden), net[:2](x))
    True
    """

    def __init__(
        self,
        program: Program,
        tensors: Mapping[str, Tensor],
        inputs: Inputs,
        *,
        keep: Iterable[Node] = (),
    ) -> None:
        self._place, self._tensors = program.place, tensors
        self._program = program.for_batch(inputs)
        self._keep = frozenset(map(self._own, keep))
        self._given = self._program.placeholders(inputs)
        self._values: dict[Node, Any] = {}
        self._at = 0

    def value(self, node: Node) -> Any:
        """Run up to a node and give its value; of the last node, a tuple of all outputs.

        Raises:
            InputError: the node has been passed, and nothing needs its value any more.
            MismatchError: a tensor of the model is missing.
        """
        self.advance(node)
        own = self._own(node)
        if own not in self._values:
            raise InputError(
                f"the value of {node.name!r} has been let go of; ask for values in the order of "
                "the graph, name it in keep=, or run the batch again"
            )
        return self._values[own]

    def _own(self, node: Node) -> Node:
        """Give the node of the program for this batch that is in the place of a node."""
        return self._program.nodes[self._place[node]]

    def advance(self, node: Node) -> None:
        """Run up to a node, and that one."""
        wanted = self._own(node)
        while self._at <= self._place[node]:
            here = self._program.nodes[self._at]
            self._values[here] = self._run(here)
            for dead in self._program.dead[self._at]:
                if dead is not wanted and dead not in self._keep:
                    self._values.pop(dead, None)
                    self._given.pop(dead.name, None)
            self._at += 1

    def _run(self, node: Node) -> Any:
        if node.op == "placeholder":
            if node.name in self._given:
                return self._given[node.name]
            name = self._program.trace.tensors.get(node.name)
            return None if name is None else _Late(name)
        if node.op == "get_attr":  # a graph within the graph
            return getattr(self._program.trace.program.graph_module, str(node.target))
        if node.op == "output":
            return map_arg(node.args[0], self._look_up)
        args = map_arg(node.args, self._look_up)
        kwargs = map_arg(node.kwargs, self._look_up)
        return node.target(*args, **kwargs)  # type: ignore[operator]  # a function, in what is exported

    def _look_up(self, node: Node) -> Any:
        value = self._values[node]
        if not isinstance(value, _Late):
            return value
        first = self._program.trace.names.get(value.name, value.name)
        for name in (value.name, first):
            if name in self._tensors:
                return self._tensors[name]
        raise MismatchError(
            f"there is no tensor {value.name!r} among the {len(self._tensors)} given; the model "
            "needs it to run"
        )


@dataclass(frozen=True)
class _Late:
    """A tensor that is looked up when it is used."""

    name: str


def _check_shape(name: str, value: Tensor, shape: Sequence[Any]) -> None:
    """Raise if a batch has another shape than the example, the number of examples aside."""
    expected = ["any", *map(int, shape[1:])]
    if value.dim() != len(shape) or list(value.shape[1:]) != expected[1:]:
        raise InputError(
            f"the input {name!r} of the model was traced with the shape {expected}; the batch has "
            f"{list(value.shape)}. Bring all batches to one shape (padding, say), or trace the "
            "model with an example of this one"
        )


def _have_same_operations(one: Program, other: Program) -> bool:
    """Whether two graphs are the same but for numbers: each node does the same with the same."""
    return len(one.nodes) == len(other.nodes) and all(
        (a.op, a.target) == (b.op, b.target)
        and [one.place[n] for n in a.all_input_nodes] == [other.place[n] for n in b.all_input_nodes]
        for a, b in zip(one.nodes, other.nodes, strict=True)
    )


def _other_operations(sizes: Sequence[int]) -> str:
    return (
        f"with a batch of {sizes[0]} the model does other operations than with the example that it "
        "was traced with, so that neither can stand for the other. Its forward must not go through "
        "the examples one by one (`for one in x`), nor decide by their number (`if len(x) > 1`); "
        "let every operation take the whole batch, as in `self.layer(x)`. If that is not possible, "
        "give all batches one size, and an example of that size where there is `example_inputs=`"
    )
