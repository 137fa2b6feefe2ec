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
from dataclasses import dataclass, field, replace
from math import sqrt

import torch
from torch import Tensor

from conjoin.alignment.blocks import Block, inner_product, pinned_holders
from conjoin.alignment.gains import Activations, assign, gain_of, mutual, nested_gain_of
from conjoin.symmetry.groups import Group

__all__ = ["STARTS", "Descent", "Problem", "descend", "match", "weighed"]

STARTS = ("greedy", "sequential", *("random",) * 3)
"""Where the descent starts from, each tried once. No start is the best for every network."""

SWEEPS = 100
SMALLEST = 1e-7
"""A gain that counts as one, above what float32 rounds; the objective is the number of layers at
most."""

LEAST = 1e-3
"""A start that gains less than this share in a sweep is left, unless it proves to be the best."""

WIDE = 1024
LEAST_WIDE = 1e-4
"""With a group of more units than that, a sweep takes seconds: such networks get no random starts.
Their best end goes on only if it is certain, and is left when it gains less than this share."""


CERTAIN = 0.8
"""Share of units that are each other's best match, from which on an end is certain: where one model
was made of the other it is above .95, up to noise of three times its size; between networks that
were trained from different starts it is .5 to .6."""

HOPE = 0.5
"""The order that a model came in is a start for wide networks only if it has this share of what the
best end has above chance. So it is for models of one origin, and never for independent ones."""

SAME = 0.98
MANY = 100
"""Two starts agree if they put this share of the units into the same places, of so many units."""


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
        found = set(self.groups[name].within)
        for block in self.places[name]:
            others = [one for one in block.names if one is not None]
            others.remove(name)
            found.update(others)
        return found & self.groups.keys()


def weighed(blocks: Iterable[Block]) -> list[Block]:
    """Let layers count by how little of their inner products is chance.

    The cosine of n weights and n others that know nothing of each other is 0, give or take
    1 / sqrt(n). So every layer counts with sqrt(n): what chance adds is then the same for all.
    With all cosines counting alike, the ten outputs of a classifier would drown what the thousand
    inputs of the same units say.

    Args:
        blocks: of `conjoin.alignment.blocks.blocks_of`.
    """
    blocks = list(blocks)
    sizes: dict[str, int] = {}
    for block in blocks:
        layer = block.tensor.rpartition(".")[0]
        sizes[layer] = sizes.get(layer, 0) + block.other.numel()
    mean = sum(map(sqrt, sizes.values())) / max(len(sizes), 1)
    return [
        replace(b, scale=b.scale * sqrt(sizes[b.tensor.rpartition(".")[0]]) / mean) for b in blocks
    ]


@dataclass(frozen=True)
class Descent:
    """Where a start has led to.

    Args:
        start: its name.
        orders: of all groups.
        objective: of those.
        settled: whether no group alone could do better.
        certain: share of units that were each other's best match when their group last got an
            order; of those that got one.
    """

    start: str
    orders: Mapping[str, Tensor]
    objective: float
    settled: bool
    certain: float = 0.0


