"""ZipIt! (Stoica, Bolya, Bjorner, Ramesh, Hearn, Hoffman, ICLR 2024, arXiv:2305.03053).

Units of both networks, 2n for each space, are zipped into n: the two most correlated are merged
again and again, be they of one network or of two. With M [n, 2n] and U [2n, n] (0 or 1: which unit
goes into which; M is U^T with rows that sum to 1),

    W = sum over networks i of M_i W_i U_i'      U' of the space that the layer reads

and statistics of BatchNorm are re-estimated on the inputs of all tasks. As in the authors' code
(gstoica27/ZipIt): features behind the last ReLU of a space, one space for the residual stream of a
stage of a ResNet, correlations over all positions and the inputs of all tasks together, the
parents' statistics re-estimated on these first, and the heads averaged.

Left out: more than two networks, other matchings, merging that starts behind the first layers. Two
small things are as in the paper and not as in the code: a budget beta of 0 allows no merge within a
network (the code lets one through), and rows of M sum to 1 exactly.
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from peers.data import mixed, reset_batchnorm
from peers.graph import Graph, graph_of, watching

__all__ = ["zip_units", "zipit", "zipit_heads"]


def zipit(
    networks: Sequence[nn.Module],
    inputs: Sequence[Tensor],
    *,
    alpha: float = 0.3,
    beta: float = 0.125,
) -> nn.Module:
    """Merge all layers; see the module.

    Args:
        networks: two of one structure; not changed.
        inputs: of each task, [N, ...].
        alpha: factor on the correlations of what was merged already, above 0, at most 1.
        beta: share of the merges that may be within one network, 0 to 1.
    """
    parents, graph, zips = _prepared(networks, inputs, alpha, beta)
    result = copy.deepcopy(parents[0])
    for name in [*(layer.name for layer in graph.layers), *graph.norms]:
        _load(result.get_submodule(name), _zipped(parents, graph, zips, name))
    return reset_batchnorm(result, inputs)


def zipit_heads(
    networks: Sequence[nn.Module],
    inputs: Sequence[Tensor],
    *,
    until: str,
    alpha: float = 0.3,
    beta: float = 0.125,
) -> list[nn.Module]:
    """Merge the layers up to `until` ("partial zipping"); the others stay, one head per task.

    Returns:
        A network for each task. The merged layers are the same modules in both.

    Raises:
        ValueError: `until` is no layer in the trunk, or lies within a residual block.
    """
    parents, graph, zips = _prepared(networks, inputs, alpha, beta)
    last = {layer.name: layer.writes for layer in graph.layers}.get(until)
    if last is None:
        known = ", ".join(layer.name for layer in graph.layers if layer.writes is not None)
        raise ValueError(f"until must be one of {known}; got {until!r}")
    inside = [layer for layer in graph.layers if layer.writes is not None and layer.writes <= last]
    names = {layer.name for layer in inside}
    for layer in inside:
        if layer.reads is not None and layer.reads > last:
            raise ValueError(f"{layer.name} reads what is not merged yet: choose another layer")
    names |= {name for name, space in graph.norms.items() if space is not None and space <= last}
    shared = {name: copy.deepcopy(parents[0].get_submodule(name)) for name in names}
    for name, module in shared.items():
        _load(module, _zipped(parents, graph, zips, name))
    heads = [copy.deepcopy(parent) for parent in parents]
    for number, head in enumerate(heads):
        for layer in graph.layers:
            if layer.name not in names and layer.reads is not None and layer.reads <= last:
                module = head.get_submodule(layer.name)
                unmerge = zips[layer.reads][1][number]
                _load(module, {"weight": _reading(module.weight, unmerge)})
        for name, module in shared.items():
            head.set_submodule(name, module)
    for head in heads:  # as in the authors' code, on the inputs of all tasks
        reset_batchnorm(head, inputs)
    return heads


Zip = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
"""M_i [n, n] and U_i [n, n] of each network."""


def zip_units(correlation: Tensor, alpha: float, beta: float) -> Zip:
    """Match greedily ("zip" of the paper, with its alpha and beta).

    The pair with the largest correlation is merged. A merged unit's correlation with any other is
    the smaller of the two, times `alpha`. When ``beta n / 2`` merges were within one network, there
    are no more of that network.

    Args:
        correlation: [2n, 2n], of the units of both networks; symmetric.
        alpha: above 0, at most 1.
        beta: 0 to 1.
    """
    if not 0 < alpha <= 1 or not 0 <= beta <= 1:
        raise ValueError(f"alpha must be in (0, 1], beta in [0, 1]; got {alpha} and {beta}")
    c = correlation.double().numpy().copy()
    n = len(c) // 2
    np.fill_diagonal(c, -np.inf)
    into = np.eye(2 * n)  # column: a zipped unit
    alive = np.ones(2 * n, dtype=bool)
    first = np.arange(2 * n) < n  # whether a unit (the earliest of a zipped one) is of network 1
    budget = {True: int(n // 2 * beta + 1e-4), False: int(n // 2 * beta + 1e-4)}
    for origin, left in budget.items():
        if left == 0:
            c[np.ix_(first == origin, first == origin)] = -np.inf
    best = c.argmax(1)  # best partner of each unit: a step is O(n), and not O(n^2)
    for _ in range(n):
        values = np.where(alive, c[np.arange(2 * n), best], -np.inf)
        keep = int(values.argmax())
        keep, drop = sorted((keep, int(best[keep])))
        into[:, keep] += into[:, drop]
        alive[drop] = False
        c[keep] = np.minimum(c[keep], c[drop]) * alpha
        c[drop] = -np.inf
        c[:, keep], c[:, drop] = c[keep], -np.inf
        stale = alive & ((best == keep) | (best == drop))
        stale[keep] = True
        if first[keep] == first[drop]:
            origin = bool(first[keep])
            budget[origin] -= 1
            if budget[origin] == 0:
                c[np.ix_(first == origin, first == origin)] = -np.inf
                stale |= alive & (first == origin)
        best[stale] = c[stale].argmax(1)
        # A negative correlation times alpha is larger than before.
        better = alive & (c[:, keep] > c[np.arange(2 * n), best])
        best[better] = keep
    unmerge = torch.from_numpy(into[:, alive])
    merge = (unmerge / unmerge.sum(0)).T
    return merge.chunk(2, dim=1), unmerge.chunk(2, dim=0)


def _prepared(
    networks: Sequence[nn.Module], inputs: Sequence[Tensor], alpha: float, beta: float
) -> tuple[list[nn.Module], Graph, list[Zip]]:
    graph = graph_of(networks[0])
    parents = [reset_batchnorm(copy.deepcopy(network), inputs) for network in networks]
    zips = [zip_units(c, alpha, beta) for c in _correlations(parents, graph, inputs)]
    return parents, graph, zips


def _correlations(
    networks: Sequence[nn.Module], graph: Graph, inputs: Sequence[Tensor]
) -> list[Tensor]:
    """Give the correlations [2n, 2n] of the units of each space, over examples and positions."""
    names = [space.features for space in graph.spaces]
    products = [torch.zeros(2 * s.size, 2 * s.size, dtype=torch.float64) for s in graph.spaces]
    sums = [torch.zeros(2 * space.size, dtype=torch.float64) for space in graph.spaces]
    counts = [0] * len(names)
    watchers = [watching(network, graph, names) for network in networks]
    for batch in mixed(inputs):
        found = [watcher(batch) for watcher in watchers]
        for k, name in enumerate(names):
            features = torch.cat([one[name] for one in found])  # [2n, examples and positions]
            products[k] += (features @ features.T).double()
            sums[k] += features.double().sum(1)
            counts[k] += features.shape[1]
    result = []
    for product, total, count in zip(products, sums, counts, strict=True):
        covariance = product / count - torch.outer(total, total) / count**2
        deviation = covariance.diagonal().clamp(min=0).sqrt()
        result.append(covariance / torch.outer(deviation, deviation).clamp(min=1e-7))
    return result


def _zipped(
    networks: Sequence[nn.Module], graph: Graph, zips: Sequence[Zip], name: str
) -> dict[str, Tensor]:
    """Give the zipped tensors of a layer or a BatchNorm."""
    layer = {layer.name: layer for layer in graph.layers}.get(name)
    writes = graph.norms[name] if layer is None else layer.writes
    totals: dict[str, Tensor] = {}
    for number, network in enumerate(networks):
        for key, tensor in network.get_submodule(name).state_dict().items():
            if not tensor.is_floating_point():
                continue
            if key == "weight" and layer is not None and layer.reads is not None:
                tensor = _reading(tensor, zips[layer.reads][1][number])
            if writes is None:
                part = tensor.double() / len(networks)
            else:
                part = torch.tensordot(zips[writes][0][number], tensor.double(), dims=1)
            totals[key] = totals[key] + part if key in totals else part
    return totals


def _reading(weight: Tensor, unmerge: Tensor) -> Tensor:
    """Give W U: [out, n, ...] or, behind a flattening, [out, n * positions]."""
    units = weight.double().reshape(len(weight), len(unmerge), -1)
    read = torch.einsum("onp,nm->omp", units, unmerge)
    return read.reshape(len(weight), -1, *weight.shape[2:])


def _load(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    module.load_state_dict({**module.state_dict(), **tensors})
