"""The same network with its hidden units in another order: "weight 17" made visible."""

import copy

import torch
from torch import Tensor, nn

from conjoin.experiments.digits.network import DigitNet

__all__ = ["shuffled"]


def shuffled(network: DigitNet, generator: torch.Generator) -> DigitNet:
    """Give a copy that computes the same function with the hidden units of every layer reordered.

    With a random order p_l for the outputs of layer l, and BatchNorm in the same order:

        W_l[i, j] -> W_l[p_l(i), p_{l-1}(j)],    b_l[i] -> b_l[p_l(i)]

    >>> from conjoin.experiments.digits.network import new_network
    >>> net = new_network(0, width=1 / 16).eval()
    >>> other = shuffled(net, torch.Generator().manual_seed(0))
    >>> x = torch.rand(2, 1, 32, 32)
    >>> torch.allclose(net(x), other(x), atol=1e-5), torch.equal(
    ...     net.block_1[0].weight, other.block_1[0].weight)
    (True, False)
    """
    result = copy.deepcopy(network)
    layers = [part for part in result.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    before = torch.arange(1)  # order of the layer's inputs; the image has one channel
    with torch.no_grad():
        for layer, norm in zip(layers, _norms_after(result), strict=True):
            last = layer is layers[-1]
            size = len(layer.weight)
            after = torch.arange(size) if last else torch.randperm(size, generator=generator)
            layer.weight.copy_(_inputs_reordered(layer.weight, before)[after])
            assert layer.bias is not None
            for tensor in [layer.bias, *_vectors(norm)]:
                tensor.copy_(tensor[after])
            before = after
    return result


def _inputs_reordered(weight: Tensor, order: Tensor) -> Tensor:
    # A linear layer after flatten sees each channel as several neighbouring inputs.
    grouped = weight.reshape(len(weight), len(order), -1)
    return grouped[:, order].reshape(weight.shape)


def _norms_after(network: DigitNet) -> list[nn.BatchNorm2d | None]:
    """Give, for each convolution and linear layer in order, the BatchNorm that follows it."""
    norms: list[nn.BatchNorm2d | None] = []
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            norms.append(None)
        elif isinstance(part, nn.BatchNorm2d):
            norms[-1] = part
    return norms


def _vectors(norm: nn.BatchNorm2d | None) -> list[Tensor]:
    if norm is None:
        return []
    vectors = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    return [vector for vector in vectors if vector is not None]
