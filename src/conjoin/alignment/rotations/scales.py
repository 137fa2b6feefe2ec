"""Which tensors scale the units of a group, such as the weights of a norm, and against what.

A norm's weight g and the linear layer W that reads it scale against each other: g_i s_i and
W_oi / s_i compute the same for any s. So do a norm's weight and its bias, and the weight of a
LayerScale and the layer before it. For the loss of any outputs, then, along that change

    g_i dL/dg_i = sum over tensors T that scale against g:  p_T * sum of T dL/dT at unit i

with powers p_T of 1 (W) or -1 (the norm's bias). Each T's sum is a vector over units, so that the
powers are found by least squares from gradients of a few random losses: no rule for any operation
is needed, and a norm may be written in any way. Powers that do not come out as integers are none.

Source: the conservation law of scale symmetries, Kunin et al., Neural Mechanics, ICLR 2021.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from conjoin.alignment.blocks import boxes_of
from conjoin.symmetry import Group, Layout
from conjoin.symmetry.reordering import part_size

__all__ = ["Place", "Scale", "find_scales", "places_of", "scaled"]

EXACT = 1e-6
"""Largest error of a power, and of what the powers leave unexplained."""


@dataclass(frozen=True, order=True)
class Place:
    """Where a group stands in a tensor.

    Args:
        tensor: its name.
        box: which of its boxes; see `conjoin.alignment.blocks.boxes_of`.
        axis: of the box.
    """

    tensor: str
    box: int
    axis: int


@dataclass(frozen=True)
class Scale:
    """A tensor that scales each unit of a group.

    Args:
        tensor: its name: as many numbers as the group has units.
        group: its name.
        offset: what is added to the tensor before it scales: 1 in Gemma's norms, 0 in most.
        powers: places that scale against it. Where the factor becomes 1, they are multiplied by
            it to the power of 1 or -1.
    """

    tensor: str
    group: str
    offset: float
    powers: tuple[tuple[Place, int], ...]

    def factor(self, state: Mapping[str, Tensor]) -> Tensor:
        """Give what the units are scaled by: float64 [size]."""
        return state[self.tensor].detach().double().flatten() + self.offset


def places_of(layout: Layout, names: Sequence[str]) -> Iterator[tuple[Place, str]]:
    """Give each place of every group in some tensors, and the group's name."""
    for name in names:
        parts = layout.tensors[name]
        shape = _shape(layout, name)
        for box, (_, atoms, _) in enumerate(boxes_of(torch.empty(shape, device="meta"), parts)):
            for axis, atom in enumerate(atoms):
                if atom in layout.groups:
                    yield Place(name, box, axis), str(atom)


def scaled(box: Tensor, axis: int, factor: Tensor) -> Tensor:
    """Multiply each position of an axis by a number: [..., n, ...] and [n]."""
    shape = [1] * box.dim()
    shape[axis] = -1
    return box * factor.to(box.device, box.real.dtype).reshape(shape)


def find_scales(
    model: nn.Module,
    layout: Layout,
    run: Callable[[nn.Module], Sequence[Tensor]],
    generator: torch.Generator,
) -> list[Scale]:
    """Find what scales the units of groups, from gradients.

    Args:
        model: in float64, without weights that are all equal.
        layout: its groups.
        run: gives the outputs of the model.
        generator: of the random losses.
    """
    outer = [group for group in layout.groups.values() if not group.within]
    found: dict[str, list[Scale]] = {group.name: [] for group in outer}
    parameters = dict(model.named_parameters())
    vectors = {g.name: _vectors(g, parameters) for g in outer}
    outer = [group for group in outer if vectors[group.name]]
    names = [name for name in layout.tensors if name in parameters]
    everywhere = list(places_of(layout, names))
    sizes = [(sum(name == g.name for _, name in everywhere), g.size) for g in outer]
    losses = max((ceil(2 * count / size) for count, size in sizes), default=0)
    if not losses:
        return []
    rows = _gradients(model, run, losses, generator)
    for group in outer:
        places = [place for place, name in everywhere if name == group.name]
        columns = {
            place: torch.cat([_sum(layout, parameters, row, place) for row in rows])
            for place in places
        }
        for name in vectors[group.name]:
            slope = torch.cat([row[name].flatten() for row in rows])
            one = _scale(name, group, columns, slope, vectors[group.name])
            if one is not None:
                found[group.name].append(one)
    return [scale for scales in found.values() for scale in _independent(scales)]


