"""Operations that put the same elements into other dimensions."""

import math
from collections.abc import Sequence

from conjoin.symmetry.axes import ONE, Axes, Axis, Product, Sum, size_of_axis
from conjoin.symmetry.values import Call, Value

__all__ = [
    "as_complex",
    "as_real",
    "cat",
    "expand",
    "permute",
    "repeat",
    "same",
    "select",
    "slice_scatter",
    "sliced",
    "split",
    "squeeze",
    "unbind",
    "unsqueeze",
    "view",
]

POSITION = "one position of it is taken"


def view(call: Call) -> Value:
    """Merge and split neighbouring dimensions, row-major."""
    x = [axis for axis in call.axes(0) if size_of_axis(axis) != 1]
    out: list[Axis] = [ONE] * len(call.shape)
    slices: dict[int, list[Axis]] | None = None
    sliced_dim = -1
    places = [number for number, size in enumerate(call.shape) if size != 1]
    while places:
        taken, made = [x.pop(0)], [places.pop(0)]
        while (left := math.prod(map(size_of_axis, taken))) != (
            right := math.prod(call.shape[n] for n in made)
        ):
            if left < right:
                taken.append(x.pop(0))
            else:
                made.append(places.pop(0))
        axis = taken[0] if len(taken) == 1 else Product(tuple(taken))
        chosen = next((n for n in made if n in call.selected), None) if len(made) > 1 else None
        if chosen is not None and slices is None:
            found = _sliced_split(call, axis, made, chosen)
            if found is not None:
                slices, sliced_dim = found, chosen
                for number in made:
                    out[number] = call.space.atom(call.shape[number])
                continue
        parts = call.space.split(axis, [call.shape[n] for n in made]) if len(made) > 1 else (axis,)
        for number, part in zip(made, parts, strict=True):
            out[number] = part
    if slices is None:
        return Value(tuple(out), "learned")
    each = tuple(
        tuple(
            slices[n][index] if n in slices else out[n] for n in range(len(out)) if n != sliced_dim
        )
        for index in range(call.shape[sliced_dim])
    )
    call.space.pin(out[sliced_dim], POSITION)
    return Value(tuple(out), "learned", each, sliced_dim)


def _sliced_split(
    call: Call, axis: Axis, made: Sequence[int], chosen: int
) -> dict[int, list[Axis]] | None:
    """Split an axis of which one new dimension is only selected from: slices move apart.

    Returns:
        New dimension -> its axis in each slice; None if the axis has no borders there.
    """
    space, shape = call.space, call.shape
    before = [n for n in made if n < chosen]
    after = [n for n in made if n > chosen]
    count, inner = shape[chosen], math.prod(shape[n] for n in after)
    outer = [space.atom(shape[n]) for n in before]
    pieces = [space.atom(inner) for _ in range(count)]
    if before:
        space.equate(axis, Product((*outer, Sum(tuple(pieces)))))
    elif space.cut(axis, [inner * k for k in range(1, count)]) is None:
        return None
    else:
        space.equate(axis, Sum(tuple(pieces)))
    found: dict[int, list[Axis]] = {n: [one] * count for n, one in zip(before, outer, strict=True)}
    for piece in pieces:
        parts = space.split(piece, [shape[n] for n in after]) if after else ()
        for number, part in zip(after, parts, strict=True):
            found.setdefault(number, []).append(part)
    return found


def permute(call: Call) -> Value:
    """Reorder dimensions: permute, transpose, t, movedim."""
    value: Value = call.args[0]
    return _rearranged(value, _order(call, len(value.axes)))


def _order(call: Call, rank: int) -> list[int]:
    name = call.name.rpartition(".")[2]
    if name in ("transpose", "swapaxes"):
        order = list(range(rank))
        one, other = call.args[1] % rank, call.args[2] % rank
        order[one], order[other] = order[other], order[one]
        return order
    if name in ("t", "numpy_T"):
        return list(reversed(range(rank)))
    return [number % rank for number in call.args[1]]


def select(call: Call) -> Value:
    """Take one position of a dimension, which is pinned unless its slices are known apart."""
    value: Value = call.args[0]
    rank = len(value.axes)
    dim, index = call.get(1, "dim", 0) % rank, call.get(2, "index")
    if value.slices is not None and dim == value.dim:
        return Value(value.slices[index % len(value.slices)], value.source)
    axes = value.whole(call.space)
    call.space.pin(axes[dim], POSITION)
    return Value((*axes[:dim], *axes[dim + 1 :]), value.source)


def sliced(call: Call) -> list[Axes | Value]:
    """Take positions from start to end; with a step, the dimension is pinned."""
    value: Value = call.args[0]
    rank = len(value.axes)
    dim = call.get(1, "dim", 0) % rank
    size = size_of_axis(value.axes[dim])
    (start, end), step = _bounds(call, 2, size), call.get(4, "step", 1)
    if value.slices is not None and dim == value.dim and end - start == 1:
        one = value.slices[start]
        return [(*one[:dim], ONE, *one[dim:])]
    axes = value.whole(call.space)
    taken: Axis
    if (start, end, step) == (0, size, 1):
        taken = axes[dim]
    else:
        pieces = call.space.cut(axes[dim], [start, end]) if step == 1 else None
        if pieces is None:
            call.space.pin(axes[dim], POSITION)
            taken = call.space.pinned_atom(call.shape[dim], POSITION)
        else:
            taken = pieces[1]
    return [(*axes[:dim], taken, *axes[dim + 1 :])]


