"""The layers of a network: tensors that belong together, in order."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from conjoin.checkpoints import Kind, Spec, from_module
from conjoin.errors import InputError

__all__ = ["Layer", "group_layers", "layers_of"]


@dataclass(frozen=True, slots=True)
class Layer:
    """Tensors that are merged together.

    Args:
        name: of the module, or of the first and the last of several.
        tensors: names in the state of the whole network.

    >>> Layer("fc", ("fc.weight", "fc.bias")).name
    'fc'
    """

    name: str
    tensors: tuple[str, ...]


def layers_of(module: nn.Module) -> tuple[Layer, ...]:
    """Give the layers of a network, in the order of its state: each tensor is in exactly one.

    A module that itself has a weight of two or more dimensions (convolution, linear, embedding,
    the input projection of attention) starts a layer. Tensors of modules that have vectors only
    (normalization, scales) join the layer before them, or the first if there is none before. Tied
    tensors are where they appear first. A network without such a weight is one layer; one without
    tensors has none.

    Raises:
        CheckpointError: the module is lazy and not initialized, or has extra state.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, affine=False), nn.Linear(2, 2))
    >>> for layer in layers_of(net):
    ...     print(layer.name, *layer.tensors)
    0 0.weight 0.bias 1.running_mean 1.running_var 1.num_batches_tracked
    2 2.weight 2.bias
    """
    specs = from_module(module).specs
    owners: dict[str, list[str]] = {}
    for name in specs:
        owners.setdefault(_owner(name), []).append(name)
    groups: list[tuple[str, list[str]]] = []
    before: list[str] = []  # vectors before the first layer
    for owner, names in owners.items():
        matrix = next((name for name in names if _is_matrix(specs[name])), None)
        own = [name for name in names if specs[name].alias_of is None]
        if matrix is not None:
            # The root has no name: its layer is called after its weight.
            groups.append((owner or matrix, [*before, *own]))
            before = []
        elif groups:
            groups[-1][1].extend(own)
        else:
            before += own
    if before:
        groups.append((_owner(before[0]) or before[0], before))
    tied: dict[str, list[str]] = {}
    for name, spec in specs.items():
        if spec.alias_of is not None:
            tied.setdefault(spec.alias_of, []).append(name)
    return tuple(
        Layer(title, tuple(each for name in names for each in (name, *tied.get(name, ()))))
        for title, names in groups
    )


def group_layers(layers: Sequence[Layer], count: int) -> tuple[Layer, ...]:
    """Join neighbours so that at most `count` layers remain, of numbers that differ by at most one.

    A group is called ``"FIRST ... LAST"``; a layer that stays alone keeps its name.

    Raises:
        InputError: `count` is less than 1.

    >>> layers = [Layer(name, (f"{name}.weight",)) for name in "abc"]
    >>> group_layers(layers, 2)
    (Layer(name='a', tensors=('a.weight',)),
     Layer(name='b ... c', tensors=('b.weight', 'c.weight')))
    """
    if count < 1:
        raise InputError(f"layers can be joined into 1 group or more, not {count}")
    count = min(count, len(layers))
    ends = [len(layers) * number // count for number in range(count + 1)] if count else []
    return tuple(_joined(layers[a:b]) for a, b in pairwise(ends))


def _owner(name: str) -> str:
    """Name the module that has a tensor; a parametrized weight belongs to the module it is of."""
    module, marker, _ = f".{name}".partition(".parametrizations.")
    return module[1:] if marker else name.rpartition(".")[0]


def _is_matrix(spec: Spec) -> bool:
    return spec.kind is Kind.WEIGHT and len(spec.shape) >= 2 and spec.alias_of is None


def _joined(layers: Sequence[Layer]) -> Layer:
    if len(layers) == 1:
        return layers[0]
    tensors = tuple(name for layer in layers for name in layer.tensors)
    return Layer(f"{layers[0].name} ... {layers[-1].name}", tensors)
