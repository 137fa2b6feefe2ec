"""Rotations of the units of a network: applied, sampled, saved; and what may be rotated."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn

from conjoin.alignment.blocks import boxes_of
from conjoin.alignment.rotations.scales import Place, Scale, scaled
from conjoin.alignment.rotations.turning import drawn, moved
from conjoin.checkpoints import open_checkpoint, save
from conjoin.errors import CheckpointError, InputError, MismatchError
from conjoin.symmetry import Group, Layout, Part, Permutations
from conjoin.symmetry.copies import fresh_copy
from conjoin.symmetry.proof import random_orders

__all__ = ["Rotatable", "Rotations"]

M = TypeVar("M", bound=nn.Module)

KEY = "conjoin.rotations"


@dataclass(frozen=True)
class Rotatable:
    """Which groups of a network may be rotated, not only reordered.

    Args:
        layout: all groups.
        keeps_mean: group that may be rotated -> whether only by rotations that keep the vector of
            ones, as where a LayerNorm subtracts the mean.
        scales: weights of norms of those groups, which have to be folded first.
        refused: group -> why it may not be rotated.
        aliases: another name of a tied tensor -> the name that `scales` know it by.
        error: of the outputs, relative to the largest, when all was rotated at once, in float64.
    """

    layout: Layout
    keeps_mean: Mapping[str, bool]
    scales: tuple[Scale, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    error: float = 0.0

    @property
    def groups(self) -> Mapping[str, Group]:
        """What may be rotated, by name."""
        return {name: self.layout.groups[name] for name in self.keeps_mean}

    def sample(self, generator: torch.Generator) -> "Rotations":
        """Draw a random rotation of all groups that may be rotated, and an order of all others."""
        matrices = {}
        for name, group in self.groups.items():
            shape = (*group.copies, group.size, group.size)
            matrices[name] = drawn(shape, generator, keeps_mean=self.keeps_mean[name])
        orders = random_orders(self.layout, generator)
        orders = {name: order for name, order in orders.items() if name not in matrices}
        return Rotations(self, matrices, Permutations(self.layout, orders))

    @overload
    def fold(self, model: M) -> M: ...
    @overload
    def fold(self, model: Mapping[str, Tensor]) -> dict[str, Tensor]: ...
    def fold(self, model: Any) -> Any:
        """Give a copy that computes the same, with norms' weights in the layers that read them."""
        return Rotations(self, {}).apply(model)


