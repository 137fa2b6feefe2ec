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
from typing import cast

import torch
from torch import Tensor

__all__ = ["ANCHORED", "AVERAGE", "ELASTIC", "JOINT", "PENALTY", "Rule"]

Steps = Sequence[float | Tensor]


@dataclass(frozen=True)
class Rule:
    """What a pull does to the weights of one tensor.

    Args:
        name: for messages.
        apply: changes the weights, and the center if there is one, in place.
        steps: whether it needs effective steps.
        center: whether there is one more set of weights that models are pulled to.
    """

    name: str
    apply: Callable[[Sequence[Tensor], Steps, float, Tensor | None], None]
    steps: bool
    center: bool


def _joint(weights: Sequence[Tensor], steps: Steps, strength: float, _: Tensor | None) -> None:
    c = 2.0 * strength * len(weights)
    if all(isinstance(step, float) for step in steps):
        numbers = [float(step) for step in steps]
        if not any(numbers):
            return
        kept = [1.0 / (1.0 + c * step) for step in numbers]
        total = sum(kept)
        mean = weights[0] * (kept[0] / total)
        for weight, share in zip(weights[1:], kept[1:], strict=True):
            mean.add_(weight, alpha=share / total)
        for weight, share in zip(weights, kept, strict=True):
            weight.lerp_(mean, 1.0 - share)
        return
    tensors = [torch.as_tensor(s, dtype=weights[0].dtype, device=weights[0].device) for s in steps]
    each = [(step * c).add_(1.0).reciprocal_() for step in tensors]
    mean = sum((a * w for a, w in zip(each, weights, strict=True)), torch.zeros_like(weights[0]))
    mean /= torch.stack([a.expand_as(mean) for a in each]).sum(0)
    for weight, a in zip(weights, each, strict=True):
        weight.sub_(mean).mul_(a).add_(mean)


def _average(weights: Sequence[Tensor], _: Steps, share: float, __: Tensor | None) -> None:
    mean = weights[0] / len(weights)
    for weight in weights[1:]:
        mean.add_(weight, alpha=1.0 / len(weights))
    for weight in weights:
        weight.lerp_(mean, min(share, 1.0))


def _elastic(weights: Sequence[Tensor], _: Steps, alpha: float, center: Tensor | None) -> None:
    center = cast(Tensor, center)
    moved = torch.zeros_like(center)
    for weight in weights:
        difference = (weight - center).mul_(alpha)
        moved.add_(difference)
        weight.sub_(difference)
    center.add_(moved)


def _anchored(weights: Sequence[Tensor], steps: Steps, mu: float, center: Tensor | None) -> None:
    center = cast(Tensor, center)
    for weight, step in zip(weights, steps, strict=True):
        share = mu * step / (1.0 + mu * step)
        weight.lerp_(center, share) if isinstance(share, float) else weight.add_(
            (center - weight).mul_(share)
        )


def _nothing(*_: object) -> None:
    """The strength is in the losses already."""


JOINT = Rule("joint proximal step", _joint, steps=True, center=False)
PENALTY = Rule("penalty in the loss", _nothing, steps=False, center=False)
AVERAGE = Rule("share of the mean", _average, steps=False, center=False)
ELASTIC = Rule("elastic averaging", _elastic, steps=False, center=True)
ANCHORED = Rule("anchored proximal step", _anchored, steps=True, center=True)
