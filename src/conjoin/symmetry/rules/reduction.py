"""Sums, means, maxima: symmetric in what they go over."""

from conjoin.symmetry.axes import ONE, Axes
from conjoin.symmetry.values import Call

__all__ = ["reduction", "reduction_with_position"]


def reduction(call: Call) -> list[Axes]:
    """Leave out the reduced dimensions, or keep them with size 1."""
    axes = call.axes(0)
    dims = call.get(2 if call.name.endswith("norm") else 1, "dim")
    numbers = [dims] if isinstance(dims, int) else list(dims or range(len(axes)))
    gone = {n % len(axes) for n in numbers} if axes else set()
    results = []
    for shape in call.shapes:
        if len(shape) == len(axes):
            results.append(tuple(ONE if n in gone else axis for n, axis in enumerate(axes)))
        else:
            results.append(tuple(axis for n, axis in enumerate(axes) if n not in gone))
    return results


def reduction_with_position(call: Call) -> list[Axes]:
    """The position of the largest may be a result too; then the order matters."""
    axes = call.axes(0)
    dim = call.get(1, "dim")
    if len(call.shapes) == 2 and 1 not in call.used:
        return reduction(call)
    for axis in axes if dim is None else [axes[dim % len(axes)]]:
        call.space.pin(axis, "a position in it is a result")
    return reduction(call)
