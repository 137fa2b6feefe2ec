"""A layer's inputs, outputs and weight as matrices: ``rows @ matrix.mT + bias = outputs``."""

from collections.abc import Iterator, Sequence
from math import prod

from torch import Tensor
from torch.nn import functional as F

from conjoin.data_statistics.layers import Layer

__all__ = ["matrix_of_weight", "rows_of_inputs", "rows_of_outputs", "weight_of_matrix"]

ELEMENTS = 1 << 24
"""Numbers that are unfolded at a time: 64 MiB in float32."""


def rows_of_inputs(
    layer: Layer, value: Tensor, shape: Sequence[int], places: Sequence[slice] = ()
) -> Iterator[tuple[slice, Tensor]]:
    """Give (examples, [groups, rows, features]) of a layer's inputs, a few examples at a time.

    A row is one example, or one place of it. The features of a convolution are those of one group
    under its kernel, in the order of the weight: channels, then places. Zeros of its padding are
    among them. With the rows of the outputs of the same examples,

        outputs[g] = rows[g] @ matrix[g].T + bias        matrix = matrix_of_weight(layer, weight)

    Args:
        layer: a linear layer or a convolution.
        value: its input: [..., features] or [examples, channels, places...].
        shape: of its weight.
        places: of a convolution: which of its output's places are taken, in each dimension; all
            by default.

    >>> import torch
    >>> from torch import nn
    >>> from conjoin.data_statistics.layers import layers_of
    >>> from conjoin.symmetry.tracing import trace
    >>> net = nn.Sequential(nn.Conv1d(2, 4, 3, groups=2, bias=False))
    >>> (layer,) = layers_of(trace(net, torch.zeros(2, 2, 5)))
    >>> x, weight = torch.rand(6, 2, 5), net[0].weight.detach()
    >>> ((examples, rows),) = rows_of_inputs(layer, x, weight.shape)
    >>> examples, rows.shape                                       # 6 examples of 3 places
    (slice(0, 6, None), torch.Size([2, 18, 3]))
    >>> outputs = rows @ matrix_of_weight(layer, weight).mT
    >>> torch.allclose(outputs, rows_of_outputs(layer, net(x)), atol=1e-6)
    True
    """
    if layer.kind != "convolution" or layer.settings is None:
        yield slice(None), value.flatten(0, -2)[None]
        return
    settings, kernel = layer.settings, tuple(shape[2:])
    stride, padding, dilation = (settings[name] for name in ("stride", "padding", "dilation"))
    sizes = zip(value.shape[2:], padding, dilation, kernel, stride, strict=True)
    given = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in sizes]
    taken = tuple(places) or (slice(None),) * len(kernel)
    count = prod(len(range(*one.indices(n))) for one, n in zip(taken, given, strict=True))
    step = max(1, ELEMENTS // max(1, count * value.shape[1] * prod(kernel)))
    for start in range(0, len(value), step):
        part = value[start : start + step]
        # [n, c, places, kernel]
        windows = _windows(part, kernel, stride, padding, dilation)[:, :, *taken]
        dims = len(kernel)
        split = windows.unflatten(1, (layer.groups, -1))  # [n, groups, c, places, kernel]
        over = [*range(3, 3 + dims)], [*range(3 + dims, 3 + 2 * dims)]
        rows = split.permute(1, 0, *over[0], 2, *over[1])
        yield (
            slice(start, start + len(part)),
            rows.reshape(layer.groups, len(part) * count, split.shape[2] * prod(kernel)),
        )


def rows_of_outputs(layer: Layer, value: Tensor, places: Sequence[slice] = ()) -> Tensor:
    """Give [groups, rows, outputs of a group] of what a layer gives, in the order of its inputs.

    Args:
        layer: of any kind.
        value: what its node, or its end, gives.
        places: as for the inputs.
    """
    if places and layer.kind == "convolution":
        value = value[:, :, *places]
    moved = value.movedim(layer.axis, -1).flatten(0, -2)
    return moved.reshape(len(moved), layer.groups, -1).transpose(0, 1)


def matrix_of_weight(layer: Layer, weight: Tensor) -> Tensor:
    """Give the weight of a linear layer or convolution as [groups, outputs of a group, features].

    Args:
        layer: of which it is.
        weight: in the shape that the model has it in.
    """
    if layer.kind == "linear":
        return (weight.mT if layer.transposed else weight)[None]
    return weight.reshape(layer.groups, len(weight) // layer.groups, -1)


def weight_of_matrix(layer: Layer, matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """Give what `matrix_of_weight` has taken apart.

    Args:
        layer: of which it is.
        matrix: [groups, outputs of a group, features].
        shape: of the weight.
    """
    if layer.kind == "linear":
        return (matrix[0].mT if layer.transposed else matrix[0]).reshape(tuple(shape))
    return matrix.flatten(0, 1).reshape(tuple(shape))


def _windows(
    value: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Give a view [examples, channels, places..., kernel...] of what the kernel sees."""
    if any(padding):
        value = F.pad(value, [size for p in reversed(padding) for size in (p, p)])
    for dim, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True), start=2):
        value = value.unfold(dim, d * (k - 1) + 1, s)[..., ::d]
    return value
