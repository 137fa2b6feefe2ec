"""Moving the statistics of activations, layer after layer, by what weights and biases can do.

The pre-activation y of a channel has the mean m and the standard deviation s; they are to be m* and
s*. So ``y' = (s* / s) (y - m) + m*``, which is the same layer with another weight and bias:

    weight' = (s* / s) weight        bias' = (s* / s) (bias - m) + m*

Source: Jordan et al., REPAIR, ICLR 2023, arXiv:2211.08403.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conjoin.batches import Inputs
from conjoin.data_statistics.execution import Execution, Program
from conjoin.data_statistics.layers import Layer
from conjoin.repairing.moments import Moments, Statistics, averaged
from conjoin.repairing.plan import Planned

__all__ = ["Correction", "correct", "measure", "named_tensors"]

Correction = Literal["repair", "rescale", "bias"]

FLOOR = 1e-4
"""A channel that varies less than this, relative to what it should, is taken as constant: its
weight is not multiplied, since what would grow is rounding."""

ROUNDING = 1e-6
"""The same, relative to its mean."""


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Give the parameters and buffers themselves, under all of their names."""
    return {
        name: tensor.detach()
        for name, tensor in (
            *module.named_parameters(remove_duplicate=False),
            *module.named_buffers(remove_duplicate=False),
        )
    }


@torch.no_grad()
def measure(
    program: Program,
    tensors: Mapping[str, Tensor],
    plan: Sequence[Planned],
    batches: Sequence[Inputs],
    who: str,
) -> dict[Layer, Statistics]:
    """Measure what every layer gives (after its BatchNorm, if it has one), in one pass.

    Args:
        program: of the network, with the weights `tensors`.
        plan: whose layers are measured.
        batches: on the device of the weights.
        who: the network, for messages.

    Raises:
        NonFiniteError: an activation is NaN or infinite; the message names the layer.
    """
    layers = sorted((part.layer for part in plan), key=lambda layer: program.place[layer.end])
    seen = {layer: Moments(f"{layer.name!r} in {who}") for layer in layers}
    for batch in batches:
        run = Execution(program, tensors, batch)
        for layer in layers:
            seen[layer].add(run.value(layer.end), layer.axis)
    return {layer: moments.statistics() for layer, moments in seen.items()}


@torch.no_grad()
def correct(
    program: Program,
    tensors: Mapping[str, Tensor],
    plan: Sequence[Planned],
    sets: Sequence[Sequence[Inputs]],
    targets: Mapping[Layer, Statistics],
    weights: Sequence[float],
    method: Correction,
) -> dict[Layer, int]:
    """Repair layer after layer, in place; each sees what the repaired earlier ones give.

    All batches are on their way through the network at once, each held just before the layer that
    is being repaired, so that memory grows with the examples and every layer runs only twice.

    Args:
        program: of the network.
        tensors: its weights and buffers, which are changed.
        plan: its layers in the order of execution.
        sets: batches of each data set.
        targets: what the statistics are to be.
        weights: of the sets, with the sum 1.
        method: whether deviations, means, or both are moved.

    Returns:
        How many channels of a layer were taken as constant, where there are any.

    Raises:
        NonFiniteError: an activation is NaN or infinite; the message names the layer.
    """
    runs = [[Execution(program, tensors, batch) for batch in batches] for batches in sets]
    constant: dict[Layer, int] = {}
    for part in plan:
        layer = part.layer
        seen = []
        for those in runs:
            moments = Moments(f"{layer.name!r} in the merged network")
            for value in _given_by(layer, those, tensors):
                moments.add(value, layer.axis)
            seen.append(moments)
        if part.kind == "batchnorm":
            _reestimate(layer, seen, tensors)
            continue
        now = averaged([moments.statistics() for moments in seen], weights)
        found = _fold(part, now, targets[layer], tensors, method)
        if found:
            constant[layer] = found
    return constant


def _given_by(
    layer: Layer, runs: Sequence[Execution], tensors: Mapping[str, Tensor]
) -> Iterator[Tensor]:
    """Give what a layer gives, before a BatchNorm, and leave the runs just before it."""
    for run in runs:
        value = run.value(layer.source)
        weight = None if layer.weight is None else tensors[layer.weight]
        bias = None if layer.bias is None else tensors[layer.bias]
        if layer.kind == "scale" or weight is None:
            yield value
        elif layer.kind == "convolution":
            s = layer.settings or {}
            still = [0] * len(s["stride"])
            yield torch.convolution(
                value, weight, bias, s["stride"], s["padding"], s["dilation"], False, still,
                s["groups"],
            )  # fmt: skip
        else:
            yield F.linear(value, weight.T if layer.transposed else weight, bias)


def _reestimate(layer: Layer, seen: Sequence[Moments], tensors: Mapping[str, Tensor]) -> None:
    """Give a BatchNorm the statistics of all examples together, as if they were one batch."""
    assert layer.norm is not None
    both = seen[0]
    for other in seen[1:]:
        both = both.joined(other)
    if both.count:
        tensors[layer.norm.mean].copy_(both.mean)
        tensors[layer.norm.variance].copy_(both.variance(unbiased=True))


def _fold(
    part: Planned,
    now: Statistics,
    target: Statistics,
    tensors: Mapping[str, Tensor],
    method: Correction,
) -> int:
    """Fold a correction into weight and bias; give the number of constant channels."""
    assert part.layer.weight is not None
    weight = tensors[part.layer.weight]
    floor = torch.maximum(FLOOR * target.deviation, ROUNDING * now.mean.abs())
    dead = now.deviation <= floor
    factor = (target.deviation / now.deviation.where(~dead, torch.tensor(1.0))).where(~dead, 1.0)
    if method == "bias":
        factor = torch.ones_like(factor)
    else:
        shape = [1] * weight.dim()
        shape[1 if part.layer.transposed else 0] = len(factor)
        weight.copy_(weight.double().cpu() * factor.reshape(shape))
    if part.bias is not None:
        bias = tensors[part.bias]
        mean = now.mean if method == "rescale" else target.mean
        bias.copy_(factor * (bias.double().cpu() - now.mean) + mean)
    return 0 if method == "bias" else int(dead.sum())
