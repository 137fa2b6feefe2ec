"""Coordinate descent over orders and rotations, from what is known already.

One group at a time gets its best order or rotation, all others held. With the gains of all pairs
of its units (see `conjoin.alignment.gains`), that is an assignment, or the orthogonal matrix
nearest to them. A random rotation of the residual stream hides every order behind it, so that the
first pass goes from group to group along weights of which nothing else may move: from the
embedding to the stream, and from there into each layer. A pair of heads is worth what the best
orders and rotations within are worth: sums of assigned gains, and of singular values.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from conjoin.alignment.blocks import Block, pinned_holders
from conjoin.alignment.gains import assign
from conjoin.alignment.rotations.rotations import Rotatable
from conjoin.alignment.rotations.turning import moved, nearest
from conjoin.symmetry import Group

__all__ = ["Found", "Problem", "solve"]

SWEEPS = 100
SMALLEST = 1e-7
"""A gain that counts as one; every layer adds at most 1 to the objective."""

Maps = Mapping[str, Tensor]
"""Group -> its order, int64 [copies..., n], or its rotation, float [copies..., n, n]."""


@dataclass(frozen=True)
class Found:
    """Where the descent has ended.

    Args:
        maps: of all groups.
        objective: the sum over layers of the cosine of their weights.
    """

    maps: Maps
    objective: float


@dataclass(frozen=True)
class Problem:
    """Two folded models, taken apart.

    Args:
        rotatable: what may be rotated, and the layout.
        blocks: of both models.
    """

    rotatable: Rotatable
    blocks: Sequence[Block]
    places: Mapping[str, Sequence[Block]] = field(init=False)

    def __post_init__(self) -> None:
        names = self.rotatable.layout.groups
        found = {name: [b for b in self.blocks if name in b.names] for name in names}
        object.__setattr__(self, "places", found)

    @property
    def groups(self) -> Mapping[str, Group]:
        """All groups by name."""
        return self.rotatable.layout.groups

    def identity(self) -> dict[str, Tensor]:
        """Give maps that change nothing."""
        found = {}
        for name, group in self.groups.items():
            if name in self.rotatable.keeps_mean:
                found[name] = torch.eye(group.size).expand(*group.copies, group.size, group.size)
            else:
                found[name] = torch.arange(group.size).expand(*group.copies, group.size)
        return found

    def moved(self, block: Block, maps: Maps, *, but: Sequence[int] = ()) -> Tensor:
        """Give the other model's side of a block, ordered and rotated."""
        matrices = {name: maps[name] for name in self.rotatable.keeps_mean}
        orders = {
            name: torch.arange(group.size) if name in matrices else maps[name]
            for name, group in self.groups.items()
        }
        return moved(block.other, block.names, block.dims, self.groups, orders, matrices, but=but)

    def objective(self, maps: Maps, touched: Iterable[str] | None = None) -> float:
        """Sum the inner products of all blocks, or of those that some groups are in."""
        chosen = set(self.groups if touched is None else touched)
        total = 0.0
        for block in self.blocks:
            if chosen.intersection(block.names):
                products = block.reference * self.moved(block, maps)
                total += block.scale * float(products.sum(dtype=torch.float64))
        return total

    def inner(self, name: str) -> list[Group]:
        """Give the groups that lie within one."""
        return [group for group in self.groups.values() if name in group.within]


def solve(
    problem: Problem,
    progress: Callable[[int], None] = lambda sweep: None,  # noqa: ARG005
) -> Found:
    """Give the orders and rotations that bring the other model closest to the reference."""
    maps = _forward(problem)
    total = problem.objective(maps)
    for sweep in range(SWEEPS):
        for name in problem.groups:
            new = _best(problem, name, problem.places[name], maps)
            gained = problem.objective({**maps, **new}, new) - problem.objective(maps, new)
            if gained > 0:
                maps |= new
        before, total = total, problem.objective(maps)
        progress(sweep + 1)
        if total - before <= SMALLEST:
            break
    return Found(maps, total)


