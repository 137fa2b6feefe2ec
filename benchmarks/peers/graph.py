"""Which layers write and read which units: what the papers write by hand for each architecture.

A *space* is a set of units that has one order everywhere: the outputs of one layer, or all that
is added to the residual stream of one stage of a ResNet.

    Conv2d, Linear                        read one space and write another
    BatchNorm                             belongs to a space
    ReLU, pooling, dropout, flattening    stay in a space
    a sum                                 makes two spaces one
"""

import operator
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

__all__ = ["Graph", "Layer", "Space", "graph_of", "layer_inputs", "watching"]

_LAYERS = (nn.Conv2d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_RELUS = (nn.ReLU, F.relu, torch.relu, "relu", "relu_")
_SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
_KEEPING = (
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Dropout, nn.Flatten, nn.Identity),
    *(F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.dropout, torch.flatten, "flatten"),
)


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer; spaces are positions in `Graph.spaces`.

    Args:
        name: of the module.
        reads: space of its inputs; None for the network's own inputs.
        writes: space of its outputs; None for the network's own outputs.
    """

    name: str
    reads: int | None
    writes: int | None


@dataclass(frozen=True)
class Space:
    """Units that have one order.

    Args:
        size: number of units.
        nodes: where they can be seen, in the order of computation.
        features: the node of `nodes` that stands for them: the last ReLU, or else the last node.
    """

    size: int
    nodes: tuple[str, ...]
    features: str


@dataclass(frozen=True)
class Graph:
    """The layers in the order of computation, the spaces in the order of their features.

    `norms` says to which space each BatchNorm belongs (None: the network's outputs).
    """

    layers: tuple[Layer, ...]
    norms: dict[str, int | None]
    spaces: tuple[Space, ...]


def graph_of(network: nn.Module) -> Graph:
    """Trace a network.

    Raises:
        ValueError: it does something that is not in the list above.
    """
    traced = fx.symbolic_trace(network)
    parents: list[int] = []  # of each space that was begun; two that are summed become one

    def root(space: int | None) -> int | None:
        while space is not None and parents[space] != space:
            space = parents[space]
        return space

    where: dict[fx.Node, int | None] = {}
    sizes: list[int] = []
    layers: list[tuple[str, int | None, int]] = []
    norms: dict[str, int | None] = {}
    outputs: int | None = None
    for node in traced.graph.nodes:
        sources = [where[argument] for argument in node.all_input_nodes]
        part = _part_of(traced, node)
        if node.op == "placeholder":
            where[node] = None
        elif node.op == "output":
            (outputs,) = (root(source) for source in sources)
        elif isinstance(part, _LAYERS) and getattr(part, "groups", 1) == 1:
            where[node] = len(parents)
            layers.append((str(node.target), sources[0], len(parents)))
            parents.append(len(parents))
            sizes.append(len(part.weight))
        elif _is(part, _SUMS) and len(sources) == 2 and None not in sources:
            first, second = (root(source) for source in sources)
            assert first is not None
            assert second is not None
            parents[max(first, second)] = where[node] = min(first, second)
        elif isinstance(part, _NORMS) or _is(part, _RELUS) or _is(part, _KEEPING):
            where[node] = sources[0]
            if isinstance(part, _NORMS):
                norms[str(node.target)] = sources[0]
        else:
            raise ValueError(f"{node.format_node()} is not among what the peers know of")
    found: dict[int, list[fx.Node]] = {}
    for node, space in where.items():
        if space is not None and root(space) != outputs:
            found.setdefault(root(space), []).append(node)  # type: ignore[arg-type]
    order = {node: number for number, node in enumerate(traced.graph.nodes)}
    seen = {space: _features(traced, nodes) for space, nodes in found.items()}
    ordered = sorted(found, key=lambda space: order[seen[space]])
    number: dict[int | None, int] = {space: number for number, space in enumerate(ordered)}
    return Graph(
        tuple(Layer(name, number.get(root(a)), number.get(root(b))) for name, a, b in layers),
        {name: number.get(root(space)) for name, space in norms.items()},
        tuple(
            Space(sizes[space], tuple(node.name for node in found[space]), seen[space].name)
            for space in ordered
        ),
    )


def watching(
    network: nn.Module, graph: Graph, names: Collection[str]
) -> Callable[[Tensor], dict[str, Tensor]]:
    """Give what runs a network and gives the values of nodes, each [units, the rest]."""
    sizes = {name: space.size for space in graph.spaces for name in space.nodes if name in names}

    class Watcher(fx.Interpreter):
        def run_node(self, node: fx.Node) -> Any:
            value = super().run_node(node)
            if node.name in sizes:
                # Copied, since a ReLU in place may follow: reshape alone may give a view.
                units = value.movedim(1, 0).reshape(sizes[node.name], -1)
                self.found[node.name] = units.clone()
            return value

    watcher = Watcher(fx.symbolic_trace(network))

    def run(x: Tensor) -> dict[str, Tensor]:
        watcher.found = {}
        with torch.no_grad():
            watcher.run(x)
        return watcher.found

    return run


def layer_inputs(network: nn.Module, graph: Graph, x: Tensor) -> dict[str, Tensor]:
    """Run a network and give the inputs of all its layers."""
    found: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: found.update({name: inputs[0]})

    handles = [
        network.get_submodule(layer.name).register_forward_pre_hook(hook(layer.name))
        for layer in graph.layers
    ]
    try:
        with torch.no_grad():
            network(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _part_of(traced: fx.GraphModule, node: fx.Node) -> Any:
    """Give the module, function or method name that a node calls."""
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else node.target


def _is(part: Any, known: tuple[Any, ...]) -> bool:
    return part in known or type(part) in known


def _features(traced: fx.GraphModule, nodes: list[fx.Node]) -> fx.Node:
    relus: Iterator[fx.Node] = (n for n in reversed(nodes) if _is(_part_of(traced, n), _RELUS))
    return next(relus, nodes[-1])
