"""Looking up: embeddings, gather, index; and what depends on the order of positions."""

from collections.abc import Sequence

from conjoin.symmetry.axes import ONE, Axes, Axis, Sum, size_of_axis
from conjoin.symmetry.rules.elementwise import broadcast
from conjoin.symmetry.values import Call, Value

__all__ = [
    "embedding",
    "embedding_bag",
    "index",
    "index_select",
    "padded",
    "positional",
    "rearranged",
    "windows",
]

LOOKED_UP = "positions of it are looked up by number"
ORDER = "its order matters to"


def embedding(call: Call) -> list[Axes]:
    """Weight [V, E], numbers [...]: result [..., E]."""
    weight, numbers = call.axes(0), call.axes(1)
    call.space.pin(weight[0], LOOKED_UP)
    return [(*numbers, *weight[1:])]


def embedding_bag(call: Call) -> list[Axes]:
    """Sums, means or maxima of bags of rows: weight [V, E], result [bags, E]."""
    space, weight = call.space, call.axes(0)
    for axis in (weight[0], *(axis for value in call.values()[1:] for axis in value.whole(space))):
        space.pin(axis, LOOKED_UP)
    if call.used - {0}:  # such as the rows that the maxima are from
        space.pin(weight[1], LOOKED_UP)
    results = [tuple(space.pinned_atom(size, LOOKED_UP) for size in shape) for shape in call.shapes]
    return [(results[0][0], weight[1]), *results[1:]]


def index(call: Call) -> list[Axes]:
    """``x[i, :, j]``: indexed dimensions are looked up, the others carried along."""
    axes: Axes = call.axes(0)
    given: Sequence[Value | None] = call.args[1]
    looked_up = [number for number, one in enumerate(given) if one is not None]
    for number in looked_up:
        call.space.pin(axes[number], LOOKED_UP)
    found = broadcast(call, *(one.whole(call.space) for one in given if one is not None))
    kept = [axis for number, axis in enumerate(axes) if number not in looked_up]
    call.space.together(*kept)
    neighbours = looked_up == list(range(looked_up[0], looked_up[-1] + 1))
    place = looked_up[0] if neighbours else 0
    return [(*kept[:place], *found, *kept[place:])]


def index_select(call: Call) -> list[Axes]:
    """``index_select(x, dim, numbers)``."""
    axes, numbers = call.axes(0), call.axes(2)
    dim = call.args[1] % len(axes)
    call.space.pin(axes[dim], LOOKED_UP)
    call.space.together(*axes[:dim], *axes[dim + 1 :])
    return [(*axes[:dim], *numbers, *axes[dim + 1 :])]


def padded(call: Call) -> list[Axes]:
    """``constant_pad_nd(x, pad, value)``: what is added is equal, so that it may be reordered."""
    axes = list(call.axes(0))
    pad = list(call.args[1])
    for number in range(len(pad) // 2):
        before, after = pad[2 * number], pad[2 * number + 1]
        dim = len(axes) - 1 - number
        axes[dim] = _pad(call, axes[dim], before, after)
    return [tuple(axes)]


def _pad(call: Call, axis: Axis, before: int, after: int) -> Axis:
    size = size_of_axis(axis)
    if before < 0 or after < 0:
        pieces = call.space.cut(axis, [max(-before, 0), size - max(-after, 0)])
        if pieces is None:
            return call.space.pinned_atom(size + before + after, f"{ORDER} a padding")
        axis = pieces[1]
    parts = [call.space.atom(before)] if before > 0 else []
    parts += [axis, *([call.space.atom(after)] if after > 0 else [])]
    return parts[0] if len(parts) == 1 else Sum(tuple(parts))


def positional(call: Call) -> list[Axes]:
    """Pin the dimensions that are gone over in order: cumsum, sort, flip, roll, topk ...

    What is sorted may come in any order, unless the places where it was found are used.
    """
    axes = call.axes(0)
    dims = call.get(2 if call.name.endswith(("topk", "roll")) else 1, "dim", -1)
    if call.name.endswith("roll"):
        dims = call.get(2, "dims", []) or list(range(len(axes)))
    numbers = {n % len(axes) for n in (dims if isinstance(dims, list | tuple) else [dims])}
    reason = f"{ORDER} {call.name.removeprefix('aten.')}"
    call.space.together(*(axis for number, axis in enumerate(axes) if number not in numbers))
    if call.name.endswith((".sort", ".topk")) and 1 not in call.used:
        fresh = [call.space.pinned_atom(size, reason) for size in call.shape]
        result = tuple(fresh[n] if n in numbers else axis for n, axis in enumerate(axes))
        return [result for _ in call.shapes]
    for number in numbers:
        call.space.pin(axes[number], reason)
    return [
        tuple(
            axis
            if size_of_axis(axis) == size
            else ONE if size == 1 else call.space.pinned_atom(size, reason)
            for axis, size in zip(axes, shape, strict=True)
        )
        for shape in call.shapes
    ]  # fmt: skip


def rearranged(call: Call) -> list[Axes]:
    """``gather(x, dim, numbers)``: that dimension is looked up, the others go together."""
    axes, numbers = call.axes(0), call.axes(2)
    dim = call.args[1] % len(axes)
    call.space.pin(axes[dim], LOOKED_UP)
    call.space.together(*axes[:dim], *axes[dim + 1 :])
    for number, (one, other) in enumerate(zip(axes, numbers, strict=True)):
        if number != dim and size_of_axis(one) == size_of_axis(other):
            call.space.equate(one, other)
        elif number != dim:  # the first positions of `one` are taken
            call.space.pin(one, LOOKED_UP)
            call.space.pin(other, LOOKED_UP)
    return [numbers]


def windows(call: Call) -> list[Axes]:
    """``unfold(x, dim, size, step)``: a dimension -> windows along it, and last what is in one."""
    axes: list[Axis] = list(call.axes(0))
    dim = call.args[1] % len(axes)
    reason = f"{ORDER} unfold"
    call.space.pin(axes[dim], reason)
    axes[dim] = call.space.pinned_atom(call.shape[dim], reason)
    return [(*axes, call.space.pinned_atom(call.shape[-1], reason))]
