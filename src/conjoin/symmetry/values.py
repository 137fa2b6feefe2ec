"""What is known of the result of an operation while a graph is gone through."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from conjoin.symmetry.axes import Axes, Space

__all__ = ["Call", "Source", "Value"]

Source = Literal["learned", "plain", "uniform"]
"""Whether a parameter is among its ancestors; if not, whether all of its elements are equal."""


@dataclass(eq=False)
class Value:
    """A tensor in the graph.

    Args:
        axes: of its dimensions.
        source: what it comes from.
        slices: where one dimension is an index that is only selected from: the axes of each slice,
            which may be reordered apart from each other.
        dim: that dimension.
    """

    axes: Axes
    source: Source
    slices: tuple[Axes, ...] | None = None
    dim: int = 0

    def whole(self, space: Space) -> Axes:
        """Give the axes; slices must be reordered alike from now on."""
        for axes in self.slices or ():
            rest = [axis for number, axis in enumerate(self.axes) if number != self.dim]
            for one, other in zip(rest, axes, strict=True):
                space.equate(one, other)
        self.slices = None
        return self.axes


@dataclass(frozen=True, eq=False)
class Call:
    """An operation with its arguments.

    Args:
        name: of the operation, such as ``aten.add``.
        args: tensors as `Value`, sizes as numbers.
        kwargs: likewise.
        shapes: of each result.
        space: of all axes.
        selected: dimensions of the result that are only selected from afterwards.
        used: numbers of the results, of several, that are used afterwards.
    """

    name: str
    args: Sequence[Any]
    kwargs: dict[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    space: Space
    selected: tuple[int, ...] = field(default=())
    used: frozenset[int] = field(default=frozenset())

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first result."""
        return self.shapes[0]

    def axes(self, number: int) -> Axes:
        """Give the axes of an argument that is a tensor."""
        value: Value = self.args[number]
        return value.whole(self.space)

    def get(self, number: int, name: str, default: Any = None) -> Any:
        """Give an argument by place or name."""
        if number < len(self.args):
            return self.args[number]
        return self.kwargs.get(name, default)

    def values(self) -> list[Value]:
        """Give all arguments that are tensors."""
        return list(_values([*self.args, *self.kwargs.values()]))


def _values(items: Sequence[Any]) -> Any:
    for item in items:
        if isinstance(item, Value):
            yield item
        elif isinstance(item, list | tuple):
            yield from _values(item)
