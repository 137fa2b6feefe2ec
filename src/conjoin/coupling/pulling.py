"""A rule of `pulls` applied to the parameters of several models, and the penalty in its place."""

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from conjoin.coupling.effective_steps import EffectiveStep
from conjoin.coupling.pulls import JOINT, Rule, joint_of_two

__all__ = ["average", "penalty_of", "pull_tensor", "rows_of"]

ROWS = (1 << 14, 1 << 18)
"""Elements of a tensor that are pulled at a time on a CPU, at least and at most."""

FEWEST_ELSEWHERE = 1 << 20
"""Elements at least on other devices, which wait for every operation longer than they compute."""


def rows_of(largest: int, device: torch.device) -> int:
    """Give the elements to pull at a time, so that four copies of them are one of the largest.

    On a CPU no more than what stays in its cache.

    Args:
        largest: elements of the largest tensor.
        device: where they are pulled.

    >>> rows_of(1_000_000, torch.device("cpu")), rows_of(80_000_000, torch.device("cuda"))
    (250000, 20000000)
    """
    if device.type != "cpu":
        return max(FEWEST_ELSEWHERE, largest // 4)
    fewest, most = ROWS
    return max(fewest, min(most, largest // 4))


def pull_tensor(
    rule: Rule,
    strength: float,
    parameters: Sequence[Tensor],
    steps: Sequence[EffectiveStep],
    center: Tensor | None,
    at_once: int,
) -> None:
    """Pull one tensor of all models, in place; in float32 where their own precision is lower.

    Args:
        rule: what to do.
        strength: as the rule takes it.
        parameters: of each model, of one shape; computed on the device of the first.
        steps: effective step of each model.
        center: of rules that have one, changed too.
        at_once: elements to compute at a time; see `rows_of`.
    """
    first = parameters[0]
    dtype = torch.promote_types(first.dtype, torch.float32)
    factor = strength * (2.0 * len(parameters) if rule == JOINT else 1.0)
    two = rule == JOINT and len(steps) == 2 and all(step.elementwise for step in steps)
    space: list[Tensor] = []
    for rows in _rows(first, at_once):
        parts = [p if rows is None else p[rows] for p in parameters]
        middle = None if center is None else center if rows is None else center[rows]
        weights = [part.to(first.device, dtype) for part in parts]
        pulled_to = None if middle is None else middle.to(first.device, dtype)
        if two:
            space = space or [torch.empty_like(weights[0]) for _ in range(4)]
            free = space if rows is None else [buffer[: len(first[rows])] for buffer in space]
            pairs = zip(steps, free[:2], strict=True)
            rates = [cast(float, step.root(rows, out)) for step, out in pairs]
            joint_of_two(weights, free[:2], rates, strength, free[2:])
        else:
            kept = [step.kept(factor, rows, dtype, first.device) for step in steps]
            rule.apply(weights, kept, strength, pulled_to)
        for part, weight in zip(parts, weights, strict=True):
            if weight is not part:
                part.copy_(weight)
        if middle is not None and pulled_to is not None and pulled_to is not middle:
            middle.copy_(pulled_to)


def average(parameters: Sequence[Tensor], center: Tensor) -> None:
    """Make the parameters of all models, and the center, their mean; in place."""
    mean = sum((p.to(center) for p in parameters[1:]), parameters[0].to(center))
    center.copy_(mean / len(parameters))
    for parameter in parameters:
        parameter.copy_(center)


def penalty_of(
    own: Mapping[str, Tensor],
    others: Sequence[Mapping[str, Tensor]],
    strengths: Mapping[str, float],
) -> Tensor:
    """Give ``sum_l strength_l * sum_j ||own_l - other_j,l||^2``, a scalar; the others are fixed.

    Args:
        own: parameters of one model, by name.
        others: of the other models.
        strengths: of the tensors that are coupled.
    """
    total = torch.zeros((), device=next(iter(own.values())).device)
    for name, strength in strengths.items():
        tensor = own[name]
        dtype = torch.promote_types(tensor.dtype, torch.float32)
        for other in others:
            fixed = other[name].detach().to(tensor.device, tensor.dtype)
            total = total + strength * (tensor - fixed).to(dtype).square().sum()
    return total


def _rows(tensor: Tensor, at_once: int) -> Iterator[slice | None]:
    """Cut a tensor along its first dimension, whatever its order in memory."""
    if tensor.numel() <= at_once or tensor.dim() == 0:
        yield None
        return
    parts = -(-tensor.numel() // at_once)  # of about one size, as a small rest takes as long
    rows = -(-len(tensor) // parts)
    for start in range(0, len(tensor), rows):
        yield slice(start, start + rows)