def _vectors(group: Group, parameters: Mapping[str, Tensor]) -> list[str]:
    names = dict.fromkeys(name for name, _ in group.members if name in parameters)
    return [name for name in names if parameters[name].numel() == group.size]


def _gradients(
    model: nn.Module, run: Callable[[nn.Module], Any], losses: int, generator: torch.Generator
) -> list[dict[str, Tensor]]:
    """Give the gradients of random losses, of each parameter; zeros where there is none."""
    parameters = dict(model.named_parameters())
    before = {name: tensor.requires_grad for name, tensor in parameters.items()}
    for tensor in parameters.values():
        tensor.requires_grad_(tensor.is_floating_point() or tensor.is_complex())
    try:
        with torch.enable_grad():
            outputs = [out for out in run(model) if out.requires_grad]
            rows = []
            for _ in range(losses if outputs else 0):
                drawn = [
                    torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o)
                    for o in outputs
                ]
                wanted = [n for n, tensor in parameters.items() if tensor.requires_grad]
                found = torch.autograd.grad(
                    outputs, [parameters[n] for n in wanted], drawn,
                    retain_graph=True, materialize_grads=True,
                )  # fmt: skip
                rows.append(dict(zip(wanted, found, strict=True)))
    finally:
        for name, tensor in parameters.items():
            tensor.requires_grad_(before[name])
    return rows


def _sum(
    layout: Layout, state: Mapping[str, Tensor], gradients: Mapping[str, Tensor], place: Place
) -> Tensor:
    """Sum weight times gradient over all but the units: float64 [size]."""
    product = state[place.tensor].detach() * gradients[place.tensor]
    boxes = list(boxes_of(product, layout.tensors[place.tensor]))
    box = boxes[place.box][0]
    return box.movedim(place.axis, 0).flatten(1).sum(1) if box.dim() > 1 else box


def _scale(
    name: str,
    group: Group,
    columns: Mapping[Place, Tensor],
    slope: Tensor,
    vectors: Sequence[str],
) -> Scale | None:
    """Solve for the powers; None if they do not explain the tensor's gradient."""
    own = next(column for place, column in columns.items() if place.tensor == name)
    others = {place: column for place, column in columns.items() if place.tensor != name}
    # own + offset * slope = sum of powers times columns
    matrix = torch.stack([*others.values(), -slope], 1)
    norms = matrix.norm(dim=0)
    unseen = [place for place, norm in zip(others, norms.tolist()[:-1], strict=True) if not norm]
    if not others or unseen or not float(own.norm()) > 0:
        return None  # what no gradient reaches, such as an expert that was not asked, may scale too
    matrix = matrix / norms
    solution = torch.linalg.lstsq(matrix, own[:, None], driver="gelsd").solution[:, 0]
    if float((matrix @ solution - own).norm()) > EXACT * float(own.norm()):
        return None
    values = solution / norms
    if float((values - values.round()).abs().max()) > EXACT:
        return None
    *powers, offset = map(int, values.round().tolist())
    known = {*powers, offset} <= {-1, 0, 1} and any(powers)
    # A layer takes the factor in; only another vector, the bias of a norm, is divided by it.
    divided = [p.tensor for p, power in zip(others, powers, strict=True) if power < 0]
    if not known or not all(name in vectors for name in divided):
        return None
    against = tuple((p, power) for p, power in zip(others, powers, strict=True) if power)
    return Scale(name, group.name, float(offset), against)


def _independent(scales: Sequence[Scale]) -> list[Scale]:
    """Leave out what scales against an earlier scale: the bias of a norm, against its weight."""
    kept: dict[str, Scale] = {}
    for scale in scales:
        if not any(place.tensor in kept for place, _ in scale.powers):
            kept[scale.tensor] = scale
    return list(kept.values())


def _shape(layout: Layout, name: str) -> tuple[int, ...]:
    return tuple(map(part_size, layout.tensors[name]))
