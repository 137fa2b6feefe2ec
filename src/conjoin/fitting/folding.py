"""BatchNorm folded into the layer before it: one map with a bias, and a BatchNorm without effect.

In eval mode BatchNorm is a scale and a shift of each channel, so

    norm(layer(x)) = (s W) x + (s (b - mean) + beta)        s = gamma / sqrt(variance + eps)

The structure stays as it is: the layer has the weight ``s W``, its own bias or that of the
BatchNorm has the shift, and the BatchNorm has the mean 0, the variance ``1 - eps`` and the weight
1, so that it gives what it gets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn.modules.batchnorm import _BatchNorm

from conjoin.batches import Data
from conjoin.data_statistics.features import weight_of_matrix
from conjoin.data_statistics.layers import BatchNorm, Layer
from conjoin.fitting.affine_layers import affine_of
from conjoin.merging import POOLED
from conjoin.repairing import has_batchnorm, reestimate_batchnorm
from conjoin.symmetry.copies import fresh_copy

__all__ = ["Folding", "fold", "folding_of", "reestimate_kept"]

M = TypeVar("M", bound=nn.Module)

_LAYERS = ("convolution", "linear", "addmm", "mm", "matmul")


@dataclass(frozen=True)
class Folding:
    """Which BatchNorm of a model can be folded, and which cannot.

    Args:
        joined: layers with the BatchNorm that is folded into each.
        layers: all layers of the folded model, in the order of execution: those have a bias, and
            end after the BatchNorm that does nothing.
        kept: name of a BatchNorm -> why it cannot be folded.
    """

    joined: tuple[Layer, ...] = ()
    layers: tuple[Layer, ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)

    @property
    def folded(self) -> dict[str, str]:
        """Name of a BatchNorm -> name of the layer that it is folded into."""
        return {_name_of(layer.norm): layer.name for layer in self.joined if layer.norm}


def folding_of(layers: Sequence[Layer], model: nn.Module) -> Folding:
    """Say what can be folded.

    A BatchNorm can be that alone reads what a linear layer or a convolution gives, if either of
    them has a bias. One that stands behind a sum or a concatenation, that is used in several
    places, or that has no running statistics, cannot.

    Args:
        layers: of the traced model.
        model: that was traced.

    >>> from conjoin.data_statistics import layers_of
    >>> from conjoin.symmetry.tracing import trace
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.BatchNorm1d(3))
    >>> found = folding_of(layers_of(trace(net, torch.zeros(2, 2))), net)
    >>> found.folded, found.kept
    ({'1': '0'}, {'3': 'no linear layer or convolution stands right before it'})
    """
    joined, kept = [], {}
    every = []
    for layer in layers:
        norm = layer.norm
        if norm is None:
            every.append(layer)
        elif layer.kind == "scale":
            every.append(layer)
            kept[_name_of(norm)] = _why(layer.source)
        elif layer.bias is None and norm.bias is None:
            every.append(layer)
            kept[_name_of(norm)] = f"neither it nor {layer.name!r} before it has a bias"
        else:
            joined.append(layer)
            every.append(replace(layer, norm=None, bias=layer.bias or norm.bias))
    parts = dict(model.named_modules(remove_duplicate=False))
    known = {_name_of(layer.norm) for layer in layers if layer.norm is not None}
    seen = [parts[name] for name in known if name in parts]
    for name, part in model.named_modules():
        if isinstance(part, _BatchNorm) and not any(part is one for one in seen):
            kept[name] = (
                "it has no running statistics"
                if part.running_mean is None
                else "it is used in several places, or in none"
            )
    return Folding(tuple(joined), tuple(every), kept)


def fold(model: M, folding: Folding) -> M:
    """Give a copy of a model in eval mode, of which in eval mode all outputs stay as they are.

    Args:
        model: of the structure that the folding is of.
        folding: what is folded.

    >>> from conjoin.data_statistics import layers_of
    >>> from conjoin.symmetry.tracing import trace
    >>> net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, eps=0.75)).eval()
    >>> _ = net[0].weight.data.fill_(3.0), net[1].running_mean.fill_(1.0)
    >>> _ = net[1].running_var.fill_(3.25)                                  # (3 x - 1) / 2
    >>> folded = fold(net, folding_of(layers_of(trace(net, torch.zeros(2, 1))), net))
    >>> folded[0].weight.item(), folded[1].bias.item(), folded[1].running_mean.item()
    (1.5, -0.5, 0.0)
    """
    result = fresh_copy(model).eval()
    tensors = result.state_dict(keep_vars=True)  # changed in place: aliases are the same tensor
    with torch.no_grad():
        for layer in folding.joined:
            _fold(layer, tensors)
    return result


def reestimate_kept(model: M, folding: Folding, data: Sequence[Data]) -> M:
    """Re-estimate the statistics of every BatchNorm but those that are folded.

    Args:
        model: folded; not changed.
        folding: what is folded in it.
        data: one or several loaders, one mixture; see `conjoin.reestimate_batchnorm`.
    """
    result = fresh_copy(model)
    parts = dict(result.named_modules(remove_duplicate=False))
    # One that is a function of tensors is no module, and nothing re-estimates it.
    known = [parts[name] for name in folding.folded if name in parts]
    folded = {n: part for n, part in parts.items() if any(part is one for one in known)}
    for name, part in folded.items():
        if hasattr(part, POOLED):
            delattr(part, POOLED)
        result.set_submodule(name, _Hidden(part))
    if has_batchnorm(result):
        result = reestimate_batchnorm(result, *data)
    for name in folded:
        hidden = result.get_submodule(name)
        if isinstance(hidden, _Hidden):  # it has come back under another name, if not
            result.set_submodule(name, hidden.module[0])
    return result


class _Hidden(nn.Module):
    """A module in eval mode that no walk through modules finds."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = (module,)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.module[0](x)
        return result


def _fold(layer: Layer, tensors: Mapping[str, Tensor]) -> None:
    norm = layer.norm
    if norm is None or layer.weight is None:
        return
    whole = affine_of(layer, tensors)
    tensors[norm.mean].zero_()
    tensors[norm.variance].fill_(1 - norm.eps)
    if norm.weight is not None:
        tensors[norm.weight].fill_(1)
    if norm.bias is not None:
        tensors[norm.bias].zero_()
    weight, bias = tensors[layer.weight], tensors[str(layer.bias or norm.bias)]
    weight.copy_(weight_of_matrix(layer, whole.matrix.mT, weight.shape))
    bias.copy_(whole.offset.reshape(bias.shape))


def _why(source: Node) -> str:
    """Say why a BatchNorm is of no layer before it."""
    operation = str(source.target).removeprefix("aten.").partition(".")[0]
    if operation not in _LAYERS:
        return "no linear layer or convolution stands right before it"
    if len(source.users) > 1:
        return "what the layer before it gives is read elsewhere too"
    return "the layer before it is used in several places, or has its outputs on another axis"


def _name_of(norm: BatchNorm | None) -> str:
    return "" if norm is None else norm.mean.removesuffix(".running_mean")
