"""The layers of a traced model: where its weights meet activations, in the order of execution."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from operator import getitem
from typing import Any, Literal, TypeGuard

import torch
from torch import Tensor
from torch.fx import Node

from conjoin.symmetry.tracing import Trace

__all__ = ["BatchNorm", "Kind", "Layer", "layers_of"]

aten = torch.ops.aten

Kind = Literal["linear", "convolution", "scale"]
"""What a layer does with its weight."""


@dataclass(frozen=True)
class BatchNorm:
    """Names of the tensors of a BatchNorm in eval mode.

    Args:
        weight, bias: None if it is not affine.
        mean, variance: running statistics.
        eps: added to the variance.
    """

    weight: str | None
    bias: str | None
    mean: str
    variance: str
    eps: float


@dataclass(frozen=True, eq=False)
class Layer:
    """One place where a weight meets activations.

    Args:
        name: of the weight's module; of the tensor itself, if it is not called ``weight`` there.
        kind: ``linear``: ``x @ weight.T``; ``convolution``; ``scale``: ``x * weight`` along one
            axis, mostly the affine part of a normalization.
        weight: name of the tensor; None for a BatchNorm without one.
        bias: name of the tensor; None if there is none.
        node: of the graph, whose value is the layer's own output.
        end: the same after the BatchNorm; `node` without one.
        source: of the graph, whose value is the layer's input; of a normalization, what is to be
            normalized.
        axis: of the outputs in what the layer gives: 1 for convolutions and BatchNorm, else -1.
        transposed: whether a linear weight is [inputs, outputs], as GPT-2 has it.
        settings: of a convolution: stride, padding, dilation (one number for each dimension), and
            groups.
        norm: BatchNorm that reads what the layer gives, where nothing else does; or, for a scale,
            the BatchNorm that it is.
    """

    name: str
    kind: Kind
    weight: str | None
    bias: str | None
    node: Node
    end: Node
    source: Node
    axis: int = -1
    transposed: bool = False
    settings: Mapping[str, Any] | None = None
    norm: BatchNorm | None = None

    @property
    def groups(self) -> int:
        """Number of groups of a convolution; 1 for others."""
        return int(self.settings["groups"]) if self.settings else 1


def layers_of(trace: Trace) -> tuple[Layer, ...]:
    """Give the layers of a traced model in the order of execution.

    A weight or bias that several operations use is of no layer: one of them alone does not say what
    it should be. Nor are there layers for transposed convolutions, embeddings, recurrent networks,
    weights that the model computes with before they meet activations, and buffers: a mask, say, or
    a fixed filter, which nobody has trained. A BatchNorm that alone reads a linear layer or
    convolution belongs to it; any other is a layer of kind ``scale``.

    Args:
        trace: of `conjoin.symmetry.tracing.trace`.

    >>> from torch import nn
    >>> from conjoin.symmetry.tracing import trace
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    >>> for layer in layers_of(trace(net, torch.zeros(2, 3, 4, 4))):
    ...     print(layer.name, layer.kind, layer.norm.mean if layer.norm else None)
    0 convolution 1.running_mean
    3 linear None
    """
    uses = _uses_of(trace)
    found = [layer for node in trace.nodes if (layer := _layer(node, trace)) is not None]
    kept = [
        _without_shared_norm(layer, uses, trace)
        for layer in found
        if all(uses[_first_name(name, trace)] == 1 for name in _own_tensors(layer))
    ]
    joined = {layer.node for layer in kept if layer.kind != "scale" and layer.norm is not None}
    return tuple(layer for layer in kept if not (_is_batchnorm(layer) and layer.source in joined))


def _uses_of(trace: Trace) -> Counter[str]:
    """Count the operations that use each tensor of the state, under its first name."""
    uses: Counter[str] = Counter()
    for node in trace.nodes:
        read = {trace.tensors[arg.name] for arg in node.all_input_nodes if _is_tensor(arg, trace)}
        uses.update({_first_name(name, trace) for name in read})
    return uses


def _first_name(name: str, trace: Trace) -> str:
    return trace.names.get(name, name)


def _own_tensors(layer: Layer) -> list[str]:
    names = [layer.weight, layer.bias]
    if layer.norm is not None and layer.kind == "scale":
        names += [layer.norm.mean, layer.norm.variance]
    return [name for name in names if name is not None]


def _without_shared_norm(layer: Layer, uses: Mapping[str, int], trace: Trace) -> Layer:
    """Part a layer from a BatchNorm that is used in other places too."""
    if layer.norm is None or layer.kind == "scale":
        return layer
    norm = layer.norm
    names = [n for n in (norm.weight, norm.bias, norm.mean, norm.variance) if n is not None]
    if all(uses[_first_name(name, trace)] == 1 for name in names):
        return layer
    return replace(layer, norm=None, end=layer.node)


def _is_batchnorm(layer: Layer) -> bool:
    return layer.kind == "scale" and layer.norm is not None


def _layer(node: Node, trace: Trace) -> Layer | None:
    if node.op != "call_function":
        return None
    make = _MAKERS.get(node.target)
    return make(node, trace) if make else None


def _linear(node: Node, trace: Trace) -> Layer | None:
    source, weight, bias = (*node.args, None)[:3]
    return _made("linear", node, trace, source, weight, bias)


def _addmm(node: Node, trace: Trace) -> Layer | None:
    bias, source, weight = node.args[:3]
    if any(node.kwargs.get(name, 1) != 1 for name in ("alpha", "beta")):
        return None
    return _made("linear", node, trace, source, weight, bias, transposed=True)


def _matmul(node: Node, trace: Trace) -> Layer | None:
    source, weight = node.args[:2]
    return _made("linear", node, trace, source, weight, None, transposed=True)


def _convolution(node: Node, trace: Trace) -> Layer | None:
    source, weight, bias, stride, padding, dilation, transposed, _, groups = node.args
    if transposed or not isinstance(weight, Node):
        return None
    dims = _dims_of(weight) - 2
    settings: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    # One number stands for all dimensions (padding="valid" gives such).
    settings = {n: list(v) * (dims if len(v) == 1 else 1) for n, v in settings.items()}
    settings["groups"] = groups
    return _made("convolution", node, trace, source, weight, bias, axis=1, settings=settings)


def _batch_norm(node: Node, trace: Trace) -> Layer | None:
    source = node.args[0]
    end, norm = _first_output(node), _norm_of(node, trace)
    if norm is None or end is None or not _is_activation(source, trace):
        return None
    name = norm.mean.removesuffix(".running_mean")
    return Layer(name, "scale", norm.weight, norm.bias, end, end, source, 1, norm=norm)


def _layer_norm(node: Node, trace: Trace) -> Layer | None:
    source, shape, weight, bias = node.args[:4]
    end = _first_output(node)
    if not isinstance(shape, list | tuple) or len(shape) != 1 or end is None:
        return None
    return _made("scale", node, trace, source, weight, bias, end=end)


def _mul(node: Node, trace: Trace) -> Layer | None:
    one, two = node.args[:2]
    source, weight = (two, one) if _is_tensor(one, trace) else (one, two)
    if not _is_parameter(weight, trace) or not _is_activation(source, trace):
        return None
    scale, value = _value_of(weight), _value_of(source)
    if scale is None or value is None or scale.dim() != 1 or value.dim() < 2:
        return None
    fits = value.shape[-1] == len(scale)  # what is stretched is scaled by no channel of its own
    return _made("scale", node, trace, source, weight, None) if fits else None


def _made(
    kind: Kind,
    node: Node,
    trace: Trace,
    source: Any,
    weight: Any,
    bias: Any,
    *,
    end: Node | None = None,
    axis: int = -1,
    transposed: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Layer | None:
    """Give a layer, if its weight and bias are parameters, and its source is no tensor of these."""
    if not _is_parameter(weight, trace) or not _is_activation(source, trace):
        return None
    if bias is not None and (not _is_parameter(bias, trace) or _dims_of(bias) != 1):
        return None
    if kind == "linear" and (_dims_of(weight) != 2 or _dims_of(source) < 2):
        return None  # `x @ weight` is also a product with a stack of matrices
    name, last = trace.tensors[weight.name], end or node
    norm, after = (None, None) if kind == "scale" else _only_norm(node, trace)
    return Layer(
        name.removesuffix(".weight"),
        kind,
        name,
        None if bias is None else trace.tensors[bias.name],
        last,
        after or last,
        source,
        axis,
        transposed,
        settings,
        norm,
    )


def _only_norm(node: Node, trace: Trace) -> tuple[BatchNorm, Node] | tuple[None, None]:
    """Give the BatchNorm that alone reads a node, if its channels are the node's outputs."""
    users = list(node.users)
    if len(users) != 1 or users[0].target not in _BATCH_NORMS or users[0].args[0] is not node:
        return None, None
    if node.target is not aten.convolution.default and _dims_of(node) != 2:
        return None, None  # axis 1 is that of the outputs in [batch, outputs] only
    norm, end = _norm_of(users[0], trace), _first_output(users[0])
    return (None, None) if norm is None or end is None else (norm, end)


