"""The models of a coupling: their tensors by name, and whether they fit together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from conjoin.checkpoints import describe_name_difference
from conjoin.errors import InputError, MismatchError
from conjoin.measure import Layer, layers_of

__all__ = [
    "Member",
    "check_coupled",
    "check_shareable",
    "check_start",
    "common_names",
    "layers_of_members",
    "plain",
    "read_members",
    "relative_gap",
]


@dataclass(frozen=True, eq=False)
class Member:
    """One model with its optimizer.

    Args:
        name: given by the user.
        module: not compiled or wrapped.
        optimizer: that trains it.
    """

    name: str
    module: nn.Module
    optimizer: Optimizer

    @cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Parameters by name; a tied one once."""
        return dict(self.module.named_parameters())

    def group_numbers(self) -> dict[int, int]:
        """Give the number of the optimizer's group of each parameter, by `id`.

        Looked up anew for each pull: loading an optimizer's state replaces its groups.
        """
        return {
            id(parameter): number
            for number, group in enumerate(self.optimizer.param_groups)
            for parameter in group["params"]
        }


def plain(module: nn.Module) -> nn.Module:
    """Give the module inside `torch.compile` or a data-parallel wrapper.

    >>> net = nn.Linear(1, 1)
    >>> plain(net) is net
    True
    """
    while True:
        inner = getattr(module, "_orig_mod", None)
        if isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def read_members(models: Mapping[str, tuple[nn.Module, Optimizer]]) -> tuple[Member, ...]:
    """Give the members of a coupling.

    Raises:
        InputError: fewer than two, an entry that is no (module, optimizer), one model twice, one on
            the meta device, or an optimizer with none of its model's parameters.
    """
    if not isinstance(models, Mapping):
        raise InputError(
            "a coupling takes {name: (module, optimizer)}, two or more of them, not "
            f"{type(models).__name__}"
        )
    found = []
    for name, pair in models.items():
        is_pair = isinstance(pair, Sequence) and len(pair) == 2
        if not is_pair or not isinstance(pair[0], nn.Module):
            raise InputError(f"{name!r} must be a pair (module, optimizer), not {pair!r:.80}")
        if not isinstance(pair[1], Optimizer):
            raise InputError(
                f"{name!r} needs (module, optimizer); the second is {type(pair[1]).__name__}"
            )
        found.append(Member(str(name), plain(pair[0]), pair[1]))
    if len(found) < 2:
        raise InputError(f"a coupling takes two or more models; {len(found)} is given")
    owners: dict[int, str] = {}
    for member in found:
        held = member.group_numbers()
        # Some may be left out, as frozen layers are.
        if not any(id(parameter) in held for parameter in member.parameters.values()):
            raise InputError(
                f"the optimizer of {member.name!r} has none of its parameters, so that it would "
                "not be trained; is it that of another model, or of the one that copies were made "
                "of? Give each model one of its own: optimizer(model.parameters())"
            )
        for tensor, parameter in member.parameters.items():
            if parameter.is_meta:
                raise InputError(
                    f"{tensor!r} of {member.name!r} is on the meta device and has no data; load or "
                    "initialize the model first"
                )
            other = owners.setdefault(id(parameter), member.name)
            if other != member.name:
                raise InputError(
                    f"{other!r} and {member.name!r} share the parameter {tensor!r}: give each a "
                    "model of its own, conjoin.coupling.copies_of(model, names)"
                )
    return tuple(found)


def layers_of_members(members: Sequence[Member]) -> tuple[Layer, ...]:
    """Give the layers of the first model, of parameters only."""
    names = members[0].parameters
    layers = [
        Layer(layer.name, tuple(name for name in layer.tensors if name in names))
        for layer in layers_of(members[0].module)
    ]
    return tuple(layer for layer in layers if layer.tensors)


def common_names(members: Sequence[Member]) -> frozenset[str]:
    """Name the floating-point parameters that all models have, in one shape."""
    first, *others = (member.parameters for member in members)
    return frozenset(
        name
        for name, tensor in first.items()
        if tensor.dtype.is_floating_point
        and all(name in other and other[name].shape == tensor.shape for other in others)
    )


