"""Batches of the tasks' inputs, and BatchNorm statistics of them."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

__all__ = ["mixed", "reset_batchnorm", "shuffled"]

M = TypeVar("M", bound=nn.Module)


def mixed(inputs: Sequence[Tensor], size: int = 250) -> Iterator[Tensor]:
    """Give batches of about `size` that hold the same share of every task."""
    count = max(1, round(sum(len(part) for part in inputs) / size))
    for parts in zip(*(part.chunk(count) for part in inputs), strict=False):
        yield torch.cat(parts)


def shuffled(inputs: Sequence[Tensor], size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Give `steps` batches of all tasks' inputs in random order, over and over."""
    together = torch.cat(tuple(inputs))
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(order) < size:
            order = torch.cat([order, torch.randperm(len(together), generator=generator)])
        yield together[order[:size]]
        order = order[size:]


def reset_batchnorm(network: M, inputs: Sequence[Tensor]) -> M:
    """Replace, in place, running statistics by averages over batches of all tasks' inputs.

    The average is over all batches, as in ZipIt's code (momentum None). Dropout stays off.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
        norm.train()
    if norms:
        with torch.no_grad():
            for batch in mixed(inputs):
                network(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return network.eval()
