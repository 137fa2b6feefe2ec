"""Ridge regression of one layer on rows that arrive in parts: what is asked, and what is answered.

    min over W, b of  sum_k share_k mean ||W x_k + b - y_k||^2  +  ridge * scale * ||W - W_0||^2

over the rows of each parent k, where the scale is the mean second moment of a feature: of all x,
about their mean, or about 0 if there is no b.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from conjoin.data_statistics.sums import Moments as ChannelMoments
from conjoin.errors import NonFiniteError
from conjoin.fitting.moments import Affine

__all__ = ["Means", "Part", "Problem", "Solution", "Spread", "StreamedSpread", "away", "means_of"]

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
    """

    name: str
    stream: Callable[[], Iterable[Part]]
    weights: Sequence[float]
    start: Affine
    ridge: float | Tensor
    offset: bool = True
    rounds: int = 0
    fewest: int = 0

    @property
    def shares(self) -> list[float]:
        """Shares of the parents, with the sum 1."""
        return [weight / sum(self.weights) for weight in self.weights]

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
        fitted: the map.
        inputs: how the layer's inputs are distributed.
        solved: by what: ``features`` (their Gram matrix), ``rows`` (theirs) or ``iterations``.
    """

    fitted: Affine
    inputs: Spread
    solved: str


@dataclass(frozen=True)
class Means:
    """What one pass over the rows says.

    Args:
        counts: rows of each parent.
        inputs: means over all rows, float64 [groups, features].
        targets: the same, float64 [groups, outputs].
        variance: of each feature over all rows, float64 [groups, features].
        row: bytes that one row of inputs takes in all groups.
    """

    counts: tuple[int, ...]
    inputs: Tensor
    targets: Tensor
    variance: Tensor
    row: int

    def center(self, *, offset: bool) -> Tensor:
        """Give what second moments are about: float64 [groups, features]."""
        return self.inputs if offset else torch.zeros_like(self.inputs)

    def scale(self, *, offset: bool) -> Tensor:
        """Give the mean second moment of a feature: float64 [groups]."""
        moment = self.variance if offset else self.variance + self.inputs.square()
        return moment.mean(-1)


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
    mean, variance = _pooled(inputs, problem.shares)
    target, around = _pooled(targets, problem.shares)
    problem.check(mean, variance, target, around)
    return Means(tuple(one.count for one in inputs), mean, target, variance, row)


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


def away(rows: Tensor, center: Tensor) -> Tensor:
    """Give rows about a center, in float64, on their device if that has float64."""
    home = torch.device("cpu") if rows.device.type == "mps" else rows.device
    return rows.to(home).double() - center[:, None].to(home)


def _pooled(parts: Sequence[ChannelMoments], shares: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Give mean and variance of a mixture: [groups, features]."""
    means = torch.stack([one.mean.cpu() for one in parts])
    variances = torch.stack([one.variance().cpu() for one in parts])
    share = torch.tensor(shares, dtype=torch.float64)[:, None, None]
    mean = (share * means).sum(0)
    return mean, (share * (variances + (means - mean).square())).sum(0)
