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

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from conjoin.fitting.moments import Affine, Scaled
from conjoin.fitting.problem import Problem, Spread
from conjoin.fitting.solving import solve

__all__ = ["solve_with_own_norms"]


def solve_with_own_norms(
    problem: Problem, memory: float
) -> tuple[list[Scaled], Sequence[Spread], str]:
    """Solve a ridge regression with a scale and a shift of each parent's own.

    Args:
        problem: what is asked, with an offset.
        memory: bytes that a Gram matrix may take; see `solve`.

    Returns:
        The map of each parent, all with one matrix; how the inputs of each are distributed; and by
        what the matrix was solved, see `solve`.

    Raises:
        NonFiniteError: inputs or targets are NaN or infinite.
    """
    solution = solve(replace(problem, own_offsets=True), memory)
    maps = [Scaled(solution.matrix, torch.ones_like(one), one) for one in solution.offsets]
    for _ in range(problem.rounds + 1):
        maps = _rescaled(problem, maps, solution.spreads)
    return maps, solution.spreads, solution.solved


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
        found[number].add(plain - means[number][:, None].to(plain.device, plain.dtype), wanted)
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
        """Add two times [groups, rows, outputs]: products channel by channel."""
        self._count += targets.shape[1]
        found = [one.sum(1).double().cpu() for one in (rows * targets, targets)]
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
