"""Permutations of a network's hidden units: sampled, applied, composed, inverted, saved."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn

from conjoin.checkpoints import Checkpoint, open_checkpoint, save
from conjoin.errors import CheckpointError, InputError, MismatchError
from conjoin.symmetry.copies import fresh_copy
from conjoin.symmetry.groups import Group, Layout, Part
from conjoin.symmetry.reordered import ReorderedCheckpoint
from conjoin.symmetry.reordering import change_boxes, part_size, reorder_axes

__all__ = ["Permutations"]

M = TypeVar("M", bound=nn.Module)

FORMAT = "conjoin.permutations"


class Permutations:
    """An order for every group of a layout: position i of the result is position ``order[i]``.

    Args:
        layout: groups, and of which of them the tensors are made.
        orders: group -> int64 [copies..., size], a permutation in the last dimension, of any
            device; groups that are missing stay as they are.

    Raises:
        InputError: an order is no permutation, or of no group.
    """

    def __init__(self, layout: Layout, orders: Mapping[str, Tensor]) -> None:
        self.layout = layout
        self.orders: dict[str, Tensor] = {}
        for name, group in layout.groups.items():
            shape = (*group.copies, group.size)
            order = orders.get(name)
            order = torch.arange(group.size).expand(shape) if order is None else order.cpu()
            if tuple(order.shape) != shape or not _is_permutation(order):
                raise InputError(
                    f"the order of {name!r} must be permutations of {group.size} positions, "
                    f"int64 {list(shape)}; found {order.dtype} {list(order.shape)}"
                )
            self.orders[name] = order.contiguous()
        unknown = [name for name in orders if name not in layout.groups]
        if unknown:
            raise InputError(f"there is no group {unknown[0]!r} to reorder")

    @overload
    def apply(self, model: M) -> M: ...
    @overload
    def apply(self, model: Checkpoint) -> ReorderedCheckpoint: ...  # type: ignore[overload-overlap]
    @overload
    def apply(self, model: Mapping[str, Tensor]) -> dict[str, Tensor]: ...
    def apply(self, model: Any) -> Any:
        """Give the reordered copy of a module, or of a mapping of its tensors.

        A checkpoint is not read: what is given for it reorders each tensor when it is asked for.
        Names that the layout does not know are kept as they are; what has no part that may move
        need not be there, such as a buffer that no file holds.

        Raises:
            MismatchError: a tensor is missing, or has another shape.
        """
        if isinstance(model, nn.Module):
            result = fresh_copy(model)
            state = {
                **dict(result.named_parameters(remove_duplicate=False)),
                **dict(result.named_buffers(remove_duplicate=False)),
            }
            done = set()  # a tied tensor has several names
            with torch.no_grad():
                for name in self._moved():
                    if name not in state:
                        raise MismatchError(f"the model has no tensor {name!r}")
                    if id(state[name]) not in done:
                        state[name].copy_(self.tensor(name, state[name].detach()))
                        done.add(id(state[name]))
            return result
        self.check_names(model)
        if isinstance(model, Checkpoint):
            return ReorderedCheckpoint(model, self)
        return {
            name: self.tensor(name, tensor) if name in self.layout.tensors else tensor
            for name, tensor in model.items()
        }

    def tensor(self, name: str, tensor: Tensor) -> Tensor:
        """Give one reordered tensor.

        Raises:
            MismatchError: it is not in the layout, or has another shape there.
        """
        if name not in self.layout.tensors:
            raise MismatchError(f"the permutations know no tensor {name!r}")
        self.check_shape(name, tensor.shape)

        def reordered(box: Tensor, names: Sequence[str | None], dims: Sequence[int]) -> Tensor:
            return reorder_axes(box, names, dims, self.layout.groups, self.orders)

        return change_boxes(tensor, self.layout.tensors[name], reordered)

    def moves(self, name: str) -> bool:
        """Whether a tensor has a part that may be reordered."""
        names = self.layout.groups
        return any(_has_atom(part, names) for part in self.layout.tensors.get(name, ()))

    def check_shape(self, name: str, shape: Sequence[int]) -> None:
        """Raise a MismatchError if a tensor that the layout knows has another shape there."""
        if name not in self.layout.tensors:
            return
        sizes = tuple(map(part_size, self.layout.tensors[name]))
        if tuple(shape) != sizes:
            raise MismatchError(
                f"{name!r} has the shape {list(shape)}; the permutations are for {list(sizes)}"
            )

    def check_names(self, model: Mapping[str, Tensor]) -> None:
        """Raise a MismatchError if a tensor is missing; of a tied one, any name will do."""
        tensors, moved = self.layout.tensors, self._moved()
        owners = {name for group in self.layout.groups.values() for name, _ in group.members}
        aliases = [name for name in moved if name not in owners and name in model]
        for name in moved:
            tied = name not in owners or any(tensors[other] == tensors[name] for other in aliases)
            if name not in model and not tied:
                raise MismatchError(
                    f"there is no tensor {name!r} among the {len(model)} given, though its order "
                    "is to be changed"
                )

    def inverse(self) -> "Permutations":
        """Give what puts everything back."""
        orders: dict[str, Tensor] = {}
        for name, group in self.layout.groups.items():
            back = self.orders[name].argsort(-1)
            orders[name] = _at(back, [self._order_of(orders, w, n) for w, n in _around(group)])
        return Permutations(self.layout, orders)

    def after(self, first: "Permutations") -> "Permutations":
        """Give what applying `first` and then this does."""
        self._check_same(first)
        orders = {}
        for name, group in self.layout.groups.items():
            before = _at(
                first.orders[name], [self._order_of(self.orders, w, n) for w, n in _around(group)]
            )
            orders[name] = before.gather(-1, self.orders[name])
        return Permutations(self.layout, orders)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Permutations):
            return NotImplemented
        return self.layout == other.layout and all(
            torch.equal(order, other.orders[name]) for name, order in self.orders.items()
        )

    __hash__ = None  # type: ignore[assignment]

    def is_identity(self) -> bool:
        """Whether nothing is moved."""
        return all(
            torch.equal(order, torch.arange(order.shape[-1]).expand_as(order))
            for order in self.orders.values()
        )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; its metadata hold the layout as JSON."""
        names = {f"order.{number}": name for number, name in enumerate(self.orders)}
        tensors = {number: self.orders[name] for number, name in names.items()}
        layout = {n: list(map(_part_json, parts)) for n, parts in self.layout.tensors.items()}
        metadata = {
            "conjoin.format": FORMAT,
            "groups": json.dumps([_group_json(g) for g in self.layout.groups.values()]),
            "tensors": json.dumps(layout),
            "pinned": json.dumps({reason: list(t) for reason, t in self.layout.pinned.items()}),
        }
        save(tensors, Path(path), metadata=metadata, overwrite=True)

    @classmethod
    def load(cls, path: str | Path) -> "Permutations":
        """Read what `save` wrote.

        Raises:
            CheckpointError: it is no such file.
        """
        stored = open_checkpoint(path)
        if stored.metadata.get("conjoin.format") != FORMAT:
            raise CheckpointError(f"{path} has no permutations; they are written by `save`")
        groups = [_group_of(found) for found in json.loads(stored.metadata["groups"])]
        tensors = {
            name: tuple(map(_part_of, parts))
            for name, parts in json.loads(stored.metadata["tensors"]).items()
        }
        pinned = {r: tuple(t) for r, t in json.loads(stored.metadata["pinned"]).items()}
        layout = Layout({group.name: group for group in groups}, tensors, pinned)
        return cls(layout, {group.name: stored[f"order.{n}"] for n, group in enumerate(groups)})

    def _moved(self) -> list[str]:
        return [name for name in self.layout.tensors if self.moves(name)]

    def _order_of(self, orders: Mapping[str, Tensor], name: str, size: int) -> Tensor:
        return orders.get(name, torch.arange(size))  # what is pinned stays in its place

    def _check_same(self, other: "Permutations") -> None:
        if self.layout != other.layout:
            raise MismatchError("the permutations are of networks of different structure")