def _norm_of(node: Node, trace: Trace) -> BatchNorm | None:
    _, weight, bias, mean, variance, _, eps = node.args
    affine = [arg for arg in (weight, bias) if arg is not None]
    if not all(_is_tensor(arg, trace) for arg in (mean, variance)):
        return None
    if not all(_is_parameter(arg, trace) for arg in affine):
        return None
    names = [
        trace.tensors[arg.name] if isinstance(arg, Node) else None
        for arg in (weight, bias, mean, variance)
    ]
    return BatchNorm(names[0], names[1], str(names[2]), str(names[3]), float(str(eps)))


def _first_output(node: Node) -> Node | None:
    """Give the first of several outputs; None if another one is used."""
    users = list(node.users)
    if len(users) == 1 and users[0].target is getitem and users[0].args[1] == 0:
        return users[0]
    return None


def _is_tensor(node: Any, trace: Trace) -> TypeGuard[Node]:
    return isinstance(node, Node) and node.op == "placeholder" and node.name in trace.tensors


def _is_parameter(node: Any, trace: Trace) -> TypeGuard[Node]:
    parameters = trace.program.graph_signature.inputs_to_parameters
    return _is_tensor(node, trace) and node.name in parameters


def _is_activation(node: Any, trace: Trace) -> TypeGuard[Node]:
    return isinstance(node, Node) and not _is_tensor(node, trace)


def _value_of(node: Node) -> Tensor | None:
    """Give the tensor without data that tracing has left of a node's value."""
    value = node.meta.get("val")
    return value if isinstance(value, Tensor) else None


def _dims_of(node: Node) -> int:
    value = _value_of(node)
    return -1 if value is None else value.dim()


_BATCH_NORMS = (aten._native_batch_norm_legit_no_training.default,)

_MAKERS: dict[Any, Callable[[Node, Trace], Layer | None]] = {
    aten.linear.default: _linear,
    aten.addmm.default: _addmm,
    aten.mm.default: _matmul,
    aten.matmul.default: _matmul,
    aten.convolution.default: _convolution,
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten.mul.Tensor: _mul,
}
