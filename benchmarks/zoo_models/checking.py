"""Whether a reordered model computes what it computed, found without the proof of conjoin.

A copy in float64, other random numbers in the place of everything that is constant, inputs that the
proof has not seen, in a batch of another size: what agrees here to 1e-9 keeps its function.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from conjoin.batches import Inputs, map_inputs, run_model, size_of

__all__ = ["BAR", "batch_of", "batch_size_of", "error_between", "outputs_of", "randomized"]

BAR = 1e-9
"""Largest error, relative to the largest output, at which a function counts as kept."""

LOWER = (torch.float32, torch.float16, torch.bfloat16)


@torch.no_grad()
def randomized(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Give a copy in float64 and eval mode without constant weights, with random statistics."""
    made = copy.deepcopy(model).double().eval()
    for tensor in made.parameters():
        if tensor.numel() > 1 and tensor.is_floating_point() and bool(tensor.std() < 1e-3):
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.add_(0.3 * noise)
    for name, buffer in made.named_buffers():
        noise = torch.randn(buffer.shape, generator=generator, dtype=torch.float64)
        if name.endswith("running_mean"):
            buffer.copy_(0.3 * noise)
        elif name.endswith("running_var"):
            buffer.copy_(noise.abs() + 0.5)
    return made


def batch_of(inputs: Inputs, size: int, generator: torch.Generator) -> Inputs:
    """Give random inputs like an example: noise, or tokens in another order."""

    def like(example: Tensor) -> Tensor:
        if example.is_floating_point():
            shape = (size, *example.shape[1:])
            return torch.randn(shape, generator=generator, dtype=torch.float64)
        rows = example[torch.arange(size) % len(example)]
        if rows.max() <= 1:  # a mask
            return rows
        return rows.flatten()[torch.randperm(rows.numel(), generator=generator)].view(rows.shape)

    return map_inputs(inputs, like)


class _Double(TorchDispatchMode):
    """Keep float64 where a forward asks for less on its way, as many norms do."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if named.get("dtype") in LOWER:
            named["dtype"] = torch.float64
        return func(*args, **named)


@torch.no_grad()
def outputs_of(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Give all tensors that a model returns."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Double():
            found = run_model(model, inputs)
    finally:
        torch.set_default_dtype(before)
    leaves = tree_leaves(dict(found) if isinstance(found, Mapping) else found)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def error_between(found: list[Tensor], expected: list[Tensor]) -> float:
    """Give the largest difference relative to the largest number of that output."""
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        if one.shape != other.shape or not bool(other.isfinite().all()):
            return float("inf")
        scale = float(other.abs().max()) or 1.0
        difference = float((one - other).abs().max()) / scale
        worst = max(worst, difference if difference == difference else float("inf"))
    return worst


def batch_size_of(inputs: Inputs) -> int:
    """Give a size of batch that differs from the example's and from what a proof runs."""
    return size_of(inputs) + 3
