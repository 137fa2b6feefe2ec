"""Infinite strength: one tensor, of which each model holds a copy with the same bits."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from conjoin.coupling.members import Member
from conjoin.errors import InputError

__all__ = [
    "check_alike",
    "check_shared",
    "check_still_equal",
    "share_gradients",
    "share_overflow",
    "tie",
]

CHECKED_EVERY = 100
"""Steps after which shared tensors are compared, to find a loop that lets them drift apart."""


@torch.no_grad()
def share_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Make the gradients of one tensor their mean over the models, in place.

    A model without a gradient counts as zero, as in a network where a loss does not reach it; if
    there is none at all, none is made.
    """
    gradients = [parameter.grad for parameter in parameters]
    if all(gradient is None for gradient in gradients):
        return
    first = parameters[0]
    dtype = torch.promote_types(first.dtype, torch.float32)
    mean = torch.zeros_like(first, dtype=dtype)
    for gradient in gradients:
        if gradient is not None:
            mean.add_(gradient.to(first.device, dtype), alpha=1.0 / len(parameters))
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None or gradient.is_sparse:
            parameter.grad = mean.to(parameter.device, parameter.dtype, copy=True)
        else:
            gradient.copy_(mean)


def share_overflow(scaler: Any, optimizers: Sequence[Optimizer]) -> None:
    """Make an overflow in one model's gradients one of all, so that all skip the step.

    Gradients that are not unscaled yet (for clipping) are. The scaler has looked for overflows then
    and would not see the infinity that the others get with the mean.

    Args:
        scaler: a `torch.amp.GradScaler`.
        optimizers: of all models.
    """
    if not scaler.is_enabled():
        return
    for optimizer in optimizers:
        if not scaler._found_inf_per_device(optimizer):
            scaler.unscale_(optimizer)
    found = [flag for o in optimizers for flag in scaler._found_inf_per_device(o).values()]
    if found:
        largest = torch.stack([flag.to(found[0].device) for flag in found]).max()
        for flag in found:
            flag.copy_(largest)


@torch.no_grad()
def tie(parameters: Sequence[Tensor], optimizers: Sequence[Optimizer]) -> None:
    """Make one tensor of several: weights and optimizer states become their means, in place.

    Of an optimizer's state, tensors of the weight's shape are averaged, where a missing one counts
    as zero; a count of steps becomes the largest.
    """
    first = parameters[0]
    if not all(torch.equal(first, other.to(first.device)) for other in parameters[1:]):
        _average(parameters)
    states = [
        optimizer.state.get(p, {}) for p, optimizer in zip(parameters, optimizers, strict=True)
    ]
    if not any(states):
        return
    for parameter, optimizer, state in zip(parameters, optimizers, states, strict=True):
        if not state:
            optimizer.state[parameter] = {}
    found: list[dict[str, Any]] = [
        optimizer.state[p] for p, optimizer in zip(parameters, optimizers, strict=True)
    ]
    for key in dict.fromkeys(key for state in found for key in state):
        values = [state.get(key) for state in found]
        # The count of steps has the shape of a scalar weight.
        if key != "step" and any(isinstance(v, Tensor) and v.shape == first.shape for v in values):
            for state, parameter in zip(found, parameters, strict=True):
                if state.get(key) is None:
                    state[key] = torch.zeros_like(parameter)
            _average([state[key] for state in found])
        elif key == "step":
            last = max(float(value) for value in values if value is not None)
            for state, value in zip(found, values, strict=True):
                example = next(v for v in values if v is not None)
                if isinstance(value, Tensor):
                    value.fill_(last)
                else:
                    made = torch.full_like(example, last) if isinstance(example, Tensor) else last
                    state[key] = made


