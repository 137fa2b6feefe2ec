"""Several models at once, in orders that agree with each other.

Every model i gets one order P_i of its units, into positions that all models share. What matches
unit u of model i with unit v of model j is that both are in one position: so going around from
model to model leads back to where one began, which orders found for each pair alone do not. The
objective is the sum over all pairs,

    sum over i < j of  <P_i w_i, P_j w_j>

where w are weights in units of their layer's norm, and correlations of activations besides, if
those count. With all other models held, this is the problem of two models: model i, and the sum of
the others in their order. So one model at a time gets better orders, until none does. The first
orders come from a pivot: all models are matched with it, pair by pair. Each model is tried as the
pivot, and the best end is kept, which is never worse than the orders of any pivot.

Source: the objective is that of Crisostomi et al., C2M3, NeurIPS 2024, who climb on it by
Frank-Wolfe steps; one model against all others is as in MergeMany of Ainsworth et al., Git
Re-Basin, ICLR 2023.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import sqrt

import torch
from torch import Tensor

from conjoin.alignment.activations import Correlations
from conjoin.alignment.blocks import Block, reordered
from conjoin.alignment.matching import STARTS, SWEEPS, Descent, Problem, descend, match
from conjoin.symmetry import Layout, Permutations

__all__ = ["Models", "Together", "match_together", "total"]


@dataclass(frozen=True)
class Models:
    """Several models, taken apart.

    Args:
        layout: of all.
        blocks: of each model, the same ones in the same order: `conjoin.alignment.blocks.blocks_of`
            the model and itself.
        correlations: (i, j) with i < j -> how alike the units of models i and j fire; empty if
            activations do not count.
    """

    layout: Layout
    blocks: Sequence[Sequence[Block]]
    correlations: Mapping[tuple[int, int], Correlations]

    def pair(self, one: int, two: int, orders: Permutations | None = None) -> Problem:
        """Give the problem of matching model `two` with model `one`, put into an order or not."""
        given = {one: Permutations(self.layout, {}) if orders is None else orders}
        return self._problem(two, given)

    def among(self, number: int, orders: Sequence[Permutations]) -> Problem:
        """Give the problem of matching a model with all others, which are in their orders."""
        return self._problem(number, {n: o for n, o in enumerate(orders) if n != number})

    def _problem(self, number: int, others: Mapping[int, Permutations]) -> Problem:
        groups = self.layout.groups
        blocks = []
        for place, block in enumerate(self.blocks[number]):
            total: Tensor | None = None
            for other, order in others.items():
                there = self.blocks[other][place]
                one = reordered(there, groups, order.orders) * sqrt(there.scale)
                total = one if total is None else total + one
            assert total is not None  # there is another model
            blocks.append(replace(block, reference=total, scale=sqrt(block.scale)))
        if not self.correlations:
            return Problem(groups, blocks)
        fire = [self._fire(other, number, order) for other, order in others.items()]
        return Problem(groups, blocks, _summed(fire))

    def _fire(self, one: int, two: int, order: Permutations) -> Correlations:
        """Give the correlations of a model in its order with another one."""
        known = self.correlations[min(one, two), max(one, two)]
        return _put(known if one < two else _turned(known), order)


@dataclass(frozen=True)
class Together:
    """The orders of all models that a start has led to.

    Args:
        start: its name.
        orders: of each model; the first keeps its own.
        objective: the sum over all pairs.
        certain: share of units that are each other's best match; see `Descent`.
    """

    start: str
    orders: tuple[Permutations, ...]
    objective: float
    certain: float


def match_together(
    models: Models,
    *,
    starts: Sequence[str] = STARTS,
    pairs: bool = False,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> list[Together]:
    """Give where each start leads to, the best one first.

    Of two models the starts are those of `conjoin.alignment.matching.match`; of more, they are the
    models, each as the pivot that all others were matched with first.

    Args:
        models: two or more.
        starts: of the search for each pair.
        pairs: of more than two models, also give what the pairs with each pivot come to by
            themselves, before any other step.
        seed: of the orders in which groups are gone through.
        progress: called with (steps done, steps in all).
    """
    count, layout = len(models.blocks), models.layout
    couples = list(combinations(range(count), 2))
    steps = len(couples) * len(starts) + (count if count > 2 else 0)
    found: dict[tuple[int, int], list[Descent]] = {}
    for number, (one, two) in enumerate(couples):
        found[one, two] = match(
            models.pair(one, two),
            starts=starts,
            seed=seed,
            progress=_part_of(progress, number * len(starts), steps),
        )
    still = Permutations(layout, {})
    if count == 2:
        return [
            Together(
                end.start, (still, Permutations(layout, end.orders)), end.objective, end.certain
            )
            for end in found[0, 1]
        ]
    ends: list[Together] = []
    begun: list[list[Permutations]] = []
    for pivot in range(count):
        orders = []
        for number in range(count):
            pair = found.get((min(pivot, number), max(pivot, number)))
            order = still if pair is None else Permutations(layout, pair[0].orders)
            orders.append(order.inverse() if number < pivot else order)
        orders = _from_first(orders)
        same = begun.index(orders) if orders in begun else None  # pivots that agree already
        begun.append(orders)
        start = f"model {pivot}"
        ends.append(
            _refined(models, start, orders, seed)
            if same is None
            else replace(ends[same], start=start)
        )
        progress(steps - count + pivot + 1, steps)
    if pairs:
        for pivot, orders in enumerate(begun):
            certain = [end[0].certain for couple, end in found.items() if pivot in couple]
            ends.append(
                Together(
                    f"pairs with model {pivot}",
                    tuple(orders),
                    total(models, orders),
                    sum(certain) / len(certain),
                )
            )
    return sorted(ends, key=lambda end: -end.objective)


def _part_of(
    progress: Callable[[int, int], None], before: int, steps: int
) -> Callable[[int, int], None]:
    return lambda done, _: progress(before + done, steps)


def _refined(models: Models, start: str, orders: Sequence[Permutations], seed: int) -> Together:
    """Give one model at a time better orders, until none gets any."""
    generator = torch.Generator().manual_seed(seed)
    orders = list(orders)
    certain = [0.0] * len(orders)
    settled = 0  # how many models in turn have got no better order
    for step in range(SWEEPS * len(orders)):
        number = step % len(orders)
        end = descend(models.among(number, orders), orders[number].orders, generator)
        better, certain[number] = Permutations(models.layout, end.orders), end.certain
        settled = settled + 1 if better == orders[number] else 1
        orders[number] = better
        if settled == len(orders):
            break
    orders = _from_first(orders)
    return Together(start, tuple(orders), total(models, orders), sum(certain) / len(certain))


def _from_first(orders: Sequence[Permutations]) -> list[Permutations]:
    """Number the positions that are shared as the first model does; it changes no inner product."""
    back = orders[0].inverse()
    return [back.after(order) for order in orders]


def total(models: Models, orders: Sequence[Permutations]) -> float:
    """Give the sum over all pairs of the objective of a pair."""
    return sum(
        models.pair(one, two, orders[one]).objective(orders[two].orders)
        for one, two in combinations(range(len(orders)), 2)
    )


def _turned(found: Correlations) -> Correlations:
    """Give correlations with the other model first."""
    return Correlations(
        {name: matrix.T for name, matrix in found.of.items()},
        {names: pairs.permute(1, 0, 3, 2) for names, pairs in found.pairs.items()},
        found.examples,
    )


def _put(found: Correlations, order: Permutations) -> Correlations:
    """Give correlations with the first model in another order."""
    pairs = {}
    for (outer, inner), known in found.pairs.items():
        rows = known[order.orders[outer]] if outer in order.orders else known
        at = order.orders[inner][:, None, :, None].expand_as(rows)
        pairs[outer, inner] = rows.gather(2, at)
    of = {name: matrix[order.orders[name]] for name, matrix in found.of.items()}
    return Correlations(of, pairs, found.examples)


def _summed(found: Sequence[Correlations]) -> Correlations:
    def added(matrices: Iterator[Tensor]) -> Tensor:
        result = next(matrices)
        for matrix in matrices:
            result = result + matrix
        return result

    return Correlations(
        {name: added(one.of[name] for one in found) for name in found[0].of},
        {names: added(one.pairs[names] for one in found) for names in found[0].pairs},
        found[0].examples,
    )
