"""Operations that treat every position alike, with broadcasting."""

from conjoin.symmetry.axes import ONE, Axes, size_of_axis
from conjoin.symmetry.values import Call

__all__ = ["broadcast", "elementwise", "same", "softmax"]


def broadcast(call: Call, *operands: Axes) -> Axes:
    """Equate the axes of operands from the last dimension on; size 1 fits everything."""
    rank = max(map(len, operands), default=0)
    padded = [(ONE,) * (rank - len(axes)) + axes for axes in operands]
    result = []
    for position in range(rank):
        column = [axes[position] for axes in padded]
        wide = [axis for axis in column if size_of_axis(axis) != 1]
        result.append(call.space.equate_all(wide))
    return tuple(result)


def elementwise(call: Call) -> list[Axes]:
    """Every result has the broadcast axes: add, mul, relu, where, comparison, cast, ..."""
    axes = broadcast(call, *(value.whole(call.space) for value in call.values()))
    return [axes[len(axes) - len(shape) :] for shape in call.shapes]


def same(call: Call) -> list[Axes]:
    """Give the axes of the first argument: detach, dropout in eval mode ..."""
    return [call.axes(0) for _ in call.shapes]


def softmax(call: Call) -> list[Axes]:
    """Give the axes of the first argument, of which one is mixed: softmax, log_softmax."""
    axes = call.axes(0)
    dim = call.get(1, "dim") % max(len(axes), 1)
    call.space.together(*axes[:dim], *axes[dim + 1 :])
    return [axes for _ in call.shapes]