def check_alike(members: Sequence[Member], shared: Sequence[str]) -> None:
    """Raise if shared tensors would be moved differently by the models' optimizers.

    Raises:
        InputError: with the settings that differ.
    """
    numbers = [member.group_numbers() for member in members]
    compared: set[tuple[int | None, ...]] = set()
    for name in shared:
        groups = tuple(
            known.get(id(m.parameters[name])) for m, known in zip(members, numbers, strict=True)
        )
        frozen = [not m.parameters[name].requires_grad for m in members]
        if any(frozen) or None in groups:
            if all(frozen) or not any(number is not None for number in groups):
                continue
            raise InputError(
                f"{name!r} is shared (strength infinity), but not every model trains it: it is "
                "frozen, or left out of the optimizer, in some of them"
            )
        if groups in compared:
            continue
        compared.add(groups)
        first, *others = members
        one = _settings(first.optimizer, groups[0])
        for member, number in zip(others, groups[1:], strict=True):
            other = _settings(member.optimizer, number)
            differing = [k for k in {**one, **other} if one.get(k) != other.get(k)]
            if differing:
                key = differing[0]
                raise InputError(
                    f"{name!r} is shared (strength infinity), but the optimizers of "
                    f"{first.name!r} and {member.name!r} would move it differently: {key} is "
                    f"{one.get(key)!r} and {other.get(key)!r}. Give both the same settings, or use "
                    "a large finite strength, such as 1e6"
                )


def check_shared(
    members: Sequence[Member], shared: Sequence[str], shared_at: int, made: int
) -> None:
    """Raise if gradients were not shared for a step, or if shared tensors have drifted apart.

    Args:
        members: the models.
        shared: names of the shared tensors.
        shared_at: the step that gradients were last shared for.
        made: the step that was just made. A step that mixed precision skipped may lie between.

    Raises:
        InputError: with what to do.
    """
    if not shared:
        return
    if shared_at < made:
        raise InputError(
            f"{len(shared)} tensors are shared (strength infinity), but share_gradients() was "
            "not called for this step; call it before the optimizers step, or use coupling.step()"
        )
    if made < 3 or made % CHECKED_EVERY == 0:
        check_still_equal(members, shared)


def check_still_equal(members: Sequence[Member], shared: Sequence[str]) -> None:
    """Raise if shared tensors have drifted apart: the training loop lets something differ.

    Raises:
        InputError: with the first tensor that differs.
    """
    first = members[0]
    for name in shared:
        one = first.parameters[name]
        for member in members[1:]:
            other = member.parameters[name].to(one.device)
            # NaN in all models is a training that failed, which is not for here to say.
            if not torch.equal(one, other) and not _is_nan_alike(one, other):
                devices = one.device, member.parameters[name].device
                raise InputError(
                    f"{name!r} is shared (strength infinity), but differs between {first.name!r} "
                    f"and {member.name!r} after a step. "
                    + (
                        f"They are on {devices[0]} and {devices[1]}, which may round differently: "
                        "bring both to one device, or use a large finite strength, such as 1e6"
                        if devices[0] != devices[1]
                        else "Clip gradients before share_gradients(), not after, step all "
                        "optimizers, and change weights nowhere else"
                    )
                )


def _is_nan_alike(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True)


def _average(tensors: Sequence[Tensor]) -> None:
    first = tensors[0]
    dtype = torch.promote_types(first.dtype, torch.float32)
    mean = torch.zeros_like(first, dtype=dtype)
    for tensor in tensors:
        mean.add_(tensor.to(first.device, dtype), alpha=1.0 / len(tensors))
    for tensor in tensors:
        tensor.copy_(mean)


def _settings(optimizer: Optimizer, number: int | None) -> Mapping[str, Any]:
    """Give the settings that a step depends on; schedules and users put others into groups."""
    group = optimizer.param_groups[number or 0]
    left_out = {"foreach", "fused", "capturable", "differentiable"}
    settings = {key: group[key] for key in optimizer.defaults if key in group}
    settings = {key: value for key, value in settings.items() if key not in left_out}
    return {
        "optimizer": type(optimizer).__name__,
        **{k: float(v) if isinstance(v, Tensor) else v for k, v in settings.items()},
    }
