"""Ridge regression with the Gram matrix of the rows: for layers with fewer rows than features."""

from collections.abc import Sequence

import torch
from torch import Tensor

from conjoin.fitting.factors import factorized
from conjoin.fitting.problem import (
    Means,
    Part,
    Problem,
    Solution,
    away,
    offsets_of,
    streamed_spreads,
)

__all__ = ["by_rows"]

FLOOR = 1e-12
"""Of the trace of the Gram matrix: the least that is added to its diagonal. Rows that depend on
each other make it singular, and what rounding has left in such directions is nothing to divide by.
"""


def by_rows(problem: Problem, means: Means) -> Solution:
    """Solve with the Gram matrix of the rows.

    The change of the weights is ``X^T a`` with ``(X X^T + c I) a = E``: X has the rows about their
    means, each times the square root of its share; E, what the start leaves of the targets. What
    the rows get from a change is ``X X^T a``, so that rounds do not look at them again.

    Args:
        problem: what is asked.
        means: of its rows.
    """
    blocks = list(problem.stream())
    centers = problem.about(means.own_inputs)
    parents = _parents(blocks)
    root = _roots(problem, means)[parents][:, None]  # [rows, 1]
    gram = _gram(blocks, centers, root)
    ridge = torch.as_tensor(problem.ridge, dtype=torch.float64).clamp(min=FLOOR * centers.shape[-1])
    factor, _ = factorized(gram, ridge, means.moments(centers).mean(-1))

    start = problem.start.matrix
    base = torch.cat([_through(x, centers[number], start) for number, x, _ in blocks], 1)
    wanted = targets = torch.cat([y.cpu().double() for _, _, y in blocks], 1)
    for left in reversed(range(problem.rounds + 1)):
        mean = problem.about(_means(wanted, parents, len(means.counts)))
        of_rows = mean[parents].transpose(0, 1)  # [groups, rows, outputs]
        dual = torch.cholesky_solve(root * (wanted - of_rows - base), factor)
        if left:
            now = base + gram @ dual / root + of_rows
            wanted = torch.where(targets > 0, targets, now.clamp_(max=0))

    matrix, done = start.clone(), 0
    for number, x, _ in blocks:
        part = slice(done, done := done + x.shape[1])
        rows = away(x, centers[number])
        matrix += (rows.mT @ (root[part] * dual[:, part]).to(rows.device)).cpu()
    return Solution(
        matrix,
        offsets_of(mean, centers, matrix),
        streamed_spreads(problem, means, lambda: blocks),
        "rows",
    )


def _parents(blocks: Sequence[Part]) -> Tensor:
    """Give the number of each row's parent: [rows]."""
    return torch.tensor([number for number, _, _ in blocks]).repeat_interleave(
        torch.tensor([x.shape[1] for _, x, _ in blocks])
    )


def _roots(problem: Problem, means: Means) -> Tensor:
    """Give the square root of the share of a row of each parent: float64 [parents]."""
    shares = [share / n for share, n in zip(problem.shares, means.counts, strict=True)]
    return torch.tensor(shares, dtype=torch.float64).sqrt()


def _means(wanted: Tensor, parents: Tensor, count: int) -> Tensor:
    """Give the mean of each parent's rows: [parents, groups, outputs]."""
    return torch.stack([wanted[:, parents == number].mean(1) for number in range(count)])


def _gram(blocks: Sequence[Part], centers: Tensor, root: Tensor) -> Tensor:
    """Give ``X X^T`` block by block: float64 [groups, rows, rows]."""
    ends = torch.tensor([x.shape[1] for _, x, _ in blocks]).cumsum(0).tolist()
    parts = [slice(end - x.shape[1], end) for end, (_, x, _) in zip(ends, blocks, strict=True)]
    gram = torch.zeros(centers.shape[1], ends[-1], ends[-1], dtype=torch.float64)
    for at, (number, x, _) in enumerate(blocks):
        rows = away(x, centers[number])
        for before, (other, y, _) in enumerate(blocks[: at + 1]):
            products = (rows @ away(y, centers[other]).mT).cpu()
            gram[:, parts[at], parts[before]] = products
            gram[:, parts[before], parts[at]] = products.mT
    return gram.mul_(root).mul_(root.mT)


def _through(x: Tensor, center: Tensor, matrix: Tensor) -> Tensor:
    """Give ``(x - center) @ matrix``, multiplied in the precision of x: float64."""
    rows = away(x, center).to(x.dtype)
    return (rows @ matrix.to(x.device, x.dtype)).cpu().double()
