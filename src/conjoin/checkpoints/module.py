"""A module as a checkpoint: its parameters and persistent buffers, with their kinds."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from conjoin.checkpoints.memory import MemoryCheckpoint
from conjoin.checkpoints.spec import Kind, kind_by_name
from conjoin.deferred import torch

if TYPE_CHECKING:
    from torch import nn

__all__ = ["from_module"]

_RUNNING = frozenset({"running_mean", "running_var"})


def from_module(module: nn.Module) -> MemoryCheckpoint:
    """See a module as a checkpoint, without copying.

    Names and order are those of `module.state_dict()`: parameters and persistent buffers, with
    whatever parametrizations and state-dict hooks make of them. Buffers registered with
    `persistent=False` are left out, since a module can compute them anew. The tensors are
    detached views: they follow later changes of the module in place. Tied parameters are known
    by identity.

    A file shows only names; a module also shows what is a parameter and what is a buffer:

    - a parameter is a weight (a constant if it is not floating or complex);
    - buffers `running_mean`, `running_var` are statistics, `num_batches_tracked` a counter;
    - buffers `weight`, `bias` beside running statistics are weights: the frozen BatchNorm of
      detection models keeps its trained scale and shift so;
    - any other buffer is a constant.

    Raises:
        CheckpointError: the module is lazy and not initialized, or has extra state.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    >>> for name, spec in from_module(model).specs.items():
    ...     print(name, spec.shape, spec.kind.value)
    0.weight (3, 2) weight
    0.bias (3,) weight
    1.weight (3,) weight
    1.bias (3,) weight
    1.running_mean (3,) statistic
    1.running_var (3,) statistic
    1.num_batches_tracked () counter
    """
    source = f"module {type(module).__name__}"
    # keep_vars: the very parameters and buffers, so that identity finds ties and kinds.
    tensors = dict(module.state_dict(keep_vars=True))
    kinds = _kinds_by_identity(module)
    found = MemoryCheckpoint(tensors, source=source)
    specs = {
        name: dataclasses.replace(
            spec, kind=kinds.get(id(tensors[name]), kind_by_name(name, spec.dtype))
        )
        for name, spec in found.specs.items()
    }
    return MemoryCheckpoint(tensors, specs, source=source)


def _kinds_by_identity(module: nn.Module) -> dict[int, Kind]:
    """Kind of each parameter and buffer by `id`, since hooks may rename them in a state dict."""
    kinds: dict[int, Kind] = {}
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            trained = parameter.is_floating_point() or parameter.is_complex()
            kinds.setdefault(id(parameter), Kind.WEIGHT if trained else Kind.CONSTANT)
        buffers = dict(part.named_buffers(recurse=False))
        for name, buffer in buffers.items():
            kinds.setdefault(id(buffer), _kind_of_buffer(name, buffer.dtype, set(buffers)))
    return kinds


def _kind_of_buffer(name: str, dtype: torch.dtype, siblings: set[str]) -> Kind:
    guess = kind_by_name(name, dtype)
    if guess in (Kind.STATISTIC, Kind.COUNTER):
        return guess
    if siblings >= _RUNNING and name in ("weight", "bias"):
        return guess
    return Kind.CONSTANT
