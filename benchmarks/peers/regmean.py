"""RegMean (Jin, Ren, Preotiuc-Pietro, Cheng, ICLR 2023, arXiv:2212.09849), for reference.

    W = (sum_i W_i G_i) (sum_i G_i)^-1      G_i = X_i^T X_i

with X_i the inputs that layer has in network i on the inputs of task i. As in the authors' code
(bloomberg/dataless-model-merging): elements of G_i off the diagonal are scaled by a ratio (.9 and
.1 there), biases and everything else are averaged. Convolutions are linear layers of their patches.
The linear algebra is NumPy's, in float64. For networks with BatchNorm, which the paper has none of,
statistics are re-estimated afterwards; and the second network may be permuted first.

Left out: weights per model, layers that are named to be skipped.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peers.data import mixed, reset_batchnorm, shuffled
from peers.graph import Graph, graph_of, layer_inputs
from peers.permuting import match_activations, mean_of, permuted

__all__ = ["regmean"]


def regmean(
    networks: Sequence[nn.Module],
    inputs: Sequence[Tensor],
    *,
    ratio: float = 0.9,
    aligned: bool = False,
    seed: int = 0,
) -> nn.Module:
    """Merge two networks; see the module.

    Args:
        networks: two of one structure, in eval mode; not changed.
        inputs: of each task, [N, ...].
        ratio: factor on what is off the diagonal, 0 to 1.
        aligned: whether to permute the second first, by activations as PLeaS does.
        seed: of the inputs that the permutations are found on.
    """
    graph = graph_of(networks[0])
    parents = list(networks)
    if aligned:
        batches = shuffled(inputs, 16, 100, seed)
        orders = match_activations(parents[0], parents[1], graph, batches)
        parents[1] = permuted(parents[1], graph, orders)
    grams = [_grams(parent, graph, x) for parent, x in zip(parents, inputs, strict=True)]
    result = mean_of(parents)
    for layer in graph.layers:
        left, right = 0.0, 0.0
        for parent, gram in zip(parents, grams, strict=True):
            weight = parent.get_submodule(layer.name).weight.detach().double().flatten(1).numpy()
            g = gram[layer.name]
            g = ratio * g + (1 - ratio) * np.diag(np.diag(g))
            left, right = left + g, right + g @ weight.T
        # An input that is always 0 (a dead unit) has no equation; pinv then gives 0 for it.
        solution = np.linalg.pinv(left, hermitian=True) @ right
        own = result.get_submodule(layer.name).weight
        with torch.no_grad():
            own.copy_(torch.from_numpy(solution.T).reshape(own.shape))
    return reset_batchnorm(result, inputs)


def _grams(network: nn.Module, graph: Graph, inputs: Tensor) -> dict[str, np.ndarray]:
    """Give X^T X of every layer, [in, in] or, of patches, [in * height * width, ...]."""
    totals: dict[str, np.ndarray] = {}
    for batch in mixed([inputs]):
        for name, x in layer_inputs(network, graph, batch).items():
            module = network.get_submodule(name)
            if isinstance(module, nn.Conv2d):
                x = F.unfold(
                    x, module.kernel_size, module.dilation, module.padding, module.stride
                )  # [N, in * height * width, positions]
                x = x.movedim(1, 2).flatten(0, 1)
            x = x.double()
            totals[name] = totals.get(name, 0.0) + (x.T @ x).numpy()
    return totals
