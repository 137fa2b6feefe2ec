"""The methods that merge with data: prepared models and settings -> networks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.fx import Node

from conjoin.batches import Inputs, size_of
from conjoin.data_statistics import collect_statistics, rows_of_inputs
from conjoin.data_statistics.execution import Execution, Program
from conjoin.data_statistics.layers import Layer
from conjoin.errors import InputError
from conjoin.fitting.affine_layers import tensors_of, tensors_of_norm
from conjoin.fitting.fisher import fisher
from conjoin.fitting.folding import Folding, reestimate_kept
from conjoin.fitting.least_squares import FittedLayer, Parent, least_squares, passed_ends
from conjoin.fitting.prepared import Prepared, Settings, first_of, with_labels
from conjoin.fitting.regmean import regmean
from conjoin.fitting.regmean_of_rows import regmean_of_rows
from conjoin.merging import merge
from conjoin.modules import TaskNetworks, share_parameters
from conjoin.symmetry.copies import fresh_copy
from conjoin.symmetry.tracing import size_of as size_of_dimension

__all__ = ["WAYS", "Made", "Private", "Way", "passes_of", "together", "with_state"]


@dataclass(frozen=True)
class Made:
    """What a method has made.

    Args:
        networks: one for all, or one for each task.
        layers: what was done with each.
        solved: name of a layer -> by what, where not by the Gram matrix of its features.
    """

    networks: Sequence[nn.Module]
    layers: Sequence[FittedLayer] = ()
    solved: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Private:
    """What each task has of its own.

    Args:
        layers: whole layers.
        norms: whether every BatchNorm.
    """

    layers: Sequence[Layer] = ()
    norms: bool = False

    def __bool__(self) -> bool:
        return self.norms or bool(self.layers)


Way = Callable[[Prepared, Settings, Private, int], Made]
"""(models and data, settings, what is private, examples of each model) -> what was made."""


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
            private=private.layers,
            own_norms=private.norms,
            memory=prepared.memory,
            progress=prepared.progress,
        )
    made = states if private else states[:1]
    fitted = {name for layer in prepared.layers for name in tensors_of(layer)}
    networks = [
        _with_found(prepared.models[0], state, {name: state[name] for name in fitted})
        for state in made
    ]
    solved = {one.name: one.solved for one in layers if one.solved != "features"}
    return Made(networks, layers, solved)


def _regmean(prepared: Prepared, settings: Settings, _: Private, examples: int) -> Made:
    models = prepared.aligned(settings.align)
    data = [first_of(part, examples) for part in prepared.data]
    states = [model.state_dict() for model in models]
    folded = set(prepared.folding.folded.values()) if prepared.folding else set()
    passes, wide = passes_of(prepared.layers, states[0], prepared.memory)
    if not passes and not wide:
        raise InputError("the model has no linear layer or convolution that regmean can merge")
    found: dict[str, Tensor] = {}
    solved: dict[str, str] = {}
    for names in passes:
        statistics = [
            collect_statistics(
                model,
                with_labels(part),
                what=("gram", "moments") if folded & set(names) else ("gram",),
                layers=names,
                program=prepared.program,
                memory=prepared.memory,
            )
            for model, part in zip(models, data, strict=True)
        ]
        found |= regmean(
            states,
            statistics,
            [layer for layer in prepared.layers if layer.name in names],
            non_diagonal=settings.non_diagonal,
            weights=settings.weights,
            biases=folded,
        )
    for layer in wide:
        tensors, how = regmean_of_rows(
            layer,
            states,
            partial(_rows, prepared.program, layer, states, data),
            non_diagonal=settings.non_diagonal,
            weights=settings.weights,
            bias=layer.name in folded,
            memory=prepared.memory,
        )
        found |= tensors
        solved[layer.name] = how
    return replace(_averaged(prepared, models, settings, found, examples), solved=solved)


def passes_of(
    layers: Sequence[Layer], tensors: Mapping[str, Tensor], memory: float
) -> tuple[list[list[str]], list[Layer]]:
    """Part layers into sets whose Gram matrices fit in memory, and those of which one does not.

    Args:
        layers: of any kind; those that have no Gram matrix are in none.
        tensors: of the model.
        memory: bytes.
    """
    passes: list[list[str]] = []
    wide: list[Layer] = []
    taken = 0.0
    for layer in layers:
        if layer.kind == "scale" or layer.weight is None:
            continue
        shape = tensors[layer.weight].shape
        needed = 8 * layer.groups * (shape[0] if layer.transposed else shape[1:].numel()) ** 2
        if needed > memory:
            wide.append(layer)
        elif passes and taken + needed <= memory:
            passes[-1].append(layer.name)
            taken += needed
        else:
            passes.append([layer.name])
            taken = needed
    return passes, wide


def _rows(
    program: Program,
    layer: Layer,
    states: Sequence[Mapping[str, Tensor]],
    data: Sequence[Sequence[Inputs]],
) -> Iterator[tuple[int, Tensor]]:
    """Give (number of the parent, its inputs of a layer as rows)."""
    for number, (state, part) in enumerate(zip(states, data, strict=True)):
        shape = state[str(layer.weight)].shape
        for batch in part:
            with torch.no_grad():
                value = Execution(program, state, batch).value(layer.source)
            for _, rows in rows_of_inputs(layer, value, shape):
                yield number, rows


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
    made = _with_found(mean, mean.state_dict(), found)
    data = [with_labels(first_of(part, examples)) for part in prepared.data]
    return Made([reestimate_kept(made, prepared.folding or Folding(), data)])


def together(
    networks: Mapping[str, nn.Module], private: Private, layers: Sequence[Layer]
) -> TaskNetworks:
    """Make networks of one structure share all parameters of some layers but the private ones."""
    own = {name for layer in private.layers for name in tensors_of(layer)}
    if private.norms:
        own |= {name for layer in layers for name in tensors_of_norm(layer)}
    first = next(iter(networks.values()))
    state = first.state_dict(keep_vars=True)
    # By identity: one that has several names is known by the first of them.
    apart = {id(state[name]) for name in own if name in state}
    shared = {n: p for n, p in first.named_parameters() if id(p) not in apart}
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


def _with_found(
    module: nn.Module, state: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> nn.Module:
    """Give a copy with a state in which some tensors are replaced, under all names they have."""
    own = module.state_dict(keep_vars=True)
    replaced = {id(own[name]): tensor for name, tensor in found.items()}
    return with_state(module, {n: replaced.get(id(t), state[n]) for n, t in own.items()})


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
