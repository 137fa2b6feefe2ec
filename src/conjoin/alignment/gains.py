"""What is gained by each pair of units of a group, all other groups held in their order.

For a group g of size n in an axis of a block, with what stands beside it flattened,

    gain[i, j] = scale * sum_r reference[i, r] * other[j, r]

is what the objective gains if position i of the result is position j of the other model. The best
order is the assignment with the largest sum, which is found exactly. A group that others lie within
(the heads of an attention) gains from a pair what the best order within gains. Where activations
were compared, the correlation of a pair is a gain too.

Where one block has two groups that lie within (with grouped queries: what reads a head of values
has the heads of queries and the values beside each other), the best order of one depends on that of
the other. If both are very small, all of their orders are tried. Otherwise for each pair one is
improved after the other, from several orders to begin with.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product
from math import factorial, inf, prod
from typing import Protocol

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from conjoin.alignment.blocks import Block, inner_product, reordered
from conjoin.symmetry.groups import Group
from conjoin.symmetry.reordering import Orders

__all__ = ["Activations", "Nested", "assign", "gain_of", "mutual", "nested_gain_of"]

FEW = 3
"""Of a group of so many units within another, every order is tried."""

CLIMBS = 20
SMALLEST = 1e-7
"""Groups within are improved in turn at most so often, and as long as more than this is gained."""

COMBINED = 24
"""Where groups within that share blocks have no more orders than that together, each of them is
tried for all pairs at once."""

MOST = 64
"""Of an outer group of more units, pairs are too many to be gone through one by one: what blocks
with two groups within it say is left out. Heads of keys and values are fewer."""


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
            total.add_(_products(block.reference, other, places, [axis]), alpha=block.scale)
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
    """Sum the gains of an outer group, the groups within at their best for each pair.

    The best orders of groups that share no block are exact, and so are those of two that share one
    if one of them has no more than 3 units for each of the outer group.

    Args:
        group: what others lie within.
        blocks: that it is in.
        groups: all of them.
        orders: of all groups.
        activations: what correlations add.
    """
    inner = [one for one in groups.values() if group.name in one.within]
    size, few = group.size, _combinations(inner, blocks) <= COMBINED
    total = torch.zeros((size, size), dtype=torch.float64)
    pairs = {
        one.name: torch.zeros((*_others(one, group), size, size, one.size, one.size)).double()
        for one in inner
    }
    shared: list[tuple[Block, int]] = []
    for block in blocks:
        for axis in block.axes_of(group.name):
            free = [
                (one, place)
                for one in inner
                for place in block.axes_of(one.name)
                if block.place_of(group.name, place) == axis
            ]
            if not free:
                other = reordered(block, groups, orders, but=[axis])
                total.add_(_products(block.reference, other, [], [axis]), alpha=block.scale)
            elif len(free) > 1 and size > MOST and not few:
                continue
            elif len(free) > 1:
                places = [place for _, place in free]
                shared.append((_opened(block, axis, places, groups, orders), axis))
            else:
                one, place = free[0]
                other = reordered(block, groups, orders, but=[axis, place])
                beside = [block.place_of(name, place) for name in one.within if name != group.name]
                found = _products(block.reference, other, beside, [axis, place])
                pairs[one.name].add_(found, alpha=block.scale)
    own = activations.gain(group, orders) if activations else None
    total = total if own is None else total + own
    for one in inner:
        fired = activations.nested(group, one) if activations else None
        if fired is not None:
            pairs[one.name] = pairs[one.name] + fired
    together = [one for one in inner if any(one.name in block.names for block, _ in shared)]
    best: dict[str, Tensor] = {}
    if together:
        gained, best = (
            _best_of_all(group, together, shared, pairs)
            if few
            else _best_together(group, together, shared, pairs, orders)
        )
        total += gained
    for one in inner:
        if one in together:
            continue
        chosen = assign(pairs[one.name])
        value = pairs[one.name].gather(-1, chosen[..., None]).sum((-1, -2))
        total += value.flatten(0, -3).sum(0) if value.dim() > 2 else value
        # The pair first, then the copies in the order of the group's own.
        best[one.name] = chosen.movedim((-3, -2), (0, 1))
    return Nested(total, best)


def _opened(
    block: Block,
    axis: int,
    places: Sequence[int],
    groups: Mapping[str, Group],
    orders: Orders,
) -> Block:
    """Reorder all of a block but one axis of an outer group, and places of groups within it.

    Those places only keep their names, and what has no group to be reordered by.
    """
    other = reordered(block, groups, orders, but=[axis, *places])
    inner = {block.names[place] for place in places}
    names = tuple(
        None if name in inner and at not in places else name for at, name in enumerate(block.names)
    )
    return replace(block, names=names, other=other)


def _combinations(inner: Sequence[Group], blocks: Sequence[Block]) -> float:
    """Count the orders of groups within that share blocks; inf if those lie within others too."""
    names = {one.name for one in inner}
    there = [[name for name in block.names if name in names] for block in blocks]
    shared = {name for each in there if len(each) > 1 for name in each}
    found = [one for one in inner if one.name in shared]
    if any(len(one.within) > 1 for one in found):
        return inf
    return prod(factorial(min(one.size, COMBINED)) for one in found)


def _best_of_all(
    group: Group,
    inner: Sequence[Group],
    shared: Sequence[tuple[Block, int]],
    pairs: Mapping[str, Tensor],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Give what `_best_together` does, from all orders of the groups within."""
    size = group.size
    total = torch.full((size, size), -inf, dtype=torch.float64)
    best = {one.name: torch.zeros((size, size, one.size), dtype=torch.int64) for one in inner}
    for each in product(*(permutations(range(one.size)) for one in inner)):
        tried = {one.name: torch.tensor(order) for one, order in zip(inner, each, strict=True)}
        gain = torch.zeros((size, size), dtype=torch.float64)
        for name, order in tried.items():
            gain += pairs[name][..., torch.arange(len(order)), order].sum(-1)
        for block, axis in shared:
            other = block.other
            for place, found in enumerate(block.names):
                if found in tried:
                    other = other.index_select(place, tried[found].to(other.device))
            gain.add_(_products(block.reference, other, [], [axis]), alpha=block.scale)
        better = gain > total
        total = gain.where(better, total)
        for name, order in tried.items():
            best[name][better] = order
    return total, best


