"""Running a traced model step by step: to the input of a layer, stop, and go on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import SymInt, Tensor
from torch.export.graph_signature import InputKind
from torch.fx import Node
from torch.fx.node import map_arg

from conjoin.batches import Inputs
from conjoin.errors import InputError, MismatchError
from conjoin.symmetry.tracing import Trace

__all__ = ["Execution", "Program"]


class Program:
    """A traced model without its weights: any tensors of the same names can be put in.

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

    def placeholders(self, inputs: Inputs) -> dict[str, Any]:
        """Give the values of all placeholders that are no weights or buffers of the state.

        Raises:
            InputError: other inputs than the model was traced with: their number, their names, or
                their shapes, the number of examples aside.
        """
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
        return {**self._constants, **dict(zip(self.inputs, values, strict=True))}


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
        self._program, self._tensors, self._keep = program, tensors, frozenset(keep)
        self._given = program.placeholders(inputs)
        self._values: dict[Node, Any] = {}
        self._at = 0

    def value(self, node: Node) -> Any:
        """Run up to a node and give its value; of the last node, a tuple of all outputs.

        Raises:
            InputError: the node has been passed, and nothing needs its value any more.
            MismatchError: a tensor of the model is missing.
        """
        self.advance(node)
        if node not in self._values:
            raise InputError(
                f"the value of {node.name!r} has been let go of; ask for values in the order of "
                "the graph, name it in keep=, or run the batch again"
            )
        return self._values[node]

    def advance(self, node: Node) -> None:
        """Run up to a node, and that one."""
        while self._at <= self._program.place[node]:
            here = self._program.nodes[self._at]
            self._values[here] = self._run(here)
            for dead in self._program.dead[self._at]:
                if dead is not node and dead not in self._keep:
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


def _check_shape(name: str, value: Tensor, shape: Sequence[int | SymInt]) -> None:
    """Raise if a batch has another shape than the example; a size that may vary is a SymInt."""
    same = value.dim() == len(shape) and all(
        isinstance(size, SymInt) or found == size
        for found, size in zip(value.shape, shape, strict=True)
    )
    if not same:
        expected = ["any" if isinstance(size, SymInt) else size for size in shape]
        raise InputError(
            f"the input {name!r} of the model was traced with the shape {expected}; the batch has "
            f"{list(value.shape)}. Bring all batches to one shape (padding, say), or trace the "
            "model with an example of this one"
        )
