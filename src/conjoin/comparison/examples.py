"""Some examples of a data set."""

from collections.abc import Sequence

import torch
from torch import Tensor

from conjoin.batches import Data, Inputs, batches, concatenate, map_inputs, pair_of

__all__ = ["first_pairs", "joined", "spread", "spread_pairs"]

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


def spread(count: int, total: int) -> Tensor:
    """Give `count` places among `total`, at equal distances; all places if there are fewer.

    Returns:
        Bool [total].

    >>> spread(2, 6).nonzero()[:, 0]
    tensor([2, 5])
    """
    ends = torch.arange(total + 1) * min(count, total) // max(total, 1)
    return ends[1:] > ends[:-1]


def spread_pairs(
    data: Data, count: int, total: int | None, where: str
) -> list[tuple[Inputs, Tensor]]:
    """Give examples from all over a data set, in batches: it may be sorted by class.

    Args:
        data: a loader of pairs, or one pair for the whole set.
        count: of examples; fewer if there are fewer.
        total: how many there are; None, where nobody knows, gives the first ones.
        where: the data set, for messages.

    >>> data = torch.arange(6.0), torch.arange(6)
    >>> [targets.tolist() for _, targets in spread_pairs(data, 2, 6, "x")]
    [[2, 5]]
    """
    if total is None or total <= count:
        return first_pairs(data, count, where)
    chosen, found, start = spread(count, total), [], 0
    for batch in batches(data, 500):
        inputs, targets = pair_of(batch, where)
        at = chosen[start : start + len(targets)].nonzero()[:, 0]
        start += len(targets)
        if len(at):
            picked = map_inputs(inputs, lambda t, at=at: t[at.to(t.device)])
            found.append((picked, targets[at.to(targets.device)]))
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
