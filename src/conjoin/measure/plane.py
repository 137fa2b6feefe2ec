"""The plane through three networks, and the loss on it."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from numbers import Integral
from typing import Any

import numpy as np
from torch import Tensor, nn

from conjoin.arguments import as_mapping
from conjoin.batches import Data
from conjoin.checkpoints import Checkpoint, Kind, from_module
from conjoin.errors import InputError, NonFiniteError
from conjoin.measure.chunks import as_reals, chunks
from conjoin.measure.points import check_alike, check_data, measure
from conjoin.merging import merge
from conjoin.records import Record, Split
from conjoin.repairing import has_batchnorm, reestimate_batchnorm

__all__ = ["plane"]

# A triangle is flat if its lowest altitude is below one of these: relative to its longest side,
# since the shares of a point are as large as the inverse, and rounding of float32 grows with them;
# relative to the norm of the weights, since rounding alone lifts a merged network off the line.
_OF_SIDE = 1e-4
_OF_NORM = 2.0**-23


def plane(
    models: Mapping[str, nn.Module],
    data: Mapping[str, Data],
    *,
    resolution: int = 13,
    margin: float = 0.2,
    statistics: Sequence[Data] = (),
    name: str = "plane",
    split: Split = "test",
    seed: int = 0,
    how: Mapping[str, Any] | None = None,
    batch_size: int = 500,
    on_done: Callable[[int, int], None] | None = None,
) -> list[Record]:
    """Measure accuracy (percent) and loss on the plane through three networks.

        w(x, y) = w_1 + x u / ||u|| + y v / ||v||
        u = w_2 - w_1,   v = (w_3 - w_1) - u <u, w_3 - w_1> / ||u||^2

    over all weights as one vector; a tied tensor counts once. So the first network is at (0, 0),
    the second at (||u||, 0), and the third at a y above 0; x and y are lengths: the distance of two
    points is the Euclidean distance of their weights. Coordinates are computed in float64.

    The grid has `resolution` x `resolution` points. It covers the rectangle around the corners
    and `margin` of its width and height on each side. The three corners are measured as well: they
    are the networks themselves. A grid point that is a corner is measured once.

    With `statistics`, if there is BatchNorm, all points and corners have statistics re-estimated on
    them. Without, grid points have the running statistics of the first network and corners their
    own, so that the surface need not meet the second and third corner. Other tensors that are no
    weights must agree (counters take their maximum).

    Args:
        models: name -> network, exactly three of one structure; not changed.
        data: task -> a loader or a pair, as for `evaluate`; a loader must give its batches anew for
            every point.
        resolution: points along each side of the grid, 2 or more.
        margin: 0 or more.
        statistics: data for ``reestimate_batchnorm(network, *statistics)``.
        name: `Record.model`.
        split: which part of the data this is; recorded.
        seed: of the run; recorded.
        how: further keys for `how` of every record; those of the view stay.
        batch_size: used for whole sets.
        on_done: called with the number of points measured so far, and of all.

    Returns:
        Records of the view ``plane``, corners first, with ``x``, ``y``, ``reestimated`` and
        ``corners`` (name -> [x, y]) in `how`; a regression has no accuracy.

    Raises:
        InputError: not three networks, no data, or networks that are equal or on one line.
        MismatchError: the networks differ in structure or constants.
        NonFiniteError: a weight is NaN or infinite.

    Source: Garipov et al., NeurIPS 2018 (arXiv:1802.10026), figure 1 is such a plane.

    >>> import torch
    >>> nets = {name: nn.Linear(2, 1, bias=False) for name in "abc"}
    >>> with torch.no_grad():
    ...     for net, weight in zip(nets.values(), ([0, 0], [0, 2], [3, 1]), strict=True):
    ...         _ = net.weight.copy_(torch.tensor([weight]))
    >>> records = plane(nets, {"t": (torch.ones(1, 2), torch.ones(1, 1))}, resolution=2)
    >>> records[0].how["corners"]
    {'a': [0.0, 0.0], 'b': [2.0, 0.0], 'c': [1.0, 3.0]}
    >>> [record.value for record in records[:3]], len(records)
    ([1.0, 1.0, 9.0], 7)
    """
    check_data(data)
    if len(as_mapping(models, "models", '{"a": a, "b": b, "c": c}')) != 3:
        raise InputError(f"a plane goes through three networks, not {len(models)}")
    if not isinstance(resolution, Integral) or resolution < 2 or not 0 <= margin < math.inf:
        raise InputError(
            f"resolution must be 2 or more and margin 0 or more; got {resolution!r} and {margin!r}"
        )
    networks = list(models.values())
    check_alike(networks)
    triangle = _triangle(models)
    reestimated = bool(statistics) and has_batchnorm(networks[0])
    corners = dict(zip(models, triangle.corners, strict=True))
    grid = _grid(triangle, resolution, margin)
    points = [*triangle.corners, *(at for at in grid if at not in triangle.corners)]
    records = []
    for done, (x, y) in enumerate(points, 1):
        if done <= len(networks):
            network = networks[done - 1]
        else:
            network = _point(networks, triangle.shares(x, y))
        if reestimated:
            network = reestimate_batchnorm(network, *statistics)
        records += measure(
            network,
            data,
            {
                **(how or {}),
                "view": "plane",
                "x": x,
                "y": y,
                "reestimated": reestimated,
                "corners": {corner: list(place) for corner, place in corners.items()},
            },
            name=name,
            split=split,
            seed=seed,
            batch_size=batch_size,
        )
        if on_done is not None:
            on_done(done, len(points))
    return records


@dataclass(frozen=True)
class _Triangle:
    """Three corners: (0, 0), (base, 0), (foot, height)."""

    base: float
    foot: float
    height: float

    @property
    def corners(self) -> list[tuple[float, float]]:
        return [(0.0, 0.0), (self.base, 0.0), (self.foot, self.height)]

    def shares(self, x: float, y: float) -> tuple[float, float, float]:
        """Give the weights, with sum 1, of the corners whose sum is at (x, y)."""
        third = y / self.height
        second = (x - third * self.foot) / self.base
        return 1 - second - third, second, third


def _triangle(models: Mapping[str, nn.Module]) -> _Triangle:
    one, two, three = (from_module(model) for model in models.values())
    weights = [
        weight
        for weight, spec in one.specs.items()
        if spec.kind is Kind.WEIGHT and spec.alias_of is None
    ]
    names = list(models)
    base2 = along = norm2 = 0.0
    sides2 = dict.fromkeys(combinations(names, 2), 0.0)
    for a, b, c in _pieces(weights, one, two, three):
        norm2 += float(a @ a)
        base2 += float((b - a) @ (b - a))
        along += float((b - a) @ (c - a))
        for pair, side in zip(sides2, (b - a, c - a, c - b), strict=True):
            sides2[pair] += float(side @ side)
    if not math.isfinite(norm2 + sum(sides2.values())):
        raise NonFiniteError("a weight of the three networks is NaN, infinite or too large")
    for pair, side2 in sides2.items():
        if side2 == 0:
            raise InputError(
                f"{pair[0]!r} and {pair[1]!r} have the same weights, so that there is no plane "
                "through the three networks; pass three different ones"
            )
    # A second pass, since sqrt(||w_3 - w_1||^2 - foot^2) would cancel.
    height2 = 0.0
    for a, b, c in _pieces(weights, one, two, three):
        rest = (c - a) - (along / base2) * (b - a)
        height2 += float(rest @ rest)
    base, height, longest = map(math.sqrt, (base2, height2, max(sides2.values())))
    altitude = base * height / longest
    if altitude <= max(_OF_SIDE * longest, _OF_NORM * math.sqrt(norm2)):
        raise InputError(
            f"{', '.join(map(repr, names))} are on one line, within {altitude:.3g} at a distance "
            f"of {longest:.3g}; pass three networks of which none is a mixture of the others"
        )
    return _Triangle(base, along / base, height)


def _pieces(names: Sequence[str], *sources: Checkpoint) -> Iterator[tuple[Tensor, ...]]:
    for name in names:
        for pieces in zip(*(chunks(source, name) for source in sources), strict=True):
            yield tuple(map(as_reals, pieces))


def _grid(triangle: _Triangle, resolution: int, margin: float) -> list[tuple[float, float]]:
    sides = []
    for values in zip(*triangle.corners, strict=True):
        low, high = min(values), max(values)
        beyond = margin * (high - low)
        sides.append([float(v) for v in np.linspace(low - beyond, high + beyond, resolution)])
    return [(x, y) for y, x in product(sides[1], sides[0])]


def _point(networks: Sequence[nn.Module], shares: Sequence[float]) -> nn.Module:
    # An exact name is a pattern that matches that name alone.
    firsts = {
        name: 0
        for name, spec in from_module(networks[0]).specs.items()
        if spec.kind is Kind.STATISTIC
    }
    return merge(networks, "linear", weights=shares, keep=firsts)