class Rotations:
    """An orthogonal matrix for every group that may be rotated, and an order for all others.

    Position i of the result is ``sum_j matrix[i, j] * position j``, after the reordering.

    Args:
        rotatable: what may be rotated.
        matrices: group -> float64 [copies..., size, size]; groups that are missing stay.
        permutations: of the other groups.
        norms: weights of norms -> what they are in the result; 1 (in effect) where missing.

    Raises:
        InputError: a matrix is not orthogonal, does not keep the mean where that is needed, or is
            of a group that may not be rotated.
    """

    def __init__(
        self,
        rotatable: Rotatable,
        matrices: Mapping[str, Tensor],
        permutations: Permutations | None = None,
        norms: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.rotatable = rotatable
        self.permutations = permutations or Permutations(rotatable.layout, {})
        self.norms = {name: tensor.detach().clone() for name, tensor in (norms or {}).items()}
        self.matrices: dict[str, Tensor] = {}
        for name, group in rotatable.groups.items():
            eye = torch.eye(group.size, dtype=torch.float64)
            whole = eye.expand(*group.copies, group.size, group.size)
            matrix = matrices.get(name, whole).detach().double().contiguous()
            if matrix.shape != whole.shape or not _near(matrix @ matrix.mT, whole):
                raise InputError(
                    f"the matrices of {name!r} must be orthogonal, {list(whole.shape)}; found "
                    f"{list(matrix.shape)}, or what is not orthogonal"
                )
            if rotatable.keeps_mean[name] and not _near(matrix.sum(-1), torch.ones(1).double()):
                raise InputError(
                    f"the matrix of {name!r} must keep the vector of ones, since a norm subtracts "
                    "the mean there"
                )
            if not torch.equal(self.permutations.orders[name], _unmoved(group)):
                raise InputError(f"{name!r} is rotated; its order must be the identity")
            self.matrices[name] = matrix
        for name in matrices:
            if name not in rotatable.keeps_mean:
                why = rotatable.refused.get(name, "there is no such group")
                raise InputError(f"{name!r} may not be rotated: {why}")
        strange = self.norms.keys() - {scale.tensor for scale in rotatable.scales}
        if strange:
            raise InputError(f"{min(strange)!r} is no weight of a norm that has to be folded")
        self._weights = {
            scale.tensor: _weight(scale, rotatable.groups[scale.group], self.norms)
            for scale in rotatable.scales
        }

    @overload
    def apply(self, model: M) -> M: ...
    @overload
    def apply(self, model: Mapping[str, Tensor]) -> dict[str, Tensor]: ...
    def apply(self, model: Any) -> Any:
        """Give the rotated copy of a module, or of its tensors by name; it computes the same.

        The arithmetic is in float64; dtypes are kept. The weights of norms become `norms`.

        Raises:
            MismatchError: a tensor is missing, has another shape, or is tied to another one.
            InputError: a weight of a norm is zero, so that its bias cannot be rotated.
        """
        if isinstance(model, nn.Module):
            result = fresh_copy(model)
            state = {
                **dict(result.named_parameters(remove_duplicate=False)),
                **dict(result.named_buffers(remove_duplicate=False)),
            }
            self._check_ties(state)
            changed = self._changed(state)
            with torch.no_grad():
                for name, tensor in changed:
                    state[name].copy_(tensor)
            return result
        self.permutations.check_names(model)
        return {**model, **dict(self._changed(model))}

    def _check_ties(self, state: Mapping[str, Tensor]) -> None:
        aliases, known = self.rotatable.aliases, dict[int, str]()
        for name, tensor in state.items():
            other = known.setdefault(id(tensor), name)
            if aliases.get(name, name) != aliases.get(other, other) and self.permutations.moves(
                name
            ):
                raise MismatchError(
                    f"{other!r} and {name!r} are one tensor in the model, but not in the network "
                    "that was asked what may be rotated; give the model a copy for each"
                )

    def _changed(self, state: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
        """Give the tensors that change, all from what `state` is now."""
        first = {name: self.rotatable.aliases.get(name, name) for name in state}
        factors = self._factors({first[name]: tensor for name, tensor in state.items()})
        result: list[tuple[str, Tensor]] = []
        touched = self._touched()
        for name, tensor in state.items():
            if name not in touched:
                continue
            self.permutations.check_shape(name, tensor.shape)
            changed = self._weights.get(first[name])
            if changed is None:
                changed = self._tensor(first[name], tensor.detach(), factors)
            result.append((name, changed.reshape(tensor.shape).to(tensor.device, tensor.dtype)))
        return result

    def _touched(self) -> set[str]:
        """Name the tensors that are rotated or reordered."""
        layout, orders = self.rotatable.layout, self.permutations.orders
        names = {
            name
            for name, group in layout.groups.items()
            if name in self.matrices or not torch.equal(orders[name], _unmoved(group))
        }
        return {n for n, parts in layout.tensors.items() if any(names & _atoms(p) for p in parts)}

    def _factors(self, state: Mapping[str, Tensor]) -> dict[Place, tuple[Tensor, Tensor]]:
        """Give what is multiplied with before and after rotation: the factors of all norms."""
        found: dict[Place, tuple[Tensor, Tensor]] = {}
        for scale in self.rotatable.scales:
            if scale.tensor not in state:
                raise MismatchError(f"there is no tensor {scale.tensor!r}, the weight of a norm")
            own = scale.factor(state).cpu()
            target = self._weights[scale.tensor] + scale.offset
            for place, power in scale.powers:
                if power < 0 and bool((own == 0).any()):
                    raise InputError(
                        f"{scale.tensor!r} has a zero, so that {place.tensor!r} cannot be rotated "
                        "with it; make it a small number, or leave the group to permutations"
                    )
                one, two = found.get(place, (torch.ones(()), torch.ones(())))
                found[place] = (one * own**power, two * target**-power)
        return found

    def _tensor(
        self, name: str, tensor: Tensor, factors: Mapping[Place, tuple[Tensor, Tensor]]
    ) -> Tensor:
        layout, orders = self.rotatable.layout, self.permutations.orders
        wide = torch.complex128 if tensor.is_complex() else torch.float64
        result = tensor.to(wide).contiguous().clone()
        for number, (box, names, dims) in enumerate(boxes_of(result, layout.tensors[name])):
            here = [
                (p.axis, both) for p, both in factors.items() if (p.tensor, p.box) == (name, number)
            ]
            value = box
            for axis, (before, _) in here:
                value = scaled(value, axis, before)
            value = moved(value, names, dims, layout.groups, orders, self.matrices)
            for axis, (_, after) in here:
                value = scaled(value, axis, after)
            box.copy_(value)  # a box is a view of the result
        return result

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, which `Permutations.load` takes the orders of, too."""
        self.permutations.save(path)
        stored = open_checkpoint(path)
        tensors = {
            **stored,
            **{f"matrix.{n}": matrix for n, matrix in enumerate(self.matrices.values())},
            **{f"norm.{name}": tensor for name, tensor in self.norms.items()},
        }
        facts = {
            "keeps_mean": dict(self.rotatable.keeps_mean),
            "scales": [_scale_json(scale) for scale in self.rotatable.scales],
            "refused": dict(self.rotatable.refused),
            "aliases": dict(self.rotatable.aliases),
            "error": self.rotatable.error,
        }
        save(
            tensors,
            Path(path),
            metadata={**stored.metadata, KEY: json.dumps(facts)},
            overwrite=True,
        )

    @classmethod
    def load(cls, path: str | Path) -> "Rotations":
        """Read what `save` wrote.

        Raises:
            CheckpointError: it is no such file.
        """
        permutations = Permutations.load(path)
        stored = open_checkpoint(path)
        if KEY not in stored.metadata:
            raise CheckpointError(f"{path} has permutations, but no rotations")
        facts = json.loads(stored.metadata[KEY])
        scales = tuple(map(_scale_of, facts.pop("scales")))
        rotatable = Rotatable(permutations.layout, scales=scales, **facts)
        matrices = {name: stored[f"matrix.{n}"] for n, name in enumerate(rotatable.keeps_mean)}
        norms = {
            name.removeprefix("norm."): stored[name] for name in stored if name.startswith("norm.")
        }
        return cls(rotatable, matrices, permutations, norms)


def _weight(scale: Scale, group: Group, norms: Mapping[str, Tensor]) -> Tensor:
    """Give the weight of a norm in the result: float64 [size]."""
    if scale.tensor not in norms:
        return torch.full((group.size,), 1 - scale.offset, dtype=torch.float64)
    weight = norms[scale.tensor].double().cpu().flatten()
    if bool((weight + scale.offset == 0).any()):
        raise InputError(
            f"{scale.tensor!r} of the reference has a zero, which no layer can be divided by; "
            "align to the folded reference, `rotatable.fold(reference)`, and combine with that"
        )
    return weight


def _atoms(part: Part) -> set[str | None]:
    """Name the groups that an axis is made of."""
    return {part.name}.union(*map(_atoms, part.parts))


def _near(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other.expand_as(one), rtol=0, atol=1e-6)


def _unmoved(group: Group) -> Tensor:
    return torch.arange(group.size).expand(*group.copies, group.size)


def _scale_json(scale: Scale) -> dict[str, Any]:
    powers = [[p.tensor, p.box, p.axis, power] for p, power in scale.powers]
    return {
        "tensor": scale.tensor, "group": scale.group, "offset": scale.offset, "powers": powers
    }  # fmt: skip


def _scale_of(found: Mapping[str, Any]) -> Scale:
    powers = tuple((Place(name, box, axis), power) for name, box, axis, power in found["powers"])
    return Scale(found["tensor"], found["group"], found["offset"], powers)
