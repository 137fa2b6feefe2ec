"""Norms: what has a weight for each channel, and statistics over dimensions."""

from conjoin.symmetry.axes import Axes, Product, size_of_axis
from conjoin.symmetry.values import Call, Value

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm"]


def batch_norm(call: Call) -> list[Axes]:
    """X [B, C, ...]; weight, bias, running mean and variance [C]."""
    x = call.axes(0)
    for value in call.args[1:5]:
        if isinstance(value, Value) and value.axes:
            call.space.equate(x[1], value.whole(call.space)[0])
    channels = size_of_axis(x[1])
    return [
        x,
        *(
            tuple(x[1] if size == channels else call.space.atom(size) for size in shape)
            for shape in call.shapes[1:]  # statistics of a batch; empty in eval mode
        ),
    ]


def instance_norm(call: Call) -> list[Axes]:
    """Like batch norm; statistics are over places."""
    return batch_norm(call)[:1]


def layer_norm(call: Call) -> list[Axes]:
    """``native_layer_norm(x, shape, weight, bias, eps)``: symmetric in its dimensions."""
    x, shape = call.axes(0), call.args[1]
    for value in call.args[2:4]:
        if isinstance(value, Value):
            for own, other in zip(x[-len(shape) :], value.whole(call.space), strict=True):
                call.space.equate(own, other)
    kept = x[: len(x) - len(shape)]
    rest = tuple(Product(()) for _ in shape)
    return [x, *((*kept, *rest) for _ in call.shapes[1:])]


def group_norm(call: Call) -> list[Axes]:
    """``native_group_norm(x, weight, bias, N, C, HxW, groups, eps)``: C is groups x the rest."""
    x, groups = call.axes(0), int(call.args[6])
    space = call.space
    group = space.atom(groups)
    inner = space.atom(size_of_axis(x[1]) // groups)
    space.equate(x[1], Product((group, inner)))
    for value in call.args[1:3]:
        if isinstance(value, Value):
            space.equate(x[1], value.whole(space)[0])
    return [x, *((x[0], group) for _ in call.shapes[1:])]
