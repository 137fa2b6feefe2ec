"""OTFusion (Singh and Jaggi, NeurIPS 2020, arXiv:1910.05653), for networks of equal sizes.

Layer after layer, the units of one network are transported onto those of the other, with equal mass
on each; the weights that were brought into one order are averaged. Between equally many units of
equal mass an exact transport plan is a permutation, so that the assignment problem gives it. As in
the authors' code (sidak/otfusion), the ground metric is Euclidean (squared), between

    weights        incoming weights of units, those of earlier layers being in order already
    activations    outputs of the layers, before the nonlinearity, on 200 inputs

Left out: entropic plans, masses by importance, different sizes, and residual networks, for which
the authors average the plans of two branches. Biases and BatchNorm, which the authors' networks do
not have, move with the units; statistics are re-estimated afterwards. The outputs keep their order.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from peers.data import reset_batchnorm, shuffled
from peers.graph import graph_of, watching
from peers.permuting import assignment, mean_of, permuted

__all__ = ["otfusion"]


def otfusion(
    networks: Sequence[nn.Module],
    inputs: Sequence[Tensor],
    *,
    metric: Literal["weights", "activations"] = "activations",
    count: int = 200,
    seed: int = 0,
) -> nn.Module:
    """Merge two networks; see the module.

    Args:
        networks: two of one plain structure, in eval mode; not changed.
        inputs: of each task, [N, ...].
        metric: what units are compared by.
        count: inputs that activations are of.
        seed: of their choice.

    Raises:
        ValueError: a sum of two layers' outputs.
    """
    first, second = networks
    graph = graph_of(first)
    if len({layer.writes for layer in graph.layers}) < len(graph.layers):
        raise ValueError("OTFusion is written here for networks without residual connections")
    orders = [torch.arange(space.size) for space in graph.spaces]
    seen: list[dict[str, Tensor]] = []
    if metric == "activations":
        (some,) = shuffled(inputs, min(count, sum(map(len, inputs))), 1, seed)
        own = {space.nodes[0] for space in graph.spaces}
        seen = [watching(network, graph, own)(some) for network in networks]
    for layer in graph.layers:
        if layer.writes is None:
            continue
        if metric == "activations":
            node = graph.spaces[layer.writes].nodes[0]
            a, b = (found[node].double() for found in seen)
        else:
            modules = (
                first.get_submodule(layer.name),
                permuted(second, graph, orders).get_submodule(layer.name),
            )
            a, b = (module.weight.detach().double().flatten(1) for module in modules)
        orders[layer.writes] = assignment(-torch.cdist(a, b).square())
    return reset_batchnorm(mean_of([first, permuted(second, graph, orders)]), inputs)