def slice_scatter(call: Call) -> list[Axes]:
    """``slice_scatter(x, source, dim, start, end, step)``: what `x[start:end] = source` becomes."""
    axes, source = call.axes(0), call.axes(1)
    dim = call.get(2, "dim", 0) % len(axes)
    for number, (one, other) in enumerate(zip(axes, source, strict=True)):
        if number != dim:
            call.space.equate(one, other)
    start, end = _bounds(call, 3, size_of_axis(axes[dim]))
    pieces = call.space.cut(axes[dim], [start, end]) if call.get(5, "step", 1) == 1 else None
    if pieces is None:
        call.space.pin(axes[dim], POSITION)
        call.space.pin(source[dim], POSITION)
    else:
        call.space.equate(pieces[1], source[dim])
    return [axes]


def _bounds(call: Call, place: int, size: int) -> tuple[int, int]:
    """Give start and end of a slice, whose argument `start` stands at a place."""
    start, end = call.get(place, "start") or 0, call.get(place + 1, "end")
    start = max(0, min(start + size if start < 0 else start, size))
    return start, size if end is None else max(start, min(end + size if end < 0 else end, size))


def split(call: Call) -> list[Axes]:
    """Cut a dimension into several results: split, chunk, split_with_sizes."""
    axes = call.axes(0)
    dim = call.get(2, "dim", 0) % len(axes)
    sizes = [shape[dim] for shape in call.shapes]
    places = [sum(sizes[:n]) for n in range(1, len(sizes))]
    pieces = call.space.cut(axes[dim], places)
    if pieces is None:
        pieces = [call.space.pinned_atom(size, POSITION) for size in sizes]
    return [(*axes[:dim], piece, *axes[dim + 1 :]) for piece in pieces]


def cat(call: Call) -> list[Axes]:
    """Put tensors one after another along a dimension."""
    operands = [value.whole(call.space) for value in call.args[0]]
    operands = [axes for axes in operands if len(axes) == len(call.shape)]  # an empty one is legal
    dim = call.get(1, "dim", 0) % len(call.shape)
    result: list[Axis] = []
    for number in range(len(call.shape)):
        column = [axes[number] for axes in operands]
        result.append(Sum(tuple(column)) if number == dim else call.space.equate_all(column))
    return [tuple(result)]


def as_complex(call: Call) -> list[Axes]:
    """``view_as_complex``: the last dimension has the real part, then the imaginary one."""
    axes = call.axes(0)
    call.space.pin(axes[-1], POSITION)
    return [axes[:-1]]


def as_real(call: Call) -> list[Axes]:
    """``view_as_real``: the way back."""
    return [(*call.axes(0), call.space.pinned_atom(2, POSITION))]


def squeeze(call: Call) -> Value:
    """Leave out dimensions of size 1."""
    value: Value = call.args[0]
    rank = len(value.axes)
    dims = call.get(1, "dim")
    chosen = range(rank) if dims is None else dims if isinstance(dims, list | tuple) else [dims]
    gone = {n % rank for n in chosen if size_of_axis(value.axes[n]) == 1}
    return _rearranged(value, [number for number in range(rank) if number not in gone])


def unsqueeze(call: Call) -> Value:
    """Put in a dimension of size 1."""
    value: Value = call.args[0]
    rank = len(value.axes)
    dim = call.args[1] % (rank + 1)
    return _rearranged(value, [*range(dim), None, *range(dim, rank)])


def _rearranged(value: Value, order: Sequence[int | None]) -> Value:
    """Give dimensions in another order, some left out; None is a new one of size 1."""
    axes = tuple(ONE if n is None else value.axes[n] for n in order)
    if value.slices is None or value.dim not in order:
        return Value(axes, value.source)
    kept = [n for n in range(len(value.axes)) if n != value.dim]
    place = {number: index for index, number in enumerate(kept)}
    slices = tuple(
        tuple(ONE if n is None else one[place[n]] for n in order if n != value.dim)
        for one in value.slices
    )
    return Value(axes, value.source, slices, list(order).index(value.dim))


def unbind(call: Call) -> list[Axes | Value]:
    """Take every position of a dimension."""
    value: Value = call.args[0]
    dim = call.get(1, "dim", 0) % len(value.axes)
    if value.slices is not None and dim == value.dim:
        return [Value(axes, value.source) for axes in value.slices]
    axes = value.whole(call.space)
    call.space.pin(axes[dim], POSITION)
    return [(*axes[:dim], *axes[dim + 1 :]) for _ in call.shapes]


def same(call: Call) -> Value:
    """Give the argument as it is: clone, alias, contiguous."""
    value: Value = call.args[0]
    return Value(value.axes, value.source, value.slices, value.dim)


def expand(call: Call) -> list[Axes]:
    """Repeat dimensions of size 1: what is repeated is equal, so that it may be reordered."""
    axes = call.axes(0)
    axes = (ONE,) * (len(call.shape) - len(axes)) + axes
    return [
        tuple(
            axis if size_of_axis(axis) == size else call.space.atom(size)
            for axis, size in zip(axes, call.shape, strict=True)
        )
    ]


def repeat(call: Call) -> list[Axes]:
    """Repeat whole dimensions: the repetition, then the dimension."""
    axes = call.axes(0)
    axes = (ONE,) * (len(call.shape) - len(axes)) + axes
    return [
        tuple(
            Product((call.space.atom(size // max(size_of_axis(axis), 1)), axis))
            for axis, size in zip(axes, call.shape, strict=True)
        )
    ]
