"""Permutations of the units of one network that bring it close to another.

As in PLeaS' code (SewoongLab/PLeaS-Merging), which has them of Git Re-Basin (Ainsworth et al., ICLR
2023): by activations, one assignment problem for each space; or by weights, coordinate descent.
A permutation p says that unit ``p[j]`` of the network takes place j.
"""

import copy
from collections.abc import Iterable, Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from peers.graph import Graph, watching

__all__ = ["assignment", "match_activations", "match_weights", "mean_of", "permuted"]


def assignment(similarity: Tensor) -> Tensor:
    """Give p with the largest sum of ``similarity[j, p[j]]``."""
    return torch.from_numpy(linear_sum_assignment(similarity.double().numpy(), maximize=True)[1])


def match_activations(
    reference: nn.Module, network: nn.Module, graph: Graph, batches: Iterable[Tensor]
) -> list[Tensor]:
    """Find p for each space: least sum of distances between units.

    The distance is Euclidean within a batch, and summed over batches and over all places where the
    units can be seen (before and behind BatchNorm, ReLU, pooling...), as in PLeaS' code.
    """
    names = {name for space in graph.spaces for name in space.nodes}
    watchers = [watching(model, graph, names) for model in (reference, network)]
    scores = [torch.zeros(space.size, space.size, dtype=torch.float64) for space in graph.spaces]
    for batch in batches:
        a, b = (watcher(batch) for watcher in watchers)
        for score, space in zip(scores, graph.spaces, strict=True):
            for name in space.nodes:
                score -= torch.cdist(a[name], b[name])
    return [assignment(score) for score in scores]


def match_weights(
    reference: nn.Module, network: nn.Module, graph: Graph, *, sweeps: int = 100, seed: int = 0
) -> list[Tensor]:
    """Find p for each space: largest inner product of all weights, space after space.

    Spaces come in random order, from the identity, until a sweep changes nothing. Running
    statistics do not count.
    """
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.arange(space.size) for space in graph.spaces]
    for _ in range(sweeps):
        progress = False
        for space in torch.randperm(len(orders), generator=generator).tolist():
            trial = [*orders]
            trial[space] = torch.arange(len(orders[space]))
            score = _inner_products(reference, permuted(network, graph, trial), graph, space)
            found, old = assignment(score), orders[space]
            units = torch.arange(len(old))
            if score[units, found].sum() > score[units, old].sum() + 1e-12:
                orders[space], progress = found, True
        if not progress:
            break
    return orders


def permuted(network: nn.Module, graph: Graph, orders: Sequence[Tensor]) -> nn.Module:
    """Give a copy of a network with its units in another order; it computes the same."""
    result = copy.deepcopy(network)
    with torch.no_grad():
        for layer in graph.layers:
            module = result.get_submodule(layer.name)
            if layer.writes is not None:
                _reorder(module, orders[layer.writes])
            if layer.reads is not None:
                order = orders[layer.reads]
                weight = module.weight.reshape(len(module.weight), len(order), -1)
                module.weight.copy_(weight[:, order].reshape(module.weight.shape))
        for name, space in graph.norms.items():
            if space is not None:
                _reorder(result.get_submodule(name), orders[space])
    return result


def mean_of(networks: Sequence[nn.Module]) -> nn.Module:
    """Give a copy of the first whose parameters and statistics are means of all."""
    result = copy.deepcopy(networks[0])
    states = [network.state_dict() for network in networks]
    mean = {
        name: sum(state[name] for state in states) / len(states)
        for name, tensor in states[0].items()
        if tensor.is_floating_point()
    }
    result.load_state_dict({**states[0], **mean})
    return result


def _reorder(module: nn.Module, order: Tensor) -> None:
    for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
        if tensor.ndim:  # the counter of batches has no units
            tensor.copy_(tensor[order])


def _inner_products(a: nn.Module, b: nn.Module, graph: Graph, space: int) -> Tensor:
    """Give what every pair of units [a, b] of a space would add to the inner product."""
    size = graph.spaces[space].size
    score = torch.zeros(size, size, dtype=torch.float64)
    for layer in graph.layers:
        x, y = (model.get_submodule(layer.name) for model in (a, b))
        if layer.writes == space:
            score += _products([x.weight, x.bias], [y.weight, y.bias], size)
        if layer.reads == space:
            p, q = (m.weight.reshape(len(m.weight), size, -1).movedim(1, 0) for m in (x, y))
            score += _products([p], [q], size)
    for name, owner in graph.norms.items():
        if owner == space:
            x, y = (model.get_submodule(name) for model in (a, b))
            score += _products([x.weight, x.bias], [y.weight, y.bias], size)
    return score


def _products(a: Sequence[Tensor | None], b: Sequence[Tensor | None], size: int) -> Tensor:
    p, q = (
        torch.cat([t.detach().double().reshape(size, -1) for t in side if t is not None], 1)
        for side in (a, b)
    )
    return p @ q.T
