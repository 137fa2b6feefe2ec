"""What a layer of the merged network is fitted to: its inputs, and a parent's outputs, as rows."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from conjoin.data_statistics.features import rows_of_inputs, rows_of_outputs
from conjoin.data_statistics.layers import Layer

__all__ = ["fewest_rows", "is_rectified", "rows", "thinned"]

ROWS = 50_000
PER_FEATURE = 20

aten = torch.ops.aten


def rows(
    layer: Layer,
    inputs: Tensor,
    outputs: Tensor,
    shape: tuple[int, ...],
    places: Sequence[slice] = (),
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give ([groups, rows, features], [groups, rows, outputs]), a few examples at a time.

    A normalization is fitted channel by channel: each is a group of one feature.

    Args:
        layer: what is fitted.
        inputs: of the layer in the merged network.
        outputs: of the layer in a parent, after its BatchNorm.
        shape: of the layer's weight.
        places: of a convolution, that are looked at; see `thinned`.
    """
    if layer.kind == "scale":
        normalized = _normalized(layer, inputs)
        yield tuple(_channels(layer, value) for value in (normalized, outputs))  # type: ignore[misc]
        return
    for examples, found in rows_of_inputs(layer, inputs, shape, places):
        yield found, rows_of_outputs(layer, outputs[examples], places)


def thinned(layer: Layer, shape: tuple[int, ...], examples: int, number: int) -> tuple[slice, ...]:
    """Say which places of a convolution's output are looked at: all, or some if there are many.

    Neighbouring places say much the same. What is left is `ROWS` rows or more, and `PER_FEATURE`
    for each feature; the places that are left differ from batch to batch.

    Args:
        layer: what is fitted.
        shape: of its weight.
        examples: in all batches.
        number: of the batch.
    """
    if layer.kind != "convolution":
        return ()
    sizes, enough = _places(layer), _enough(shape)
    every = int((examples * torch.Size(sizes).numel() / enough) ** (1 / len(sizes)))
    if every < 2 or every > min(sizes):
        return ()
    return tuple(slice(number // every**dim % every, None, every) for dim in range(len(sizes)))


def fewest_rows(layer: Layer, shape: tuple[int, ...], examples: int) -> int:
    """Give a number of rows that there are at least, without looking at them.

    Args:
        layer: what is fitted.
        shape: of its weight.
        examples: in all batches.
    """
    if layer.kind != "convolution":
        return examples
    # Of places that are thinned, rounding takes less than a half in each dimension.
    least = _enough(shape) >> len(_places(layer))
    return min(examples * torch.Size(_places(layer)).numel(), least)


def is_rectified(layer: Layer) -> bool:
    """Whether what a layer gives is seen through a ReLU only: how far below 0 does not matter.

    What takes the largest of several outputs may come between.
    """
    nodes, seen = [layer.end], 0
    while nodes:
        for user in nodes.pop().users:
            if user.target in (aten.relu.default, aten.relu_.default):
                seen += 1
            elif "max_pool" in str(user.target):
                nodes += [value for value in user.users if value.args[1] == 0]
            else:
                return False
    return seen > 0


def _places(layer: Layer) -> list[int]:
    return [int(size) for size in layer.node.meta["val"].shape[2:]]


def _enough(shape: tuple[int, ...]) -> int:
    return max(ROWS, PER_FEATURE * torch.Size(shape[1:]).numel())


def _channels(layer: Layer, value: Tensor) -> Tensor:
    return value.movedim(layer.axis, -1).flatten(0, -2).T[:, :, None]


def _normalized(layer: Layer, inputs: Tensor) -> Tensor:
    """Give what a normalization scales: its input, brought to mean 0 and variance 1 or not."""
    if layer.norm is not None or layer.node.target is aten.mul.Tensor:
        return inputs
    arguments = cast(Any, layer.node.args[0]).args
    return F.layer_norm(inputs, arguments[1], eps=arguments[4])
