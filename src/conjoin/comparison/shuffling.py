"""The same network with its hidden units in another order: "weight 17" made visible."""

import copy

import torch
from torch import nn

from conjoin.batches import Inputs, map_inputs
from conjoin.errors import InputError, TraceError
from conjoin.symmetry.finding import find_symmetries
from conjoin.symmetry.permutations import Permutations

__all__ = ["random_order", "shuffled"]


def random_order(network: nn.Module, inputs: Inputs, seed: int) -> Permutations:
    """Draw an order of all hidden units that keeps what a network computes.

    Args:
        network: not changed.
        inputs: a batch of two or more examples.
        seed: of the order.

    Raises:
        TraceError: nothing is known that can be reordered in it; the message says why.
    """
    examples = map_inputs(inputs, lambda tensor: tensor.detach().cpu())
    try:
        found = find_symmetries(copy.deepcopy(network).cpu(), examples, seed=seed)
    except InputError as error:  # such as a network that is random in eval mode
        raise TraceError(
            f"no order of its units can be proved to keep its function: {error}"
        ) from (error)
    if not found.groups:
        reasons = "; ".join(found.layout.pinned) or "it has no hidden units"
        raise TraceError(f"nothing in {type(network).__name__} can be reordered: {reasons}")
    return found.sample(torch.Generator().manual_seed(seed))


def shuffled(network: nn.Module, inputs: Inputs, seed: int) -> nn.Module:
    """Give a copy that computes the same function with its hidden units in a random order.

    Args:
        network: any module that `conjoin.find_symmetries` takes; not changed.
        inputs: a batch of two or more examples.
        seed: of the order.

    Raises:
        TraceError: nothing is known that can be reordered in it; the message says why.

    >>> net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    >>> x = torch.randn(5, 4)
    >>> other = shuffled(net, x, 0)
    >>> torch.allclose(net(x), other(x), atol=1e-6), torch.equal(other[0].bias, net[0].bias)
    (True, False)
    """
    return random_order(network, inputs, seed).apply(network)