def _has_atom(part: Part, names: Mapping[str, Group]) -> bool:
    return part.name in names or any(_has_atom(one, names) for one in part.parts)


def _around(group: Group) -> list[tuple[str, int]]:
    return list(zip(group.within, group.copies, strict=True))


def _at(order: Tensor, rows: Sequence[Tensor]) -> Tensor:
    """Give the orders of copies that have themselves been moved."""
    for dim, row in enumerate(rows):
        order = order.index_select(dim, row)
    return order


def _is_permutation(order: Tensor) -> bool:
    expected = torch.arange(order.shape[-1]).expand_as(order)
    return order.dtype == torch.int64 and torch.equal(order.sort(-1).values, expected)


def _part_json(part: Part) -> Any:
    if part.kind == "atom":
        return [part.name, part.size]
    return {part.kind: list(map(_part_json, part.parts))}


def _part_of(found: Any) -> Part:
    if isinstance(found, list):
        return Part("atom", found[0], int(found[1]))
    kind, parts = next(iter(found.items()))
    return Part(kind, parts=tuple(map(_part_of, parts)))


def _group_json(group: Group) -> dict[str, Any]:
    return {
        "name": group.name,
        "size": group.size,
        "within": list(group.within),
        "copies": list(group.copies),
        "members": [list(member) for member in group.members],
    }


def _group_of(found: Mapping[str, Any]) -> Group:
    members = tuple((str(tensor), int(dim)) for tensor, dim in found["members"])
    within, copies = tuple(found["within"]), tuple(found["copies"])
    return Group(found["name"], int(found["size"]), within, copies, members)
