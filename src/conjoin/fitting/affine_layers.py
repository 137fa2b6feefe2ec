"""A layer of a network as an affine map of its rows, and an affine map put into the layer.

BatchNorm that follows a layer is part of its map. Put back, the map is kept in a BatchNorm whose
running statistics are those of the merged layer: re-estimating them, or training on, finds them as
they are.
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
    "own_map",
    "put_into",
    "tensors_of",
    "tensors_of_norm",
    "with_statistics",
]


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
    layer: Layer,
    tensors: MutableMapping[str, Tensor],
    fitted: Affine,
    inputs: Spread,
    scale: Tensor | None = None,
) -> None:
    """Write a map into a layer's tensors, in their shapes and dtypes.

    Args:
        layer: what it is of; one without a bias or BatchNorm takes no offset.
        tensors: of the network.
        fitted: the map.
        scale: float64 [groups, outputs], of what the matrix gives; it goes into the weight of the
            BatchNorm, and the matrix alone into that of the layer.
        inputs: how the layer's inputs are distributed, for the running statistics.
    """

    def put(name: str | None, value: Tensor) -> None:
        if name is not None:
            old = tensors[name]
            tensors[name] = value.reshape(old.shape).to(old.device, old.dtype)

    norm = layer.norm
    alone = layer.kind == "scale" and norm is not None  # all of the map is in the BatchNorm
    if layer.weight is not None and not alone:
        shape = tensors[layer.weight].shape
        put(
            layer.weight,
            fitted.matrix
            if layer.kind == "scale"
            else weight_of_matrix(layer, fitted.matrix.mT, shape),
        )
    if norm is None:
        put(layer.bias, fitted.offset)
        return
    if not alone:
        put(layer.bias, torch.zeros_like(fitted.offset))
    through = torch.ones_like(fitted.matrix) if alone else fitted.matrix
    mean = (inputs.inputs[:, None] @ through)[:, 0]
    variance = inputs.variance(through)
    if norm.weight is None:  # no scale of its own: the statistics have to give it
        variance = torch.full_like(variance, 1 - norm.eps)
        mean = -fitted.offset
    elif alone:
        put(norm.weight, fitted.matrix[:, 0] * (variance + norm.eps).sqrt())
        put(norm.bias, fitted.offset + mean * fitted.matrix[:, 0])
    else:
        times = torch.ones_like(mean) if scale is None else scale
        put(norm.weight, times * (variance + norm.eps).sqrt())
        put(norm.bias, fitted.offset + times * mean)
    put(norm.mean, mean)
    put(norm.variance, variance)


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().double().cpu()
