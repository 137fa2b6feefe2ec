"""PLeaS (Nasery, Hayase, Koh, Oh, 2024, arXiv:2407.02447).

The second network is permuted to match the first, both are averaged, and then every layer is fitted
by itself: on the mean of both networks' inputs of that layer, it is to give the mean of their
outputs,

    min_W  |W (z_1 + P z_2) / 2 - (W_1 z_1 + P' W_2 z_2) / 2|^2

over the inputs of all tasks, which both networks see. As in the authors' code (SewoongLab/
PLeaS-Merging, the shared label space): Adam at 5e-4 with a cosine to 0 for 400 steps, batches of 16
from all tasks in random order, weights and biases of every convolution and linear layer, the last
one included, and then statistics of BatchNorm re-estimated.

Left out: partial merging (a budget above 1, where units that match badly stay apart) and separate
classifiers. The re-estimated statistics are means over all inputs; the authors' are exponential
averages over 101 batches of 16.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from peers.data import reset_batchnorm, shuffled
from peers.graph import graph_of, layer_inputs
from peers.permuting import match_activations, match_weights, mean_of, permuted

__all__ = ["pleas"]


def pleas(
    networks: Sequence[nn.Module],
    inputs: Sequence[Tensor],
    *,
    matching: Literal["activations", "weights"] = "activations",
    steps: int = 400,
    batch_size: int = 16,
    learning_rate: float = 5e-4,
    seed: int = 0,
) -> nn.Module:
    """Merge two networks; see the module.

    Args:
        networks: two of one structure, in eval mode; not changed.
        inputs: of each task, [N, ...].
        matching: how permutations are found; activations are of 100 batches.
        steps: of Adam.
        batch_size: of the matching and the steps.
        learning_rate: of the first step.
        seed: of the order of the inputs and of the spaces.
    """
    first, second = networks
    graph = graph_of(first)
    if matching == "activations":
        batches = shuffled(inputs, batch_size, 100, seed)
        orders = match_activations(first, second, graph, batches)
    else:
        orders = match_weights(first, second, graph, seed=seed)
    parents = [first, permuted(second, graph, orders)]
    result = mean_of(parents)
    for parameter in result.parameters():
        parameter.requires_grad_(True)
    layers = {layer.name: result.get_submodule(layer.name) for layer in graph.layers}
    fitted = [parameter for layer in layers.values() for parameter in layer.parameters()]
    optimizer = torch.optim.Adam(fitted, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for batch in shuffled(inputs, batch_size, steps, seed + 1):
        seen = [layer_inputs(parent, graph, batch) for parent in parents]
        optimizer.zero_grad()
        # The layers share no parameter: this is one problem for each.
        for name, layer in layers.items():
            with torch.no_grad():
                x = (seen[0][name] + seen[1][name]) / 2
                outputs = [
                    parent.get_submodule(name)(found[name])
                    for parent, found in zip(parents, seen, strict=True)
                ]
                target = (outputs[0] + outputs[1]) / 2
            (layer(x) - target).square().mean().backward()
        optimizer.step()
        schedule.step()
    for parameter, own in zip(result.parameters(), first.parameters(), strict=True):
        parameter.requires_grad_(own.requires_grad)
        parameter.grad = None
    return reset_batchnorm(result, inputs)