def match(
    problem: Problem,
    *,
    starts: Sequence[str] = STARTS,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> list[Descent]:
    """Give where each start leads to, the best one first.

    Only the best one goes on until nothing is gained any more. Where two starts have led to one
    end already, the others are left out. In very wide networks, where each takes long, so are
    random ones, if there are others, all once an end is certain, and the order that the model came
    in if it is far behind.

    Args:
        problem: the models.
        starts: of ``greedy``, ``sequential`` and ``random``.
        seed: of the orders in which groups are gone through.
        progress: called with (starts done, starts in all).
    """
    generator = torch.Generator().manual_seed(seed)
    wide = any(group.size > WIDE for group in problem.groups.values())
    tried = [start for start in starts if start != "random"] if wide else []
    tried = tried or list(starts)
    found: list[Descent] = []
    for number, start in enumerate(tried):
        if wide and found and not _promising(problem, start, found, generator):
            continue
        orders, known = problem.identity(), dict[str, Tensor]()
        if start == "greedy":
            orders, known = _greedy(problem)
        elif start == "random":
            orders = {n: _drawn(order, generator) for n, order in orders.items()}
        way = None if start == "sequential" else generator
        found.append(descend(problem, orders, way, start=start, least=LEAST, known=known))
        if _agree(problem, found):
            break
        if number + 1 < len(starts):
            progress(number + 1, len(starts))
    progress(len(starts), len(starts))
    found.sort(key=lambda one: -one.objective)
    if not found[0].settled and (not wide or found[0].certain >= CERTAIN):
        least = LEAST_WIDE if wide else 0.0
        found[0] = descend(problem, found[0].orders, generator, start=found[0].start, least=least)
    return found


def descend(
    problem: Problem,
    orders: Mapping[str, Tensor],
    generator: torch.Generator | None = None,
    *,
    start: str = "given",
    least: float = 0.0,
    known: Mapping[str, Tensor] | None = None,
) -> Descent:
    """Give each group its best order in turn, until nothing is gained: never worse than before.

    Args:
        problem: the models.
        orders: to begin with.
        generator: of the orders in which groups are gone through; forward without one.
        start: what to call it.
        least: it ends when a sweep through all groups gains less than this share.
        known: groups that have their best order already, and which units of theirs are each
            other's best match.
    """
    orders, names = dict(orders), list(problem.groups)
    objective = problem.objective(orders)
    certain = dict(known or {})
    version = dict.fromkeys(names, 0)
    changed = True
    neighbours = {name: sorted(problem.neighbours(name)) for name in names}
    # Of each group: what its neighbours were when it had its best order.
    settled = {name: (0,) * len(neighbours[name]) for name in certain}
    for _ in range(SWEEPS):
        before, changed = objective, False
        for at in range(len(names)) if generator is None else _shuffled(names, generator):
            name = names[at]
            around = tuple(version[one] for one in neighbours[name])
            if settled.get(name) == around:
                continue
            better, gained, certain[name] = _improved(problem, name, orders)
            for moved, order in better.items():
                orders[moved] = order
                version[moved] += 1
                changed = True
            objective += gained
            settled[name] = tuple(version[one] for one in neighbours[name])
        if not changed or objective - before < least * abs(objective):
            break
    pairs = [each.flatten() for each in certain.values()] or [torch.ones(1, dtype=torch.bool)]
    share = float(torch.cat(pairs).double().mean())
    return Descent(start, orders, problem.objective(orders), not changed, share)


def _agree(problem: Problem, found: Sequence[Descent]) -> bool:
    """Whether the best two ends are one, which is no accident where there are many units."""
    if len(found) < 2 or sum(group.size for group in problem.groups.values()) < MANY:
        return False
    one, two = sorted(found, key=lambda end: -end.objective)[:2]
    same = [(order == two.orders[name]).flatten() for name, order in one.orders.items()]
    return float(torch.cat(same).double().mean()) > SAME


def _promising(
    problem: Problem, start: str, found: Sequence[Descent], generator: torch.Generator
) -> bool:
    """Whether one more start may lead to a better end in a wide network."""
    best = max(found, key=lambda end: end.objective)
    if best.certain >= CERTAIN:
        return False
    if start != "sequential":
        return True
    still = problem.identity()
    chance = problem.objective({n: _drawn(order, generator) for n, order in still.items()})
    return problem.objective(still) - chance > HOPE * (best.objective - chance)


def _improved(
    problem: Problem, name: str, orders: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], float, Tensor]:
    """Give better orders of a group and of those within it, if there are, and what they gain.

    And which units then are each other's best match.
    """
    group, places = problem.groups[name], problem.places[name]
    inner = any(name in one.within for one in problem.groups.values())
    if not inner and all(len(block.axes_of(name)) == 1 for block in places):
        gain = gain_of(group, places, problem.groups, orders, problem.activations)
        found = {name: assign(gain)}
        certain = mutual(gain, found[name])
        new, old = (gain.gather(-1, o[..., None]).sum() for o in (found[name], orders[name]))
        gained = float(new - old)
    else:
        found, certain = _best(problem, group, places, orders)
        found = {one: order for one, order in found.items() if not torch.equal(order, orders[one])}
        gained = problem.part({**orders, **found}, found) - problem.part(orders, found)
    return (found, gained, certain) if gained > SMALLEST else ({}, 0.0, certain)


def _best(
    problem: Problem, group: Group, blocks: Sequence[Block], orders: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Tensor]:
    """Give the best orders of a group and of those within it, and whose match is mutual."""
    inner = [one for one in problem.groups.values() if group.name in one.within]
    if not inner:
        gain = gain_of(group, blocks, problem.groups, orders, problem.activations)
        order = assign(gain)
        return {group.name: order}, mutual(gain, order)
    nested = nested_gain_of(group, blocks, problem.groups, orders, problem.activations)
    order = assign(nested.gain)
    found = {group.name: order}
    for one in inner:
        chosen = nested.within[one.name][torch.arange(group.size), order]
        found[one.name] = chosen.movedim(0, one.within.index(group.name)).contiguous()
    return found, mutual(nested.gain, order)


def _greedy(problem: Problem) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Go forward, and match each group by what is known already: its inputs, in most networks.

    The second result has the groups of which all was known then, and whose match is mutual.
    """
    orders, best = problem.identity(), dict[str, Tensor]()
    known = pinned_holders(problem.groups)
    for name, group in problem.groups.items():
        if name in known:
            continue  # within another, and matched with it
        inner = {one.name for one in problem.groups.values() if name in one.within}
        within = known | inner | {name}
        blocks = [b for b in problem.places[name] if all(n in within for n in b.names if n)]
        seen = problem.activations and problem.activations.gain(group, orders) is not None
        if blocks or seen:
            found, certain = _best(problem, group, blocks, orders)
            orders |= found
            if not inner and problem.neighbours(name) <= known:
                best[name] = certain
        known |= {name, *inner}
    return orders, best


def _drawn(order: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(order.shape, generator=generator).argsort(-1)


def _shuffled(names: Sequence[str], generator: torch.Generator) -> list[int]:
    found: list[int] = torch.randperm(len(names), generator=generator).tolist()
    return found
