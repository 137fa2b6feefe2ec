"""Convolution of any number of dimensions, grouped, transposed; pooling and upsampling."""

from conjoin.symmetry.axes import Axes, Axis, Product, size_of_axis
from conjoin.symmetry.values import Call

__all__ = ["convolution", "from_patches", "patches", "resampled", "sampled"]

NEIGHBOURS = "its order matters to a convolution, pooling or resampling"


def convolution(call: Call) -> list[Axes]:
    """``aten.convolution(x, weight, bias, stride, padding, dilation, transposed, ...)``.

    With g groups, channels are a product: the group, then the channel within it. The input's is
    ``g x i``, the output's ``g x o``; a weight is [g x o, i, ...], transposed [g x i, o, ...].
    """
    x, weight = call.axes(0), call.axes(1)
    transposed, groups = bool(call.args[6]), int(call.args[8])
    space = call.space
    for axis in (*x[2:], *weight[2:]):
        space.pin(axis, NEIGHBOURS)
    if groups == 1:
        inner, outer = (weight[0], weight[1]) if transposed else (weight[1], weight[0])
        space.equate(x[1], inner)
        out: Axis = outer
    else:
        group = space.atom(groups)
        first = space.atom(size_of_axis(weight[0]) // groups)
        space.equate(weight[0], Product((group, first)))
        inner, outer = (first, weight[1]) if transposed else (weight[1], first)
        space.equate(x[1], Product((group, inner)))
        out = Product((group, outer)) if transposed else weight[0]
    bias = call.args[2]
    if bias is not None:
        space.equate(bias.whole(space)[0], out)
    places = tuple(space.pinned_atom(size, NEIGHBOURS) for size in call.shape[2:])
    return [(x[0], out, *places)]


def resampled(call: Call) -> list[Axes]:
    """Batch and channels stay, places are new: pooling, interpolation, with one result or two."""
    x = call.axes(0)
    results = []
    for shape in call.shapes:
        changed = [
            number
            for number, (axis, size) in enumerate(zip(x, shape, strict=True))
            if number >= len(shape) - _places(call, len(shape)) or size_of_axis(axis) != size
        ]
        for number in changed:
            call.space.pin(x[number], NEIGHBOURS)
        results.append(
            tuple(
                call.space.pinned_atom(shape[number], NEIGHBOURS) if number in changed else axis
                for number, axis in enumerate(x)
            )
        )
    return results


def sampled(call: Call) -> list[Axes]:
    """``grid_sampler_2d(x, grid)``: x [B, C, places...], grid [B, new places..., coordinates]."""
    x, grid = call.axes(0), call.axes(1)
    call.space.equate(x[0], grid[0])
    for axis in (*x[2:], *grid[1:]):
        call.space.pin(axis, NEIGHBOURS)
    return [(x[0], x[1], *grid[1:-1])]


def patches(call: Call) -> list[Axes]:
    """``im2col``: [B, C, H, W] -> [B, C x places of the kernel, places]."""
    x = call.axes(0)
    for axis in x[2:]:
        call.space.pin(axis, NEIGHBOURS)
    kernel = call.space.pinned_atom(call.shape[1] // size_of_axis(x[1]), NEIGHBOURS)
    return [(x[0], Product((x[1], kernel)), call.space.pinned_atom(call.shape[2], NEIGHBOURS))]


def from_patches(call: Call) -> list[Axes]:
    """``col2im``: [B, C x places of the kernel, places] -> [B, C, H, W]."""
    x, channels = call.axes(0), call.shape[1]
    parts = call.space.split(x[1], [channels, size_of_axis(x[1]) // channels])
    for axis in (parts[1], x[2]):
        call.space.pin(axis, NEIGHBOURS)
    return [(x[0], parts[0], *(call.space.pinned_atom(s, NEIGHBOURS) for s in call.shape[2:]))]


def _places(call: Call, rank: int) -> int:
    """Give the number of spatial dimensions, by the operation's name."""
    for digit in "123":
        if f"{digit}d" in call.name:
            return int(digit)
    return rank - 2
