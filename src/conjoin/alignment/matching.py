"""Matching by weights: coordinate descent over groups, from several starts, the best one kept.

One group at a time gets its best order, all others held. That never makes the objective smaller,
and ends in an optimum that no single group can leave, of which there are many: a wide layer fits
noise against a neighbour that is still wrong. So there are several starts, and the objective says
which of their ends is the best:

    greedy       forward through the network, each group matched by what is known already
    sequential   from the order that the model came in, forward: right for models with one start
    random       from a random order, in random order

Source: Ainsworth et al., Git Re-Basin, ICLR 2023, Algorithm 1. The greedy start and the gains of
groups that lie within others are ours.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from conjoin.alignment.blocks import Block, inner_product
from conjoin.alignment.gains import Activations, assign, gain_of, nested_gain_of
from conjoin.symmetry.groups import Group

__all__ = ["STARTS", "Descent", "Problem", "match"]

STARTS = ("greedy", "sequential", "random", "random", "random")
"""Where the descent starts from, each tried once. No start is the best for every network."""

SWEEPS = 100
SMALLEST = 1e-9
"""A gain that counts as one; every layer adds at most 1 to the objective."""


@dataclass(frozen=True)
class Problem:
    """Two models, taken apart.

    Args:
        groups: what may be reordered, in the order of the network.
        blocks: of both models.
        activations: how alike units fire, if that counts.
    """

    groups: Mapping[str, Group]
    blocks: Sequence[Block]
    activations: Activations | None = None
    places: Mapping[str, Sequence[Block]] = field(init=False)

    def __post_init__(self) -> None:
        found = {name: [b for b in self.blocks if name in b.names] for name in self.groups}
        object.__setattr__(self, "places", found)

    def identity(self) -> dict[str, Tensor]:
        """Give orders that change nothing."""
        return {
            name: torch.arange(group.size).expand(*group.copies, group.size)
            for name, group in self.groups.items()
        }

    def objective(self, orders: Mapping[str, Tensor]) -> float:
        """Give what is to be made large: inner products of weights, and correlations."""
        return self.part(orders, self.groups)

    def part(self, orders: Mapping[str, Tensor], touched: Iterable[str]) -> float:
        """Give the part of the objective that the order of some groups matters to."""
        chosen = set(touched)
        blocks = [block for block in self.blocks if chosen.intersection(block.names)]
        total = sum(inner_product(block, self.groups, orders) for block in blocks)
        for name, group in self.groups.items():
            found = self.activations.gain(group, orders) if self.activations else None
            if found is not None and chosen.intersection((name, *group.within)):
                total += float(found.gather(-1, orders[name][..., None]).sum())
        return total

    def neighbours(self, name: str) -> set[str]:
        """Name the groups whose order matters to the best order of this one, and itself if so."""
        found: set[str] = set()
        for block in self.places[name]:
            others = [one for one in block.names if one is not None]
            others.remove(name)
            found.update(others)
        return found | set(self.groups[name].within)


@dataclass(frozen=True)
class Descent:
    """Where a start has led to.

    Args:
        start: its name.
        orders: of all groups.
        objective: of those.
    """

    start: str
    orders: Mapping[str, Tensor]
    objective: float


def match(
    problem: Problem,
    *,
    starts: Sequence[str] = STARTS,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> list[Descent]:
    """Give where each start leads to, the best one first.

    Args:
        problem: the models.
        starts: of ``greedy``, ``sequential`` and ``random``.
        seed: of the orders in which groups are gone through.
        progress: called with (starts done, starts in all).
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number, start in enumerate(starts):
        found.append(_descent(problem, start, generator))
        progress(number + 1, len(starts))
    return sorted(found, key=lambda one: -one.objective)


def _descent(problem: Problem, start: str, generator: torch.Generator) -> Descent:
    orders = problem.identity()
    if start == "greedy":
        orders = _greedy(problem)
    elif start == "random":
        orders = {n: _drawn(order, generator) for n, order in orders.items()}
    names = list(problem.groups)
    # Of each group: what its neighbours were when it had its best order.
    settled: dict[str, tuple[int, ...]] = {}
    version = dict.fromkeys(names, 0)
    neighbours = {name: sorted(problem.neighbours(name)) for name in names}
    for _ in range(SWEEPS):
        changed = False
        for at in range(len(names)) if start == "sequential" else _shuffled(names, generator):
            name = names[at]
            around = tuple(version[one] for one in neighbours[name])
            if settled.get(name) == around:
                continue
            for moved, order in _improved(problem, name, orders).items():
                orders[moved] = order
                version[moved] += 1
                changed = True
            settled[name] = tuple(version[one] for one in neighbours[name])
        if not changed:
            break
    return Descent(start, orders, problem.objective(orders))


def _improved(problem: Problem, name: str, orders: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the best order of a group and of those within it, if it is better than the present."""
    found = _best(problem, problem.groups[name], problem.places[name], orders)
    found = {one: order for one, order in found.items() if not torch.equal(order, orders[one])}
    if not found:
        return {}
    gained = problem.part({**orders, **found}, found) - problem.part(orders, found)
    return found if gained > SMALLEST else {}


def _best(
    problem: Problem, group: Group, blocks: Sequence[Block], orders: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    inner = [one for one in problem.groups.values() if group.name in one.within]
    if not inner:
        return {
            group.name: assign(gain_of(group, blocks, problem.groups, orders, problem.activations))
        }
    nested = nested_gain_of(group, blocks, problem.groups, orders, problem.activations)
    order = assign(nested.gain)
    found = {group.name: order}
    for one in inner:
        chosen = nested.within[one.name][torch.arange(group.size), order]
        found[one.name] = chosen.movedim(0, one.within.index(group.name)).contiguous()
    return found


def _greedy(problem: Problem) -> dict[str, Tensor]:
    """Go forward, and match each group by what is known already: its inputs, in most networks."""
    orders, known = problem.identity(), set[str]()
    for name, group in problem.groups.items():
        if name in known:
            continue  # within another, and matched with it
        inner = {one.name for one in problem.groups.values() if name in one.within}
        within = known | inner | {name}
        blocks = [b for b in problem.places[name] if all(n in within for n in b.names if n)]
        seen = problem.activations and problem.activations.gain(group, orders) is not None
        if blocks or seen:
            orders |= _best(problem, group, blocks, orders)
        known |= {name, *inner}
    return orders


def _drawn(order: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(order.shape, generator=generator).argsort(-1)


def _shuffled(names: Sequence[str], generator: torch.Generator) -> list[int]:
    found: list[int] = torch.randperm(len(names), generator=generator).tolist()
    return found