def _best_together(
    group: Group,
    inner: Sequence[Group],
    shared: Sequence[tuple[Block, int]],
    pairs: Mapping[str, Tensor],
    orders: Orders,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Give what each pair gains by groups within that share blocks, and their orders for it."""
    size = group.size
    total = torch.zeros((size, size), dtype=torch.float64)
    places = {one.name: one.within.index(group.name) for one in inner}
    within = {one.name: _of_one(one, places[one.name]) for one in inner}
    best = {
        name: torch.empty((size, size, *one.copies, one.size), dtype=torch.int64)
        for name, one in within.items()
    }
    for i, j in product(range(size), repeat=2):
        blocks = [_of_pair(block, axis, i, j) for block, axis in shared]
        known = {name: pairs[name][..., i, j, :, :] for name in within}
        starts, last = _starts(within, known)
        if orders[group.name][i] == j:  # never worse than it is
            starts.append({name: orders[name].select(place, i) for name, place in places.items()})
        found = [_climbed(within, blocks, known, start, last) for start in starts]
        value, chosen = max(found, key=lambda one: one[0])
        total[i, j] = value
        for name, order in chosen.items():
            best[name][i, j] = order
    return total, best


def _of_one(inner: Group, place: int) -> Group:
    """Give a group within one position of an outer group."""
    copies = [(w, n) for at, (w, n) in enumerate(zip(inner.within, inner.copies, strict=True))
              if at != place]  # fmt: skip
    return replace(
        inner, within=tuple(w for w, _ in copies), copies=tuple(count for _, count in copies)
    )


def _of_pair(block: Block, axis: int, i: int, j: int) -> Block:
    """Give position i of the reference beside position j of the other model."""
    return replace(
        block,
        names=(*block.names[:axis], *block.names[axis + 1 :]),
        dims=(*block.dims[:axis], *block.dims[axis + 1 :]),
        reference=block.reference.select(axis, i),
        other=block.other.select(axis, j),
    )


def _starts(within: Mapping[str, Group], known: Mapping[str, Tensor]) -> tuple[list[Orders], str]:
    """Give orders to begin with, and the smallest group, which is improved last.

    They are those that what is not shared says, and all of that group if it is small.
    """
    last = min(within, key=lambda name: within[name].size)
    alone: Orders = {name: assign(gain) for name, gain in known.items()}
    if within[last].size > FEW or within[last].within:
        return [alone], last
    every = map(torch.tensor, permutations(range(within[last].size)))
    return [alone, *({**alone, last: order} for order in every)], last


def _climbed(
    within: Mapping[str, Group],
    blocks: Sequence[Block],
    known: Mapping[str, Tensor],
    start: Orders,
    last: str,
) -> tuple[float, Orders]:
    """Improve one group after the other; give the best that was found, and what it gains."""
    best, value = start, _gained(within, blocks, known, start)
    names = [*(name for name in within if name != last), last]
    for _ in range(CLIMBS):
        found = dict(best)
        for name in names:
            gain = gain_of(within[name], [b for b in blocks if name in b.names], within, found)
            found[name] = assign(known[name] + gain)
        gained = _gained(within, blocks, known, found)
        if gained <= value + SMALLEST:
            break
        best, value = found, gained
    return value, best


def _gained(
    within: Mapping[str, Group],
    blocks: Sequence[Block],
    known: Mapping[str, Tensor],
    orders: Orders,
) -> float:
    apart = sum(float(known[name].gather(-1, orders[name][..., None]).sum()) for name in within)
    return apart + sum(inner_product(block, within, orders) for block in blocks)


def assign(gain: Tensor) -> Tensor:
    """Give the order with the largest gain: float64 [..., n, n] -> int64 [..., n].

    >>> assign(torch.tensor([[1.0, 3.0], [0.0, 1.0]])).tolist()
    [1, 0]
    """
    flat = gain.reshape(-1, *gain.shape[-2:])
    # Where no two rows have their largest gain in one column, no order can do better.
    found = flat.argmax(-1)
    taken = torch.zeros(found.shape, dtype=torch.bool).scatter_(-1, found, value=True)
    for at in (~taken.all(-1)).nonzero().flatten().tolist():
        _, order = linear_sum_assignment(flat[at].numpy(), maximize=True)
        found[at] = torch.from_numpy(order)
    return found.reshape(gain.shape[:-1])


def mutual(gain: Tensor, order: Tensor) -> Tensor:
    """Say which pairs of an order are each other's best: bool [..., n].

    >>> mutual(torch.tensor([[2.0, 3.0], [0.0, 1.0]]), torch.tensor([1, 0])).tolist()
    [True, False]
    """
    taken = gain.gather(-1, order[..., None])[..., 0]
    return (taken >= gain.amax(-1)) & (taken >= gain.amax(-2).gather(-1, order))


def _others(inner: Group, outer: Group) -> list[int]:
    return [n for w, n in zip(inner.within, inner.copies, strict=True) if w != outer.name]


def _products(one: Tensor, two: Tensor, batch: Sequence[int], axes: Sequence[int]) -> Tensor:
    """Give the inner products over all other axes: float32 [batch..., n, n] or [..., m, m, n, n].

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
        return (flat[0] @ flat[1].transpose(-1, -2)).cpu()
    joined = [t.flatten(count, count + 1) for t in flat]
    products = (joined[0] @ joined[1].transpose(-1, -2)).cpu()
    m, n = shape[count:]
    return products.reshape(*shape[:count], m, n, m, n).transpose(-2, -3)