def check_coupled(members: Sequence[Member], names: Iterable[str]) -> None:
    """Raise if some models lack a coupled tensor, have it in another shape, or not as numbers.

    Floating-point dtypes may differ: a pull is computed in one and rounded to each model's own.

    Raises:
        MismatchError: with what to do.
    """
    for name in names:
        lacking = [member.name for member in members if name not in member.parameters]
        if lacking:
            have, lack = (
                next(m for m in members if (name in m.parameters) is wanted)
                for wanted in (True, False)
            )
            difference = describe_name_difference(
                have.parameters,
                lack.parameters,
                first_label=repr(have.name),
                second_label=repr(lack.name),
            )
            raise MismatchError(
                f"the coupled tensor {name!r} is not in {', '.join(map(repr, lacking))}.\n"
                f"{difference}\nTensors that only some models have must be private: "
                f'strength={{"{name}": 0, ..., "*": 1}}'
            )
        shapes = {member.name: list(member.parameters[name].shape) for member in members}
        if len({tuple(shape) for shape in shapes.values()}) > 1:
            shown = ", ".join(f"{shape} in {member!r}" for member, shape in shapes.items())
            raise MismatchError(
                f"the coupled tensor {name!r} has different shapes: {shown}. Make it private: "
                f'strength={{"{name}": 0, ..., "*": 1}}'
            )
        for member in members:
            dtype = member.parameters[name].dtype
            if not dtype.is_floating_point:
                raise MismatchError(
                    f"{name!r} of {member.name!r} is {dtype}; only floating-point tensors can be "
                    "coupled. Make it private: strength 0"
                )


def check_shareable(members: Sequence[Member], names: Iterable[str]) -> None:
    """Raise if tensors that are to be one (strength infinity) differ in dtype or kind of device.

    Raises:
        MismatchError: with what to do.
    """
    for name in names:
        dtypes = {member.name: member.parameters[name].dtype for member in members}
        if len(set(dtypes.values())) > 1:
            shown = ", ".join(f"{dtype} in {member!r}" for member, dtype in dtypes.items())
            raise MismatchError(
                f"{name!r} is shared (strength infinity), so that each model holds the same bits, "
                f"but its dtypes differ: {shown}. Give all models one dtype, as module.float() "
                "does, or use a large finite strength, such as 1e6"
            )
        devices = {member.name: member.parameters[name].device for member in members}
        if len({device.type for device in devices.values()}) > 1:
            shown = ", ".join(f"{device} in {member!r}" for member, device in devices.items())
            raise MismatchError(
                f"{name!r} is shared (strength infinity), so that each model holds the same bits, "
                f"but its devices are of several kinds, which round differently: {shown}. Bring "
                "all models to one kind, as module.to(device) does, or use a large finite "
                "strength, such as 1e6"
            )


@torch.no_grad()
def check_start(members: Sequence[Member], names: Iterable[str]) -> None:
    """Raise if the models do not start from the same values where they are coupled.

    Raises:
        MismatchError: with the first tensor that differs.
    """
    first = members[0]
    for name in names:
        for member in members[1:]:
            one, other = first.parameters[name], member.parameters[name]
            if not torch.equal(one, other.to(one.device, one.dtype)):
                apart = float((one - other.to(one.device, one.dtype)).abs().max())
                raise MismatchError(
                    f"{first.name!r} and {member.name!r} do not start from the same weights: "
                    f"{name!r} differs by up to {apart:.3g}. Weights of networks that start apart "
                    "need not mean the same thing, so that pulling them together does harm. Make "
                    "the models with conjoin.coupling.copies_of(model, names), or load one's "
                    'state into the other; start="any" couples them all the same. (To go on with '
                    "an earlier training, make the coupling first and load the states after)"
                )


def relative_gap(tensors: Sequence[Sequence[Tensor]]) -> float:
    """Give how far models are apart, relative to their size; see `Coupling.gap`.

    Args:
        tensors: for each tensor of a layer, that of each model.
    """
    apart = size = 0.0
    for same in tensors:
        dtype = torch.promote_types(same[0].dtype, torch.float32)
        found = [tensor.detach().to(same[0].device, dtype) for tensor in same]
        size += float(sum(float(t.square().sum()) for t in found)) / len(found)
        if all(torch.equal(found[0], other) for other in found[1:]):
            continue  # the mean of three equal numbers is rounded, and would lie apart from them
        mean = sum(found[1:], found[0]) / len(found)
        # The mean square over pairs i < j is 2 N / (N - 1) times the variance around the mean.
        factor = 2.0 / (len(found) - 1)
        apart += factor * float(sum(float((t - mean).square().sum()) for t in found))
    if size == 0:
        return 0.0
    return float((apart / size) ** 0.5)
