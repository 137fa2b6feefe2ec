"""What there is to repair in a traced network: which layers, in which order, and why not others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx import Node

from conjoin.data_statistics.layers import Layer, layers_of
from conjoin.symmetry.tracing import Trace

__all__ = ["Planned", "channels_of", "plan_of"]

aten = torch.ops.aten

_WITH_WEIGHTS: dict[Any, tuple[int, int]] = {
    aten.linear.default: (1, 2),
    aten.addmm.default: (2, 0),
    aten.convolution.default: (1, 2),
}
"""Operation -> which of its arguments are weight and bias."""


@dataclass(frozen=True, eq=False)
class Planned:
    """A layer, and what can be done with it.

    Args:
        layer: of the trace.
        kind: ``weights`` can be rescaled (and shifted, if there is a bias); ``batchnorm`` has
            statistics to re-estimate.
        bias: name of a bias that only this layer has; None if its means cannot be moved.
        note: why there is none.
    """

    layer: Layer
    kind: Literal["weights", "batchnorm"]
    bias: str | None = None
    note: str = ""


def plan_of(
    trace: Trace, tensors: Mapping[str, Tensor]
) -> tuple[tuple[Planned, ...], dict[str, str]]:
    """Give what can be repaired, in the order of execution, and what cannot: name -> why.

    Args:
        trace: of the network.
        tensors: its weights and buffers.
    """
    uses = _uses(trace)
    planned = []
    left: dict[str, str] = {}
    for layer in layers_of(trace):
        if layer.norm is not None:
            planned.append(Planned(layer, "batchnorm"))
        elif layer.kind != "scale" and layer.weight is not None:
            shape = tensors[layer.weight].shape
            if layer.kind == "linear" and len(shape) != 2:
                left[layer.name] = f"its weight has {len(shape)} dimensions, not 2"
                continue
            planned.append(_planned(layer, tensors))
    reached = {part.layer.weight for part in planned}
    for node in trace.nodes:
        places = _WITH_WEIGHTS.get(node.target) if node.op == "call_function" else None
        if places is None:
            continue
        weight, bias = (_tensor_of(node, place, trace) for place in places)
        if weight is None or weight not in reached:
            left.setdefault(*_why_left(weight, bias, node, trace, uses))
    return tuple(planned), left


def channels_of(layer: Layer, tensors: Mapping[str, Tensor]) -> int:
    """Give how many channels a layer gives."""
    if layer.weight is None:
        assert layer.norm is not None
        return len(tensors[layer.norm.mean])
    weight = tensors[layer.weight]
    return weight.shape[1] if layer.transposed else weight.shape[0]


def _planned(layer: Layer, tensors: Mapping[str, Tensor]) -> Planned:
    if layer.bias is None:
        return Planned(layer, "weights", note="no bias: its means stay")
    if tensors[layer.bias].shape != (channels_of(layer, tensors),):
        return Planned(layer, "weights", note="its bias is not one per channel: its means stay")
    return Planned(layer, "weights", layer.bias)


def _tensor_of(node: Node, place: int, trace: Trace) -> str | None:
    """Name the parameter or buffer that an operation takes; None if it takes something else."""
    argument = node.args[place] if place < len(node.args) else None
    return trace.tensors.get(argument.name) if isinstance(argument, Node) else None


def _uses(trace: Trace) -> dict[str, int]:
    """Count the operations that use a tensor, by the first of its names."""
    uses: dict[str, int] = {}
    for node in trace.nodes:
        if node.op == "call_function":
            for name in {trace.tensors.get(argument.name) for argument in node.all_input_nodes}:
                if name is not None:
                    first = trace.names.get(name, name)
                    uses[first] = uses.get(first, 0) + 1
    return uses


def _why_left(
    weight: str | None, bias: str | None, node: Node, trace: Trace, uses: Mapping[str, int]
) -> tuple[str, str]:
    if weight is None:
        stack: Sequence[Any] = list((node.meta.get("nn_module_stack") or {}).values())
        place = str(stack[-1][0]) if stack else node.name
        return place, "its weight is computed, so that nothing can be folded into it"
    name = weight.removesuffix(".weight")
    if uses[trace.names.get(weight, weight)] > 1:
        return name, "used more than once: one correction cannot be right for all of its uses"
    if bias is not None and uses[trace.names.get(bias, bias)] > 1:
        return name, "its bias is used elsewhere too"
    return name, "of a kind that is not repaired"
