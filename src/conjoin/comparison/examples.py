"""The first examples of a data set."""

from collections.abc import Sequence

import torch
from torch import Tensor

from conjoin.batches import Data, Inputs, batches, concatenate, map_inputs, pair_of

__all__ = ["first_pairs", "joined"]

Pairs = Sequence[tuple[Inputs, Tensor]]


def first_pairs(
    data: Data, count: int, where: str, *, batch_size: int = 500
) -> list[tuple[Inputs, Tensor]]:
    """Give the first `count` examples of a data set, in batches of (inputs, targets).

    Args:
        data: a loader of pairs, or one pair for the whole set.
        count: of examples; fewer if there are fewer.
        where: the data set, for messages.
        batch_size: used for whole sets.

    >>> [len(y) for _, y in first_pairs([(torch.zeros(3, 2), torch.zeros(3))] * 2, 4, "x")]
    [3, 1]
    """
    found, left = [], count
    for batch in batches(data, batch_size):
        inputs, targets = pair_of(batch, where)
        if len(targets) > left:
            inputs, targets = map_inputs(inputs, lambda t, left=left: t[:left]), targets[:left]
        found.append((inputs, targets))
        left -= len(targets)
        if left <= 0:
            break
    return found


def joined(parts: Pairs) -> tuple[Inputs, Tensor]:
    """Put batches into one pair for the whole set.

    >>> inputs, targets = joined([((torch.zeros(1), torch.ones(1)), torch.zeros(1))] * 2)
    >>> len(inputs), len(inputs[0]), len(targets)
    (2, 2, 2)

    Raises:
        DataError: batches differ in structure, or in shape beyond the first dimension.
    """
    return concatenate([inputs for inputs, _ in parts]), torch.cat([t for _, t in parts])
