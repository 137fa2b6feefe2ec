"""What is gained by each pair of units of a group, all other groups held in their order.

For a group g of size n in an axis of a block, with what stands beside it flattened,

    gain[i, j] = scale * sum_r reference[i, r] * other[j, r]

is what the objective gains if position i of the result is position j of the other model. The best
order is the assignment with the largest sum, which is found exactly. A group that others lie within
(the heads of an attention) gains from a pair what the best order within gains. Where activations
were compared, the correlation of a pair is a gain too.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from conjoin.alignment.blocks import Block, reordered
from conjoin.symmetry.groups import Group
from conjoin.symmetry.reordering import Orders

__all__ = ["Activations", "Nested", "assign", "gain_of", "nested_gain_of"]


class Activations(Protocol):
    """What `conjoin.alignment.activations.Correlations` gives."""

    def gain(self, group: Group, orders: Orders) -> Tensor | None:
        """Give float64 [copies..., n, n]; None if the group was not seen."""

    def nested(self, outer: Group, inner: Group) -> Tensor | None:
        """Give float64 [m, m, n, n]; None if the inner group was not seen."""


def gain_of(
    group: Group,
    blocks: Iterable[Block],
    groups: Mapping[str, Group],
    orders: Orders,
    activations: Activations | None = None,
) -> Tensor:
    """Sum the gains of all places of a group.

    Args:
        group: what is to be reordered.
        blocks: that it is in.
        groups: all of them.
        orders: of all groups; that of this one counts where it is twice in a block.
        activations: what correlations add.

    Returns:
        float64 [copies..., size, size].
    """
    total = torch.zeros((*group.copies, group.size, group.size), dtype=torch.float64)
    for block in blocks:
        for axis in block.axes_of(group.name):
            other = reordered(block, groups, orders, but=[axis])
            places = [block.place_of(outer, axis) for outer in group.within]
            total += block.scale * _products(block.reference, other, places, [axis])
    found = activations.gain(group, orders) if activations else None
    return total if found is None else total + found


@dataclass(frozen=True)
class Nested:
    """Gains of pairs of an outer group with the best orders of what lies within.

    Args:
        gain: float64 [size, size], of pairs of the outer group.
        within: inner group -> int64 [size, size, other copies..., inner size]: its best order for
            each pair.
    """

    gain: Tensor
    within: Mapping[str, Tensor]


def nested_gain_of(
    group: Group,
    blocks: Sequence[Block],
    groups: Mapping[str, Group],
    orders: Orders,
    activations: Activations | None = None,
) -> Nested:
    """Sum the gains of an outer group, the groups within at their best for each pair."""
    inner = [one for one in groups.values() if group.name in one.within]
    size = group.size
    total = torch.zeros((size, size), dtype=torch.float64)
    pairs = {
        one.name: torch.zeros((*_others(one, group), size, size, one.size, one.size)).double()
        for one in inner
    }
    for block in blocks:
        for axis in block.axes_of(group.name):
            free = [
                (one, place)
                for one in inner
                for place in block.axes_of(one.name)
                if block.place_of(group.name, place) == axis
            ][:1]
            if not free:
                other = reordered(block, groups, orders, but=[axis])
                total += block.scale * _products(block.reference, other, [], [axis])
                continue
            one, place = free[0]
            other = reordered(block, groups, orders, but=[axis, place])
            beside = [block.place_of(name, place) for name in one.within if name != group.name]
            found = _products(block.reference, other, beside, [axis, place])
            pairs[one.name] += block.scale * found
    own = activations.gain(group, orders) if activations else None
    total = total if own is None else total + own
    best = {}
    for one in inner:
        fired = activations.nested(group, one) if activations else None
        gains = pairs[one.name] if fired is None else pairs[one.name] + fired
        chosen = assign(gains)
        value = gains.gather(-1, chosen[..., None]).sum((-1, -2))
        total += value.flatten(0, -3).sum(0) if value.dim() > 2 else value
        # The pair first, then the copies in the order of the group's own.
        best[one.name] = chosen.movedim((-3, -2), (0, 1))
    return Nested(total, best)


def assign(gain: Tensor) -> Tensor:
    """Give the order with the largest gain: float64 [..., n, n] -> int64 [..., n].

    >>> assign(torch.tensor([[1.0, 3.0], [0.0, 1.0]])).tolist()
    [1, 0]
    """
    flat = gain.reshape(-1, *gain.shape[-2:]).numpy()
    found = [linear_sum_assignment(one, maximize=True)[1] for one in flat]
    return torch.from_numpy(np.stack(found)).reshape(gain.shape[:-1])


def _others(inner: Group, outer: Group) -> list[int]:
    return [n for w, n in zip(inner.within, inner.copies, strict=True) if w != outer.name]


def _products(one: Tensor, two: Tensor, batch: Sequence[int], axes: Sequence[int]) -> Tensor:
    """Give the inner products over all other axes: float64 [batch..., n, n] or [..., m, m, n, n].

    With two axes, of sizes m and n, the result is [batch..., m, m, n, n].
    """
    kept = [*batch, *axes]
    rest = [axis for axis in range(one.dim()) if axis not in kept]
    shape = [one.shape[axis] for axis in kept]
    count, depth = len(batch), len(rest)
    flat = [t.permute(*kept, *rest).reshape(*shape, -1) for t in (one, two)]
    if depth == 0:
        flat = [t.reshape(*shape, 1) for t in flat]
    if len(axes) == 1:
        return (flat[0] @ flat[1].transpose(-1, -2)).double().cpu()
    joined = [t.flatten(count, count + 1) for t in flat]
    products = (joined[0] @ joined[1].transpose(-1, -2)).double().cpu()
    m, n = shape[count:]
    return products.reshape(*shape[:count], m, n, m, n).transpose(-2, -3)
