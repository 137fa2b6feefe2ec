"""Ridge regression of one layer on rows that arrive in parts: what is asked, and what is answered.

    min over W, b of  sum_k share_k mean ||W x_k + b - y_k||^2  +  ridge * scale * ||W - W_0||^2

over the rows of each parent k, where the scale is the mean second moment of a feature: of all x,
about their mean, or about 0 if there is no b. Each parent may have a b of its own; moments are then
about the mean of its own x.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from conjoin.data_statistics.sums import Moments as ChannelMoments
from conjoin.errors import NonFiniteError
from conjoin.fitting.moments import Affine

__all__ = [
    "Means",
    "Part",
    "Problem",
    "Solution",
    "Spread",
    "StreamedSpread",
    "away",
    "means_of",
    "offsets_of",
    "streamed_spreads",
]

Part = tuple[int, Tensor, Tensor]
"""Number of the parent, inputs [groups, rows, features], targets [groups, rows, outputs]."""


@dataclass(frozen=True)
class Problem:
    """What is to be solved.

    Args:
        name: of the layer, for messages.
        stream: gives all rows anew with each call, in the same parts and order, parent by parent.
        weights: how much each parent counts; only ratios matter.
        start: W_0, and a b that is not looked at.
        ridge: how strongly W is held to W_0; one number, or float64 [groups].
        offset: whether there is a b.
        rounds: so many times, targets below 0 are replaced by what the fit gives, if that is below
            0 too, and the fit is repeated.
        fewest: rows that there are at least: with more, nothing is counted beforehand.
        own_offsets: whether each parent has a b of its own.
    """

    name: str
    stream: Callable[[], Iterable[Part]]
    weights: Sequence[float]
    start: Affine
    ridge: float | Tensor
    offset: bool = True
    rounds: int = 0
    fewest: int = 0
    own_offsets: bool = False

    @property
    def shares(self) -> list[float]:
        """Shares of the parents, with the sum 1."""
        return [weight / sum(self.weights) for weight in self.weights]

    def about(self, means: Tensor) -> Tensor:
        """Give what rows are looked at about: the mean of their parent, that of all, or 0.

        Args:
            means: of each parent's rows, float64 [parents, groups, features].

        Returns:
            For each parent, in the same shape.
        """
        if self.own_offsets:
            return means
        if not self.offset:
            return torch.zeros_like(means)
        return (_column(self.shares) * means).sum(0).expand(means.shape)

    def check(self, *sums: Tensor) -> None:
        """Raise a NonFiniteError if a sum over all rows is not finite."""
        if not all(bool(one.isfinite().all()) for one in sums):
            raise NonFiniteError(
                f"activations at {self.name!r} are NaN or infinite, in a model or in what is "
                "merged of them; nothing can be fitted to them"
            )


class Spread(Protocol):
    """How the inputs of a layer are distributed."""

    @property
    def inputs(self) -> Tensor:
        """Their means, float64 [groups, features]."""

    def variance(self, matrix: Tensor) -> Tensor:
        """Give the variance of ``inputs @ matrix``: float64 [groups, outputs]."""


@dataclass(frozen=True)
class Solution:
    """An answer.

    Args:
        matrix: float64 [groups, features, outputs].
        offsets: of each parent, float64 [parents, groups, outputs]; equal ones, if all have one.
        spreads: how the layer's inputs are distributed: those of each parent, if each has a b of
            its own, else one of all.
        solved: by what: ``features`` (their Gram matrix), ``rows`` (theirs) or ``iterations``.
    """

    matrix: Tensor
    offsets: Tensor
    spreads: Sequence[Spread]
    solved: str

    @property
    def fitted(self) -> Affine:
        """The map of all parents, where none has a b of its own."""
        return Affine(self.matrix, self.offsets[0])

    @property
    def inputs(self) -> Spread:
        """How all inputs are distributed, where no parent has a b of its own."""
        return self.spreads[0]


@dataclass(frozen=True)
class Means:
    """What one pass over the rows says.

    Args:
        counts: rows of each parent.
        shares: of the parents, with the sum 1.
        own_inputs: means over the rows of each parent, float64 [parents, groups, features].
        own_targets: the same, float64 [parents, groups, outputs].
        own_variances: of each feature over the rows of each parent, float64.
        row: bytes that one row of inputs takes in all groups.
    """

    counts: tuple[int, ...]
    shares: Sequence[float]
    own_inputs: Tensor
    own_targets: Tensor
    own_variances: Tensor
    row: int

    @property
    def inputs(self) -> Tensor:
        """Means over all rows, float64 [groups, features]."""
        return (_column(self.shares) * self.own_inputs).sum(0)

    @property
    def targets(self) -> Tensor:
        """Means over all rows, float64 [groups, outputs]."""
        return (_column(self.shares) * self.own_targets).sum(0)

    def moments(self, centers: Tensor) -> Tensor:
        """Give the second moment of each feature about a center for each parent's rows.

        Args:
            centers: float64 [parents, groups, features].

        Returns:
            float64 [groups, features].
        """
        own = self.own_variances + (self.own_inputs - centers).square()
        return (_column(self.shares) * own).sum(0)


def means_of(problem: Problem) -> Means:
    """Run over all rows once."""
    inputs, targets = (
        [ChannelMoments(products=False) for _ in problem.weights] for _ in ("inputs", "targets")
    )
    row = 0
    for number, x, y in problem.stream():
        inputs[number].add(x)
        targets[number].add(y)
        row = x.element_size() * x.shape[0] * x.shape[2]
    means, variances = _each(inputs)
    wanted, around = _each(targets)
    problem.check(means, variances, wanted, around)
    counts = tuple(one.count for one in inputs)
    return Means(counts, problem.shares, means, wanted, variances, row)


@dataclass(frozen=True)
class StreamedSpread:
    """How inputs are distributed, found by running over them."""

    stream: Callable[[], Iterable[Part]]
    shares: Sequence[float]
    inputs: Tensor

    def variance(self, matrix: Tensor) -> Tensor:
        """Give the variance of ``inputs @ matrix``: float64 [groups, outputs]."""
        given = [ChannelMoments(products=False) for _ in self.shares]
        through = Affine(matrix, torch.zeros_like(matrix[:, 0]))
        for number, x, _ in self.stream():
            given[number].add(through(x))
        return _pooled(given, self.shares)[1]


def streamed_spreads(
    problem: Problem, means: Means, stream: Callable[[], Iterable[Part]]
) -> list[StreamedSpread]:
    """Say how inputs are distributed, as a `Solution` has it.

    Args:
        problem: what is asked.
        means: of its rows.
        stream: gives them anew with each call.
    """
    if not problem.own_offsets:
        return [StreamedSpread(stream, problem.shares, means.inputs)]
    return [
        StreamedSpread(partial(_rows_of, stream, number), [1.0], own)
        for number, own in enumerate(means.own_inputs)
    ]


def _rows_of(stream: Callable[[], Iterable[Part]], parent: int) -> Iterable[Part]:
    """Give the rows of one parent, as those of the only one."""
    return ((0, x, y) for number, x, y in stream() if number == parent)


def offsets_of(means: Tensor, centers: Tensor, matrix: Tensor) -> Tensor:
    """Give each parent the b with which a matrix leads from a center to a mean.

    Args:
        means: of targets, float64 [parents, groups, outputs].
        centers: of inputs, float64 [parents, groups, features].
        matrix: float64 [groups, features, outputs].
    """
    return means - (centers[:, :, None] @ matrix)[:, :, 0]


def away(rows: Tensor, center: Tensor) -> Tensor:
    """Give rows about a center, in float64, on their device if that has float64."""
    home = torch.device("cpu") if rows.device.type == "mps" else rows.device
    return rows.to(home).double() - center[:, None].to(home)


def _pooled(parts: Sequence[ChannelMoments], shares: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Give mean and variance of a mixture: [groups, features]."""
    means, variances = _each(parts)
    share = _column(shares)
    mean = (share * means).sum(0)
    return mean, (share * (variances + (means - mean).square())).sum(0)


def _each(parts: Sequence[ChannelMoments]) -> tuple[Tensor, Tensor]:
    """Give mean and variance of each: [parents, groups, features]."""
    means = torch.stack([one.mean.cpu() for one in parts])
    return means, torch.stack([one.variance().cpu() for one in parts])


def _column(shares: Sequence[float]) -> Tensor:
    return torch.tensor(shares, dtype=torch.float64)[:, None, None]
