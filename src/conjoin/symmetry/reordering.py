"""One tensor with every axis one group, or pinned: put into given orders."""

from collections.abc import Callable, Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from conjoin.symmetry.groups import Group, Part

__all__ = ["Change", "Orders", "change_boxes", "part_size", "place_of", "reorder_axes"]

Orders = Mapping[str, Tensor]
"""Group -> int64 [copies..., size]: position i of the result is position ``order[i]``."""

Change = Callable[[Tensor, Sequence[str | None], Sequence[int]], Tensor]
"""(box of a tensor, name of the group in each axis or None, dimension that each axis is a part of)
-> the box, changed, of the same shape."""


def change_boxes(tensor: Tensor, parts: Sequence[Part], change: Change) -> Tensor:
    """Change each box of a tensor, and put them together again.

    Args:
        tensor: one dimension for each part.
        parts: how the dimensions are made up: products become axes, and sums boxes.
        change: what is done with a box, in which each axis is one group or is pinned.
    """
    return _changed(tensor, parts, range(len(parts)), change)


def reorder_axes(
    tensor: Tensor,
    names: Sequence[str | None],
    dims: Sequence[int],
    groups: Mapping[str, Group],
    orders: Orders,
    *,
    but: Sequence[int] = (),
) -> Tensor:
    """Reorder a tensor.

    Args:
        tensor: one axis for each name.
        names: of the group in each axis; None, or no name of a group, where it is pinned.
        dims: dimension of the whole tensor that each axis is a part of.
        groups: by name.
        orders: of all groups.
        but: axes that are left as they are.
    """
    found = {name for name in names if name is not None and name in groups}
    # An outer group comes first: the orders within are by its positions in the result.
    for name in sorted(found, key=lambda name: (bool(groups[name].within), name)):
        order = orders[name].to(tensor.device)
        for axis in (at for at, other in enumerate(names) if other == name and at not in but):
            if not groups[name].within:
                tensor = tensor.index_select(axis, order)
                continue
            places = [place_of(outer, axis, names, dims) for outer in groups[name].within]
            tensor = tensor.gather(axis, _laid(order, places, axis, tensor))
    return tensor


def place_of(outer: str, axis: int, names: Sequence[str | None], dims: Sequence[int]) -> int:
    """Give the axis of an outer group: in the same dimension, if it is there, else anywhere."""
    found = [place for place, other in enumerate(names) if other == outer]
    return next((place for place in found if dims[place] == dims[axis]), found[0])


def part_size(part: Part) -> int:
    """Give the number of positions of a part.

    >>> part_size(Part("product", parts=(Part("atom", "a", 3), Part("atom", None, 4))))
    12
    """
    sizes = list(map(part_size, part.parts))
    return part.size if part.kind == "atom" else sum(sizes) if part.kind == "sum" else prod(sizes)


def _changed(tensor: Tensor, parts: Sequence[Part], dims: Sequence[int], change: Change) -> Tensor:
    for at, part in enumerate(parts):
        if part.kind == "atom":
            continue
        sizes = list(map(part_size, part.parts))
        if part.kind == "product":
            shape = (*tensor.shape[:at], *sizes, *tensor.shape[at + 1 :])
            inner = (*parts[:at], *part.parts, *parts[at + 1 :])
            around = (*dims[:at], *(dims[at] for _ in sizes), *dims[at + 1 :])
            return _changed(tensor.reshape(shape), inner, around, change).reshape(tensor.shape)
        pieces = zip(tensor.split(sizes, at), part.parts, strict=True)
        return torch.cat(
            [_changed(p, (*parts[:at], one, *parts[at + 1 :]), dims, change) for p, one in pieces],
            at,
        )
    return change(tensor, [part.name for part in parts], dims)


def _laid(order: Tensor, places: Sequence[int], axis: int, like: Tensor) -> Tensor:
    """Lay the orders of all copies along the axes that tell copies apart."""
    at = (*places, axis)
    shape = [1] * like.dim()
    for place in at:
        shape[place] = like.shape[place]
    laid = order.permute([at.index(number) for number in sorted(at)])
    return laid.reshape(shape).expand(like.shape)
