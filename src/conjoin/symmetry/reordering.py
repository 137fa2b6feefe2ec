"""One tensor with every axis one group, or pinned: put into given orders."""

from collections.abc import Mapping, Sequence
from math import prod

from torch import Tensor

from conjoin.symmetry.groups import Group, Part

__all__ = ["Orders", "part_size", "place_of", "reorder_axes"]

Orders = Mapping[str, Tensor]
"""Group -> int64 [copies..., size]: position i of the result is position ``order[i]``."""


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


def _laid(order: Tensor, places: Sequence[int], axis: int, like: Tensor) -> Tensor:
    """Lay the orders of all copies along the axes that tell copies apart."""
    at = (*places, axis)
    shape = [1] * like.dim()
    for place in at:
        shape[place] = like.shape[place]
    laid = order.permute([at.index(number) for number in sorted(at)])
    return laid.reshape(shape).expand(like.shape)
