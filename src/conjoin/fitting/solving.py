"""`solve`: ridge regression by the smaller of two matrices that fits in memory, or by neither.

With n rows X [n, d] of d features, centered and weighted, and E what the start leaves of the
targets, the change of the weights is, in exact arithmetic,

    features:    (X^T X + c I)^-1 X^T E          a matrix of d x d
    rows:        X^T (X X^T + c I)^-1 E          a matrix of n x n
    iterations:  conjugate gradients on the first, with products by X alone

Source of the second: Saunders, Gammerman & Vovk, Ridge regression learning algorithm in dual
variables, ICML 1998.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from conjoin.fitting.by_iterations import by_iterations
from conjoin.fitting.by_rows import by_rows
from conjoin.fitting.factors import factorized
from conjoin.fitting.moments import Affine, Sums, pooled
from conjoin.fitting.problem import Problem, Solution, means_of

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
    sums = [Sums() for _ in problem.weights]
    for number, inputs, targets in problem.stream():
        sums[number].add(inputs, targets)
    moments = pooled([one.moments() for one in sums], problem.weights)
    problem.check(moments.gram, moments.cross)
    about = moments if problem.offset else moments.about_zero()
    scale = about.gram.diagonal(dim1=1, dim2=2).mean(-1)
    factor, floor = factorized(about.gram, problem.ridge, scale)

    def solved(cross: Tensor, targets: Tensor) -> Affine:
        right = cross + floor[:, None, None] * problem.start.matrix
        matrix = torch.cholesky_solve(right, factor)
        if not problem.offset:
            return Affine(matrix, torch.zeros_like(targets))
        return Affine(matrix, targets - (about.inputs[:, None] @ matrix)[:, 0])

    fitted = solved(about.cross, about.targets)
    for _ in range(problem.rounds):
        fitted = solved(*_rectified(problem, fitted, about.inputs))
    return Solution(fitted, moments, "features")


def _rectified(
    problem: Problem, fitted: Callable[[Tensor], Tensor], center: Tensor
) -> list[Tensor]:
    """Give the moments with targets below 0 replaced by what is given now, if below 0 too."""
    counts = [0 for _ in problem.weights]
    sums: list[list[Tensor]] = [[] for _ in problem.weights]
    for number, inputs, targets in problem.stream():
        now = fitted(inputs).clamp_(max=0)
        wanted = torch.where(targets > 0, targets, now)
        distance = inputs - center[:, None].to(inputs.device, inputs.dtype)
        found = ((distance.transpose(1, 2) @ wanted).cpu(), wanted.sum(1).cpu())
        if not sums[number]:
            sums[number] = [one.double() for one in found]
        else:
            for total, one in zip(sums[number], found, strict=True):
                total += one
        counts[number] += inputs.shape[1]
    shares = [share / count for share, count in zip(problem.shares, counts, strict=True)]
    return [
        torch.stack([share * own[at] for share, own in zip(shares, sums, strict=True)]).sum(0)
        for at in (0, 1)
    ]