def _forward(problem: Problem) -> dict[str, Tensor]:
    """Go from group to group, each matched by what is known already."""
    maps, known = problem.identity(), pinned_holders(problem.groups)
    while left := [name for name in problem.groups if name not in known]:
        name, blocks = next(
            ((n, b) for n in left if (b := _known_blocks(problem, n, known))), (left[0], [])
        )
        if blocks:
            maps |= _best(problem, name, blocks, maps)
        known |= {name, *(group.name for group in problem.inner(name))}
    return maps


def _known_blocks(problem: Problem, name: str, known: set[str]) -> list[Block]:
    within = known | {name, *(group.name for group in problem.inner(name))}
    # What lies within another is matched with it.
    if not known.issuperset(problem.groups[name].within):
        return []
    return [b for b in problem.places[name] if all(n in within for n in b.names if n)]


def _best(problem: Problem, name: str, blocks: Sequence[Block], maps: Maps) -> dict[str, Tensor]:
    """Give the best map of a group, and of those within it."""
    if problem.inner(name):
        return _best_with_inner(problem, name, blocks, maps)
    group = problem.groups[name]
    gain = torch.zeros((*group.copies, group.size, group.size), dtype=torch.float64)
    for block in blocks:
        for axis in block.axes_of(name):
            other = problem.moved(block, maps, but=[axis])
            places = [block.place_of(outer, axis) for outer in group.within]
            one, two = (_flat(t, [*places, axis]) for t in (block.reference, other))
            gain += block.scale * (one @ two.mT).double().cpu()
    return {name: _chosen(problem, name, gain)}


def _best_with_inner(
    problem: Problem, name: str, blocks: Sequence[Block], maps: Maps
) -> dict[str, Tensor]:
    size = problem.groups[name].size
    inner = {group.name: group for group in problem.inner(name) if group.within == (name,)}
    total = torch.zeros((size, size), dtype=torch.float64)
    pairs = {n: torch.zeros((size, size, g.size, g.size)).double() for n, g in inner.items()}
    for block in blocks:
        for axis in block.axes_of(name):
            free = [(n, place) for n in inner for place in block.axes_of(n)]
            if not free:
                other = problem.moved(block, maps, but=[axis])
                one, two = (_flat(t, [axis]) for t in (block.reference, other))
                total += block.scale * (one @ two.mT).double().cpu()
            elif len(free) == 1:
                within, place = free[0]
                other = problem.moved(block, maps, but=[axis, place])
                one, two = (_flat(t, [axis, place]) for t in (block.reference, other))
                found = torch.einsum("mir,njr->mnij", one, two)
                pairs[within] += block.scale * found.double().cpu()
            # With two groups within in one block, each is matched by its other blocks.
    for within, gain in pairs.items():
        total += _worth(problem, within, gain)
    order = assign(total)
    rows = torch.arange(size)
    return {name: order, **{n: _chosen(problem, n, gain[rows, order]) for n, gain in pairs.items()}}


def _chosen(problem: Problem, name: str, gain: Tensor) -> Tensor:
    if name in problem.rotatable.keeps_mean:
        return nearest(gain, keeps_mean=problem.rotatable.keeps_mean[name]).float()
    return assign(gain)


def _worth(problem: Problem, name: str, gain: Tensor) -> Tensor:
    """Give the largest sum of gains that an order, or a rotation, has: [..., n, n] -> [...]."""
    if name in problem.rotatable.keeps_mean:
        values: Tensor = torch.linalg.svdvals(gain)
        return values.sum(-1)
    return gain.gather(-1, assign(gain)[..., None]).sum((-1, -2))


def _flat(tensor: Tensor, kept: Sequence[int]) -> Tensor:
    """Put some axes first and flatten all others into one."""
    laid = tensor.movedim(list(kept), list(range(len(kept))))
    return laid.reshape(*laid.shape[: len(kept)], -1)
