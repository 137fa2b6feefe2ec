"""The methods that merge with data: prepared models and settings -> networks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import Node

from conjoin.batches import size_of
from conjoin.data_statistics import collect_statistics
from conjoin.data_statistics.execution import Program
from conjoin.data_statistics.layers import Layer
from conjoin.fitting.affine_layers import tensors_of
from conjoin.fitting.fisher import fisher
from conjoin.fitting.least_squares import FittedLayer, Parent, least_squares, passed_ends
from conjoin.fitting.prepared import Prepared, Settings, first_of, with_labels
from conjoin.fitting.regmean import regmean
from conjoin.merging import merge
from conjoin.modules import TaskNetworks, share_parameters
from conjoin.repairing import has_batchnorm, reestimate_batchnorm
from conjoin.symmetry.copies import fresh_copy
from conjoin.symmetry.tracing import size_of as size_of_dimension

__all__ = ["WAYS", "Made", "Way", "together", "with_state"]


@dataclass(frozen=True)
class Made:
    """What a method has made.

    Args:
        networks: one for all, or one for each task.
        layers: what was done with each.
        private: layers that each network has for itself.
    """

    networks: Sequence[nn.Module]
    layers: Sequence[FittedLayer] = ()
    private: Sequence[Layer] = ()


Private = Sequence[Layer]

Way = Callable[[Prepared, Settings, Private, int], Made]
"""(models and data, settings, private layers, examples of each model) -> what was made."""


def _least_squares(prepared: Prepared, settings: Settings, private: Private, examples: int) -> Made:
    models = prepared.aligned(settings.align)
    start = merge(models, "linear", weights=settings.weights)
    states = [dict(start.state_dict()) for _ in models]
    data, held = (
        [first_of(part, examples) for part in parts] for parts in (prepared.data, prepared.held)
    )
    count = sum(size_of(batch) for part in (*data, *held) for batch in part)
    keep = 2 * _bytes_kept(prepared.program, count) <= prepared.memory
    passed = passed_ends(prepared.program, prepared.layers)
    parents = [
        Parent(prepared.program, model.state_dict(), state, some, out, keep=keep, passed=passed)
        for model, state, some, out in zip(models, states, data, held, strict=True)
    ]
    with torch.no_grad():
        layers = least_squares(
            prepared.layers,
            parents,
            weights=settings.weights,
            ridge=settings.ridge,
            rounds=settings.rounds,
            private=private,
            largest=prepared.memory,
            progress=prepared.progress,
        )
    made = states if private else states[:1]
    return Made([with_state(prepared.models[0], state) for state in made], layers, private)


def _regmean(prepared: Prepared, settings: Settings, _: Private, examples: int) -> Made:
    models = prepared.aligned(settings.align)
    statistics = [
        collect_statistics(
            model,
            with_labels(first_of(part, examples)),
            what=("gram",),
            program=prepared.program,
            memory=prepared.memory,
        )
        for model, part in zip(models, prepared.data, strict=True)
    ]
    states = [model.state_dict() for model in models]
    found = regmean(
        states,
        statistics,
        prepared.layers,
        non_diagonal=settings.non_diagonal,
        weights=settings.weights,
    )
    return _averaged(prepared, models, settings, found, examples)


def _fisher(prepared: Prepared, settings: Settings, _: Private, examples: int) -> Made:
    models = prepared.aligned(settings.align)
    statistics = [
        collect_statistics(
            model, with_labels(first_of(part, examples)), what=("fisher",), seed=prepared.seed
        )
        for model, part in zip(models, prepared.data, strict=True)
    ]
    states = [model.state_dict() for model in models]
    found = fisher(states, statistics, weights=settings.weights)
    return _averaged(prepared, models, settings, found, examples)


WAYS: Mapping[str, Way] = {"least_squares": _least_squares, "regmean": _regmean, "fisher": _fisher}


def _averaged(
    prepared: Prepared,
    models: Sequence[nn.Module],
    settings: Settings,
    found: Mapping[str, Tensor],
    examples: int,
) -> Made:
    """Give the mean of aligned models, some tensors replaced, and statistics re-estimated."""
    mean = merge(models, "linear", weights=settings.weights)
    made = with_state(mean, {**mean.state_dict(), **found})
    if has_batchnorm(made):
        data = (with_labels(first_of(part, examples)) for part in prepared.data)
        made = reestimate_batchnorm(made, *data)
    return Made([made])


def together(networks: Mapping[str, nn.Module], private: Sequence[Layer]) -> TaskNetworks:
    """Make networks of one structure share all parameters but those of some layers."""
    own = {name for layer in private for name in tensors_of(layer)}
    first = next(iter(networks.values()))
    shared = {n: p for n, p in first.named_parameters() if n not in own}
    for network in networks.values():
        share_parameters(network, shared)
    return TaskNetworks(networks)


def with_state(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Give a copy of a module, in eval mode, with other tensors in its own dtypes."""
    result = fresh_copy(module).eval()
    with torch.no_grad():
        for name, own in result.state_dict(keep_vars=True).items():
            own.copy_(state[name])
    return result


def _bytes_kept(program: Program, examples: int) -> int:
    """Give the most that activations of some examples take at once, float32."""
    held = most = 0
    sizes = {node: _bytes_of(node) for node in program.nodes}
    for node, dead in zip(program.nodes, program.dead, strict=True):
        held += sizes[node]
        most = max(most, held)
        held -= sum(sizes[one] for one in dead)
    return most * examples


def _bytes_of(node: Node) -> int:
    """Give the bytes that a node's value has for each example; 0 if it has no batch."""
    value = node.meta.get("val")
    if node.op != "call_function" or not isinstance(value, Tensor) or not value.dim():
        return 0
    return 4 * torch.Size([size_of_dimension(size) for size in value.shape[1:]]).numel()
