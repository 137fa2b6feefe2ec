"""Two models as blocks: boxes of their tensors in which every axis is one group, or is pinned."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt

import torch
from torch import Tensor

from conjoin.symmetry.groups import Group, Layout, Part
from conjoin.symmetry.reordering import Orders, change_boxes, place_of, reorder_axes

__all__ = [
    "Block",
    "beside",
    "blocks_of",
    "boxes_of",
    "inner_product",
    "pinned_holders",
    "reordered",
]

Box = tuple[Tensor, tuple[str | None, ...], tuple[int, ...]]
"""(box, name of the group in each axis or None, dimension that each axis is a part of)."""


@dataclass(frozen=True, eq=False)
class Block:
    """The same box of one tensor in both models.

    Args:
        tensor: its name.
        names: of the group in each axis; None where it is pinned, unless groups lie within what
            is pinned there: then its name, which is of no group.
        dims: dimension of the tensor that each axis is a part of.
        reference: of the model that stays, float32, one axis for each name.
        other: of the model that is reordered.
        scale: that its inner product counts with.
    """

    tensor: str
    names: tuple[str | None, ...]
    dims: tuple[int, ...]
    reference: Tensor
    other: Tensor
    scale: float

    def axes_of(self, name: str) -> list[int]:
        """Give the axes that a group is in."""
        return [axis for axis, found in enumerate(self.names) if found == name]

    def place_of(self, outer: str, axis: int) -> int:
        """Give the axis of an outer group that tells copies in another axis apart."""
        return place_of(outer, axis, self.names, self.dims)


def blocks_of(
    layout: Layout,
    reference: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    names: Iterable[str],
) -> list[Block]:
    """Take two models apart into all blocks that something may be reordered in.

    Every layer counts alike: the blocks of a layer are scaled by the norms of the layer in both
    models, so that equal layers have the inner product 1.

    Args:
        layout: of both.
        reference, other: tensors by name.
        names: of the tensors to look at.
    """
    found: dict[str, list[Block]] = {}
    known = layout.groups.keys() | pinned_holders(layout.groups)
    for name in names:
        parts = layout.tensors[name]
        both = zip(boxes_of(reference[name], parts), boxes_of(other[name], parts), strict=True)
        for (one, atoms, dims), (two, _, _) in both:
            kept = tuple(n if n in known else None for n in atoms)
            if any(n in layout.groups for n in kept):
                block = Block(name, kept, dims, one.float(), two.float(), 1.0)
                found.setdefault(name.rpartition(".")[0], []).append(block)
    return [replace(block, scale=_scale(layer)) for layer in found.values() for block in layer]


def beside(
    reference: Mapping[str, Tensor], other: Mapping[str, Tensor], names: Iterable[str]
) -> dict[str, Tensor]:
    """Give tensors of another model, on the devices of those of the reference."""
    return {name: other[name].to(reference[name].device) for name in names}


def pinned_holders(groups: Mapping[str, Group]) -> set[str]:
    """Name what groups lie within and is no group itself: its positions stay where they are.

    The channels of an input that a grouped convolution reads, for instance: the outputs of each of
    its groups may be reordered, and the groups may not.
    """
    return {outer for group in groups.values() for outer in group.within} - groups.keys()


def _scale(layer: Sequence[Block]) -> float:
    one, two = (
        sum(float(tensor.double().square().sum()) for tensor in tensors)
        for tensors in ([b.reference for b in layer], [b.other for b in layer])
    )
    return 1 / sqrt(one * two) if one * two > 0 else 0.0


def reordered(
    block: Block, groups: Mapping[str, Group], orders: Orders, *, but: Sequence[int] = ()
) -> Tensor:
    """Reorder the other model's side of a block.

    Args:
        block: what is reordered.
        groups: of the layout.
        orders: of all groups.
        but: axes that are left as they are.
    """
    return reorder_axes(block.other, block.names, block.dims, groups, orders, but=but)


def boxes_of(tensor: Tensor, parts: Sequence[Part]) -> list[Box]:
    """Give the boxes of a tensor, views of it where its layout in memory allows."""
    found: list[Box] = []

    def look(box: Tensor, names: Sequence[str | None], dims: Sequence[int]) -> Tensor:
        found.append((box.detach(), tuple(names), tuple(dims)))
        return box

    change_boxes(tensor, parts, look)
    return found


def inner_product(block: Block, groups: Mapping[str, Group], orders: Orders) -> float:
    """Give what a block adds to the objective."""
    products = block.reference * reordered(block, groups, orders)
    return block.scale * float(products.sum(dtype=torch.float64))
