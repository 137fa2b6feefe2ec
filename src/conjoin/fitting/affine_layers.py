"""A layer of a network as an affine map of its rows, and an affine map put into the layer.

BatchNorm that follows a layer is part of its map. Put back, the map is kept in a BatchNorm whose
running statistics are those of the merged layer: re-estimating them, or training on, finds them as
they are. A BatchNorm without weight or bias cannot have both: with such statistics, what it gives
has variance 1, or mean 0, in each channel, and a fit has not. It keeps the fit, in its statistics.
"""

from collections.abc import Mapping, MutableMapping
from typing import cast

import torch
from torch import Tensor

from conjoin.data_statistics.features import matrix_of_weight, weight_of_matrix
from conjoin.data_statistics.layers import BatchNorm, Layer
from conjoin.fitting.moments import Affine, Scaled
from conjoin.fitting.problem import Spread

__all__ = [
    "affine_of",
    "norm_can_scale",
    "note_on",
    "own_map",
    "put_into",
    "tensors_of",
    "tensors_of_norm",
    "why_not",
    "with_statistics",
]

LARGEST = 1e30
"""Of variances: float32 has room for it."""


def tensors_of(layer: Layer) -> tuple[str, ...]:
    """Name the tensors that a layer's map is in."""
    names = (layer.weight, layer.bias, *tensors_of_norm(layer))
    return tuple(dict.fromkeys(name for name in names if name is not None))


def tensors_of_norm(layer: Layer) -> tuple[str, ...]:
    """Name the tensors of a layer's BatchNorm, if it has one."""
    norm = layer.norm
    names = () if norm is None else (norm.weight, norm.bias, norm.mean, norm.variance)
    return tuple(name for name in names if name is not None)


def norm_can_scale(layer: Layer) -> bool:
    """Whether a layer has a BatchNorm with weight and bias, which any scale and shift go into."""
    return layer.norm is not None and None not in (layer.norm.weight, layer.norm.bias)


def own_map(layer: Layer, tensors: Mapping[str, Tensor]) -> Affine:
    """Give the map of a layer without its BatchNorm: a BatchNorm alone is the identity then."""
    if layer.kind == "scale" and layer.norm is not None:
        size = len(tensors[layer.norm.mean])
        return Affine(_double(torch.ones(size, 1, 1)), _double(torch.zeros(size, 1)))
    weight = _double(tensors[layer.weight or ""])
    if layer.kind == "scale":
        matrix = weight.reshape(-1, 1, 1)
    else:
        matrix = matrix_of_weight(layer, weight).mT
    shape = (len(matrix), matrix.shape[-1])
    if layer.bias is None:
        return Affine(matrix, _double(torch.zeros(shape)))
    return Affine(matrix, _double(tensors[layer.bias]).reshape(shape))


def with_statistics(
    layer: Layer, tensors: Mapping[str, Tensor], mean: Tensor, variance: Tensor
) -> Scaled:
    """Give the map of a layer with its BatchNorm, for some statistics of what the layer gives.

    Args:
        layer: with a BatchNorm.
        tensors: of the network.
        mean, variance: float64 [groups, outputs].
    """
    own = own_map(layer, tensors)
    norm = cast(BatchNorm, layer.norm)
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * _double(tensors[norm.weight]).reshape(scale.shape)
    shift = (own.offset - mean) * scale
    if norm.bias is not None:
        shift = shift + _double(tensors[norm.bias]).reshape(scale.shape)
    return Scaled(own.matrix, scale, shift)


def affine_of(layer: Layer, tensors: Mapping[str, Tensor]) -> Affine:
    """Give the map of a layer, with its BatchNorm and the statistics that this has."""
    own = own_map(layer, tensors)
    if layer.norm is None:
        return own
    shape = own.offset.shape
    mean, variance = (
        _double(tensors[name]).reshape(shape) for name in (layer.norm.mean, layer.norm.variance)
    )
    return with_statistics(layer, tensors, mean, variance).affine


def put_into(
    layer: Layer, tensors: MutableMapping[str, Tensor], fitted: Scaled, inputs: Spread
) -> None:
    """Write a map into a layer's tensors, in their shapes and dtypes.

    Args:
        layer: what it is of; one without a bias or BatchNorm takes no offset.
        tensors: of the network.
        fitted: the map. Its scale goes into the BatchNorm, its matrix alone into the weight of the
            layer; without a BatchNorm, both go there.
        inputs: how the layer's inputs are distributed, for the running statistics.
    """

    def put(name: str | None, value: Tensor) -> None:
        if name is not None:
            old = tensors[name]
            tensors[name] = value.reshape(old.shape).to(old.device, old.dtype)

    norm = layer.norm
    matrix = fitted.affine.matrix if norm is None else fitted.matrix
    if layer.weight is not None and not _is_norm(layer):
        shape = tensors[layer.weight].shape
        scales = layer.kind == "scale"
        put(layer.weight, matrix if scales else weight_of_matrix(layer, matrix.mT, shape))
    if norm is None:
        put(layer.bias, fitted.offset)
        return
    times = fitted.scale
    if _is_norm(layer):  # all of the map is in the BatchNorm
        times, matrix = times * matrix[:, 0], torch.ones_like(matrix)
    else:
        put(layer.bias, torch.zeros_like(fitted.offset))
    mean = (inputs.inputs[:, None] @ matrix)[:, 0]
    variance = inputs.variance(matrix)
    # What it has no weight or bias for, the statistics have to give.
    if norm.weight is None:
        variance = _variance_for(times, norm).clamp(min=0)
    if norm.bias is None:
        mean = torch.where(times == 0, mean, -fitted.offset / times)
    put(norm.weight, times * (variance + norm.eps).sqrt())
    put(norm.bias, fitted.offset + times * mean)
    put(norm.mean, mean)
    put(norm.variance, variance)


def why_not(layer: Layer, fitted: Affine) -> str:
    """Say why a layer cannot have a map; "" if it can.

    A BatchNorm that stands alone, without weight or bias, takes what its statistics can give.
    """
    norm = layer.norm
    if norm is None or not _is_norm(layer):
        return ""
    times = fitted.matrix[:, 0]
    variance = _variance_for(times, norm)
    if norm.weight is None and not ((times > 0) & (variance >= 0) & (variance < LARGEST)).all():
        return "its BatchNorm has no weight, and no variance gives the scales of the fit"
    if norm.bias is None and ((times == 0) & (fitted.offset != 0)).any():
        return "its BatchNorm has no bias, and no mean gives the shifts of the fit"
    return ""


def note_on(layer: Layer) -> str:
    """Say what else has to be known of a fitted layer; "" if nothing."""
    if layer.norm is None or norm_can_scale(layer):
        return ""
    lacks = [n for n, t in (("weight", layer.norm.weight), ("bias", layer.norm.bias)) if t is None]
    return (
        f"its BatchNorm has no {' and '.join(lacks)}, so that its statistics hold the fit; "
        "re-estimating them, or training on, changes what it gives"
    )


def _is_norm(layer: Layer) -> bool:
    """Whether a layer is a BatchNorm that stands alone."""
    return layer.kind == "scale" and layer.norm is not None


def _variance_for(times: Tensor, norm: BatchNorm) -> Tensor:
    """Give the variance with which a BatchNorm without a weight has a scale."""
    return times.pow(-2) - norm.eps


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().double().cpu()
