"""What an alignment gives: the order of a model's units, and how well each group was matched."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn

from conjoin.alignment.blocks import Block, reordered
from conjoin.alignment.gains import gain_of
from conjoin.alignment.matching import Problem
from conjoin.checkpoints import Checkpoint
from conjoin.symmetry import Group, Permutations, ReorderedCheckpoint
from conjoin.symmetry.reordering import Orders

__all__ = ["Alignment", "Matched", "cosines_of", "mutual_of"]

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Matched:
    """How well the units of a group were matched.

    Args:
        name: of the group.
        size: number of units.
        moved: share of units that are not where they were.
        before: mean cosine between the weights of a unit and those of the reference's unit in its
            place, as the model was; every weight that the unit reads or writes with counts.
        after: the same after alignment.
        mutual: share of units that are each other's best match: near 1 where the match is certain,
            and near 0 where it is hardly better than another.

    Of several models that were aligned at once, `before` and `after` are means over the other
    models, and `mutual` is of matches with the mean of the other models.
    """

    name: str
    size: int
    moved: float
    before: float
    after: float
    mutual: float


@dataclass(frozen=True)
class Alignment:
    """The order of a model's units that fits the reference best.

    Args:
        permutations: what the model is to be reordered by.
        groups: how well each was matched.
        objective: how close the weights are: the mean over layers of the cosine between those of
            their weights that may move; 1 for equal models. Of several models, the mean over the
            other ones.
        before: the same, as the model was.
        starts: what each start of the search has reached of what it was to match, divided by the
            number of layers; the best one first. Of three models and more, the starts are the
            models that all others were matched with first.
        seconds: that it took.
    """

    permutations: Permutations
    groups: tuple[Matched, ...]
    objective: float
    before: float
    starts: tuple[tuple[str, float], ...]
    seconds: float

    @overload
    def apply(self, model: M) -> M: ...
    @overload
    def apply(self, model: Checkpoint) -> ReorderedCheckpoint: ...  # type: ignore[overload-overlap]
    @overload
    def apply(self, model: Mapping[str, Tensor]) -> dict[str, Tensor]: ...
    def apply(self, model: Any) -> Any:
        """Give the aligned copy of the model; see `Permutations.apply`."""
        return self.permutations.apply(model)


def cosines_of(problem: Problem, orders: Orders) -> dict[str, float]:
    """Give the mean cosine between the weights of a unit and those of its partner, of each group.

    Args:
        problem: two models, `conjoin.alignment.together.Models.pair`: weights of the reference are
            in units of their layer's norm, those of the other are once they are scaled.
        orders: of the one that is reordered.
    """
    found = {}
    put = {id(b): reordered(b, problem.groups, orders) for b in problem.blocks}
    for name, group in problem.groups.items():
        both, one, two = torch.zeros((3, *group.copies, group.size), dtype=torch.float64)
        for block in problem.places[name]:
            other = put[id(block)]
            both += block.scale * _along(group, block, block.reference, other)
            one += _along(group, block, block.reference, block.reference)
            two += block.scale**2 * _along(group, block, other, other)
        largest = (one * two).sqrt()
        found[name] = float((both / largest.where(largest > 0, torch.tensor(1.0))).mean())
    return found


def _along(group: Group, block: Block, one: Tensor, two: Tensor) -> Tensor:
    """Give the inner products of the weights of each unit: float64 [copies..., size]."""
    total = torch.zeros((*group.copies, group.size), dtype=torch.float64)
    for axis in block.axes_of(group.name):
        kept = [*(block.place_of(outer, axis) for outer in group.within), axis]
        product = (one * two)[..., None]
        rest = [place for place in range(product.dim()) if place not in kept]
        product = product.permute(*kept, *rest).flatten(len(kept))
        total += product.sum(-1, dtype=torch.float64).cpu()
    return total


def mutual_of(problem: Problem, orders: Orders) -> dict[str, float]:
    """Give the share of units that are each other's best match, of each group."""
    identity = problem.identity()
    found = {}
    for name, group in problem.groups.items():
        blocks = _put(problem.places[name], problem.groups, orders)
        gain = gain_of(group, blocks, problem.groups, identity)
        taken = gain.diagonal(dim1=-2, dim2=-1)
        best = (taken >= gain.amax(-1)) & (taken >= gain.amax(-2))
        found[name] = float(best.double().mean())
    return found


def _put(blocks: Sequence[Block], groups: Mapping[str, Group], orders: Orders) -> Iterable[Block]:
    for block in blocks:
        yield replace(block, other=reordered(block, groups, orders))
