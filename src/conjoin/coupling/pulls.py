"""Pulling the weights of one tensor together, in place: pure arithmetic.

`joint` is the proximal step of all models at once. With u_i what the optimizers have left, D_i the
effective steps, N models and c = 2 * strength * N, it is the minimum over w of

    sum_i (w_i - u_i)^2 / (2 D_i)  +  strength * sum_{i<j} (w_i - w_j)^2

which is    m = sum_i a_i u_i / sum_i a_i    w_i = m + a_i (u_i - m)    a_i = 1 / (1 + c D_i).

For two models, ``w_A - w_B`` becomes ``(u_A - u_B) / (1 + 2 * strength * (D_A + D_B))``. A model
that does not move (D = 0) is an anchor to the others. It is stable at every strength.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import cast

import torch
from torch import Tensor

__all__ = ["ANCHORED", "AVERAGE", "ELASTIC", "JOINT", "PENALTY", "Rule", "joint_of_two"]

Kept = Sequence[float | Tensor]


@dataclass(frozen=True)
class Rule:
    """What a pull does to the weights of one tensor.

    Args:
        name: for messages.
        apply: (weights of each model, 1 / (1 + c D) of each, strength, center or None); changes the
            weights, and the center if there is one, in place.
        steps: whether it needs effective steps.
        center: whether there is one more set of weights that models are pulled to.
    """

    name: str
    apply: Callable[[Sequence[Tensor], Kept, float, Tensor | None], None]
    steps: bool
    center: bool


def _joint(weights: Sequence[Tensor], kept: Kept, _: float, __: Tensor | None) -> None:
    if all(isinstance(share, float) for share in kept):
        numbers = [cast(float, share) for share in kept]
        if all(number == 1.0 for number in numbers):
            return
        total = sum(numbers)
        mean = weights[0] * (numbers[0] / total)
        for weight, number in zip(weights[1:], numbers[1:], strict=True):
            mean.add_(weight, alpha=number / total)
        for weight, number in zip(weights, numbers, strict=True):
            weight.lerp_(mean, 1.0 - number)
        return
    mean = weights[0] * kept[0]
    for weight, share in zip(weights[1:], kept[1:], strict=True):
        if isinstance(share, float):
            mean.add_(weight, alpha=share)
        else:
            mean.addcmul_(weight, share)
    mean.div_(reduce(add, kept))
    for weight, share in zip(weights, kept, strict=True):
        torch.lerp(mean, weight, share, out=weight)


def joint_of_two(
    weights: Sequence[Tensor],
    roots: Sequence[Tensor],
    rates: Sequence[float],
    strength: float,
    space: Sequence[Tensor],
) -> None:
    """Do the joint step of two models with D_i = rate_i / root_i: fewer passes over the weights.

    Args:
        weights: of both models, changed in place.
        roots: of each element.
        rates: of each model.
        strength: of the pull.
        space: two tensors of their shape, for what it computes.

    >>> weights = [torch.tensor([1.0]), torch.tensor([-1.0])]
    >>> space = [torch.empty(1), torch.empty(1)]
    >>> joint_of_two(weights, [torch.tensor([2.0]), torch.tensor([4.0])], [1.0, 1.0], 2.0, space)
    >>> [weight.item() for weight in weights]  # D of .5 and .25: the difference is a quarter
    [0.0, -0.5]
    """
    one, two = roots
    pulls = [2.0 * strength * rate for rate in rates]
    below = torch.add(two, pulls[1], out=space[0]).mul_(one).add_(two, alpha=pulls[0])
    step = torch.sub(weights[0], weights[1], out=space[1]).div_(below)
    weights[0].addcmul_(step, two, value=-pulls[0])
    weights[1].addcmul_(step, one, value=pulls[1])


def _average(weights: Sequence[Tensor], _: Kept, share: float, __: Tensor | None) -> None:
    mean = weights[0] / len(weights)
    for weight in weights[1:]:
        mean.add_(weight, alpha=1.0 / len(weights))
    for weight in weights:
        weight.lerp_(mean, min(share, 1.0))


def _elastic(weights: Sequence[Tensor], _: Kept, alpha: float, center: Tensor | None) -> None:
    center = cast(Tensor, center)
    moved = torch.zeros_like(center)
    for weight in weights:
        difference = (weight - center).mul_(alpha)
        moved.add_(difference)
        weight.sub_(difference)
    center.add_(moved)


def _anchored(weights: Sequence[Tensor], kept: Kept, _: float, center: Tensor | None) -> None:
    for weight, share in zip(weights, kept, strict=True):
        torch.lerp(cast(Tensor, center), weight, share, out=weight)


def _nothing(*_: object) -> None:
    """The strength is in the losses already."""


JOINT = Rule("joint proximal step", _joint, steps=True, center=False)
PENALTY = Rule("penalty in the loss", _nothing, steps=False, center=False)
AVERAGE = Rule("share of the mean", _average, steps=False, center=False)
ELASTIC = Rule("elastic averaging", _elastic, steps=False, center=True)
ANCHORED = Rule("anchored proximal step", _anchored, steps=True, center=True)
