"""`solve`: ridge regression by the smaller of two matrices that fits in memory, or by neither.

With n rows X [n, d] of d features, centered and weighted, and E what the start leaves of the
targets, the change of the weights is, in exact arithmetic,

    features:    (X^T X + c I)^-1 X^T E          a matrix of d x d
    rows:        X^T (X X^T + c I)^-1 E          a matrix of n x n
    iterations:  conjugate gradients on the first, with products by X alone

If each parent has an offset of its own, its rows are centered about their own mean.

Source of the second: Saunders, Gammerman & Vovk, Ridge regression learning algorithm in dual
variables, ICML 1998.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from conjoin.fitting.by_iterations import by_iterations
from conjoin.fitting.by_rows import by_rows
from conjoin.fitting.factors import factorized
from conjoin.fitting.moments import Affine, Moments, Sums, pooled, within
from conjoin.fitting.problem import Problem, Solution, means_of, offsets_of

__all__ = ["by_features", "solve"]


def solve(problem: Problem, memory: float) -> Solution:
    """Solve a ridge regression in a bounded amount of memory.

    Of the Gram matrices of features (d x d) and of rows (n x n), float64 for each group, the
    smaller one is taken that `memory` has room for; that of rows only if the rows themselves have
    room too, since they are kept. If there is room for none, conjugate gradients need as much as a
    few times the weight, and a pass over all rows for each step.

    Args:
        problem: what is asked.
        memory: bytes that such a matrix, or all rows, may take.

    Raises:
        NonFiniteError: inputs or targets are NaN or infinite.
    """
    groups, features, _ = problem.start.matrix.shape
    fits = 8 * groups * features**2 <= memory
    if fits and features <= problem.fewest:
        return by_features(problem)
    means = means_of(problem)
    rows = sum(means.counts)
    if rows < features and max(8 * groups * rows**2, rows * means.row) <= memory:
        return by_rows(problem, means)
    return by_features(problem) if fits else by_iterations(problem, means)


def by_features(problem: Problem) -> Solution:
    """Solve with the Gram matrix of the features."""
    whole, centers, means = _moments(problem)
    about = _about(problem, whole)
    problem.check(about.gram, about.cross)
    scale = about.gram.diagonal(dim1=1, dim2=2).mean(-1)
    factor, floor = factorized(about.gram, problem.ridge, scale)
    cross = about.cross
    for left in reversed(range(problem.rounds + 1)):
        right = cross + floor[:, None, None] * problem.start.matrix
        matrix = torch.cholesky_solve(right, factor)
        offsets = offsets_of(means, centers, matrix)
        if left:
            maps = [Affine(matrix, one) for one in offsets]
            cross, means = _rectified(problem, maps, centers)
    return Solution(matrix, offsets, whole, "features")


def _moments(problem: Problem) -> tuple[list[Moments], Tensor, Tensor]:
    """Give the moments of each parent or of all, and means of both as `Problem.about` has them."""
    sums = [Sums() for _ in problem.weights]
    for number, inputs, targets in problem.stream():
        sums[number].add(inputs, targets)
    parts = [one.moments() for one in sums]
    centers = problem.about(torch.stack([one.inputs for one in parts]))
    means = problem.about(torch.stack([one.targets for one in parts]))
    return parts if problem.own_offsets else [pooled(parts, problem.weights)], centers, means


def _about(problem: Problem, whole: Sequence[Moments]) -> Moments:
    """Give the second moments that a problem is about, from those of each parent or of all."""
    if problem.own_offsets:
        return within(whole, problem.weights)
    return whole[0] if problem.offset else whole[0].about_zero()


def _rectified(problem: Problem, maps: Sequence[Affine], centers: Tensor) -> tuple[Tensor, Tensor]:
    """Give the moments with targets below 0 replaced by what is given now, if below 0 too.

    Args:
        problem: what is asked.
        maps: of each parent, as they are.
        centers: what the inputs of each are looked at about.

    Returns:
        Products of inputs and targets, [groups, features, outputs]; and means of targets as
        `Problem.about` has them.
    """
    counts = [0 for _ in problem.weights]
    sums: list[list[Tensor]] = [[] for _ in problem.weights]
    for number, inputs, targets in problem.stream():
        now = maps[number](inputs).clamp_(max=0)
        wanted = torch.where(targets > 0, targets, now)
        distance = inputs - centers[number][:, None].to(inputs.device, inputs.dtype)
        found = ((distance.transpose(1, 2) @ wanted).cpu(), wanted.sum(1).cpu())
        if not sums[number]:
            sums[number] = [one.double() for one in found]
        else:
            for total, one in zip(sums[number], found, strict=True):
                total += one
        counts[number] += inputs.shape[1]
    each = list(zip(problem.shares, sums, counts, strict=True))
    cross = torch.stack([share / count * own[0] for share, own, count in each]).sum(0)
    return cross, problem.about(torch.stack([own[1] / count for _, own, count in each]))
