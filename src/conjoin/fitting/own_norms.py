"""A layer that all parents' tasks share, with a scale and a shift of each channel for each of them.

    min over W, s_k, b_k of
        sum_k share_k mean ||s_k (W x_k) + b_k - y_k||^2  +  ridge * scale * ||W - W_0||^2

in two steps: W with shifts of each parent's own and all s_k = 1, which is least squares of inputs
and targets about each parent's means; then, for each parent and channel, the line that leads from
W x_k to y_k, with its slope held to 1 by the same ridge. Where a ReLU follows, both are repeated
with targets below 0 replaced, as in `conjoin.fitting.least_squares`.

A BatchNorm for each task holds the scales and shifts. When the task is known it costs nothing: all
of it can be folded into the weights.

Source: ours. Statistics of BatchNorm for each domain, at equal weights, are those of Li et al.,
Revisiting batch normalization for practical domain adaptation, 2016 (arXiv:1603.04779).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from conjoin.fitting.factors import factorized
from conjoin.fitting.moments import Affine, Scaled, Sums
from conjoin.fitting.problem import Part, Problem, Spread, StreamedSpread, means_of
from conjoin.fitting.solving import solve

__all__ = ["solve_with_own_norms"]


def solve_with_own_norms(problem: Problem, memory: float) -> tuple[list[Scaled], list[Spread], str]:
    """Solve a ridge regression with a scale and a shift of each parent's own.

    Args:
        problem: what is asked, with an offset.
        memory: bytes that a Gram matrix may take; beyond, the matrix is that of one offset for all.

    Returns:
        The map of each parent, all with one matrix; how the inputs of each are distributed; and by
        what the matrix was solved, see `solve`.

    Raises:
        NonFiniteError: inputs or targets are NaN or infinite.
    """
    groups, features, _ = problem.start.matrix.shape
    if 8 * groups * features**2 <= memory:
        matrix, offsets, spreads = _about_own_means(problem)
        solved = "features"
    else:
        solution = solve(problem, memory)
        matrix, solved = solution.fitted.matrix, solution.solved
        offsets, spreads = _own_offsets(problem, matrix)
    maps = [Scaled(matrix, torch.ones_like(one), one) for one in offsets]
    for _ in range(problem.rounds + 1):
        maps = _rescaled(problem, maps, spreads)
    return maps, spreads, solved


def _about_own_means(problem: Problem) -> tuple[Tensor, list[Tensor], list[Spread]]:
    """Give the matrix, and the offset and the moments of each parent."""
    sums = [Sums() for _ in problem.weights]
    for number, inputs, targets in problem.stream():
        sums[number].add(inputs, targets)
    moments = [one.moments() for one in sums]
    gram = _mixed([one.gram for one in moments], problem.shares)
    cross = _mixed([one.cross for one in moments], problem.shares)
    problem.check(gram, cross)
    factor, floor = factorized(gram, problem.ridge, gram.diagonal(dim1=1, dim2=2).mean(-1))
    centers = [one.targets for one in moments]
    for left in reversed(range(problem.rounds + 1)):
        right = cross + floor[:, None, None] * problem.start.matrix
        matrix = torch.cholesky_solve(right, factor)
        offsets = [
            mean - (one.inputs[:, None] @ matrix)[:, 0]
            for mean, one in zip(centers, moments, strict=True)
        ]
        if left:
            maps = [Affine(matrix, one) for one in offsets]
            found = [_Products() for _ in moments]
            for number, inputs, given in problem.stream():
                wanted = _wanted(given, maps[number](inputs), rectified=True)
                center = moments[number].inputs[:, None].to(inputs.device, inputs.dtype)
                found[number].add(inputs - center, wanted)
            cross = _mixed([one.mean(0) for one in found], problem.shares)
            centers = [one.mean(1) for one in found]
    return matrix, offsets, list(moments)


def _own_offsets(problem: Problem, matrix: Tensor) -> tuple[list[Tensor], list[Spread]]:
    """Give the offset of each parent with a matrix, and how its inputs are distributed."""
    offsets: list[Tensor] = []
    spreads: list[Spread] = []
    for number in range(len(problem.weights)):
        own = replace(problem, stream=_Own(problem, number), weights=[1.0])
        means = means_of(own)
        offsets.append(means.targets - (means.inputs[:, None] @ matrix)[:, 0])
        spreads.append(StreamedSpread(own.stream, [1.0], means.inputs))
    return offsets, spreads


@dataclass(frozen=True)
class _Own:
    """The rows of one parent."""

    problem: Problem
    number: int

    def __call__(self) -> Iterable[Part]:
        for number, inputs, targets in self.problem.stream():
            if number == self.number:
                yield 0, inputs, targets


def _rescaled(problem: Problem, maps: Sequence[Scaled], spreads: Sequence[Spread]) -> list[Scaled]:
    """Fit scale and offset of each channel to what the matrix gives, for each parent."""
    through = [Affine(one.matrix, torch.zeros_like(one.offset)) for one in maps]
    means = [
        (spread.inputs[:, None] @ one.matrix)[:, 0]
        for one, spread in zip(maps, spreads, strict=True)
    ]
    found = [_Products() for _ in maps]
    for number, inputs, targets in problem.stream():
        one = maps[number]
        plain = through[number](inputs)
        scale, offset = (t[:, None].to(plain.device, plain.dtype) for t in (one.scale, one.offset))
        wanted = _wanted(targets, plain * scale + offset, rectified=problem.rounds > 0)
        found[number].add_channels(
            plain - means[number][:, None].to(plain.device, plain.dtype), wanted
        )
    result = []
    for one, spread, mean, products in zip(maps, spreads, means, found, strict=True):
        variance = spread.variance(one.matrix)
        ridge = torch.as_tensor(problem.ridge, dtype=torch.float64).reshape(-1, 1)
        slope = (products.mean(0) + ridge * variance) / (variance * (1 + ridge))
        scale = torch.where(variance > 0, slope, 1.0)
        result.append(replace(one, scale=scale, offset=products.mean(1) - scale * mean))
    return result


class _Products:
    """Running sums of products, and of targets."""

    def __init__(self) -> None:
        self._count = 0
        self._sums: list[Tensor] = []

    def add(self, rows: Tensor, targets: Tensor) -> None:
        """Add [groups, rows, features] and [groups, rows, outputs]: products of every two."""
        self._add(rows.transpose(1, 2) @ targets, targets)

    def add_channels(self, rows: Tensor, targets: Tensor) -> None:
        """Add two times [groups, rows, outputs]: products channel by channel."""
        self._add((rows * targets).sum(1), targets)

    def _add(self, products: Tensor, targets: Tensor) -> None:
        self._count += targets.shape[1]
        found = [one.double().cpu() for one in (products, targets.sum(1))]
        self._sums = (
            [total + one for total, one in zip(self._sums, found, strict=True)]
            if self._sums
            else found
        )

    def mean(self, which: int) -> Tensor:
        """Give the mean product (0) or target (1)."""
        return self._sums[which] / self._count


def _wanted(targets: Tensor, now: Tensor, *, rectified: bool) -> Tensor:
    """Give the targets, or what is below 0 now where they are below 0 too."""
    return torch.where(targets > 0, targets, now.clamp(max=0)) if rectified else targets


def _mixed(parts: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    return torch.stack([share * one for one, share in zip(parts, shares, strict=True)]).sum(0)
