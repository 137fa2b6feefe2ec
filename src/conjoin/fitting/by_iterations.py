"""Ridge regression by conjugate gradients: for layers of which no Gram matrix fits in memory."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from conjoin.fitting.problem import (
    Means,
    Problem,
    Solution,
    away,
    offsets_of,
    streamed_spreads,
)

__all__ = ["MOST", "TOLERANCE", "by_iterations"]

TOLERANCE = 1e-6
"""Of each output: what is left of the residual of the normal equations, over what it was."""

MOST = 100
"""Steps for each solution. To stop early is to hold the weights nearer to the start."""


def by_iterations(
    problem: Problem, means: Means, *, tolerance: float = TOLERANCE, most: int = MOST
) -> Solution:
    """Solve by conjugate gradients, in memory of a few times the weight.

    Each step is a pass over all rows, in float64, for all outputs at once. Features are scaled by
    their second moments (Jacobi preconditioning). Every step brings the fit closer to what is
    asked, also where the steps end before the tolerance is reached; the answer says so then.

    Args:
        problem: what is asked.
        means: of its rows.
        tolerance: of the residual, relative.
        most: steps for each solution, of which rounds need one each.

    Source: Hestenes & Stiefel, Methods of conjugate gradients for solving linear systems, 1952.
    """
    centers = problem.about(means.own_inputs)
    moments = means.moments(centers)
    scale = moments.mean(-1).clamp(min=1e-200)
    floor = (torch.as_tensor(problem.ridge, dtype=torch.float64) * scale)[:, None, None]
    diagonal = moments[:, :, None] + floor
    diagonal = diagonal.where(diagonal > 0, torch.ones_like(diagonal))
    still = problem.about(means.own_targets)

    def rows() -> Iterator[tuple[int, Tensor, Tensor]]:
        for number, x, y in problem.stream():
            yield number, away(x, centers[number]), y

    each = [share / count for share, count in zip(problem.shares, means.counts, strict=True)]

    def products(matrix: Tensor) -> Tensor:
        """Give ``(X^T X + c I) @ matrix``."""
        result = floor * matrix
        for number, x, _ in rows():
            result += each[number] * (x.mT @ (x @ matrix.to(x.device))).cpu()
        return result

    def residual(matrix: Tensor, mean: Tensor, *, rectified: bool) -> tuple[Tensor, Tensor]:
        """Give ``X^T E - c (W - W_0)``, and each parent's mean of what is wanted."""
        result = floor * (problem.start.matrix - matrix)
        means_of_wanted = torch.zeros_like(mean)
        for number, x, y in rows():
            now = (x @ matrix.to(x.device)).cpu()
            wanted = y.cpu().double()
            if rectified:
                wanted = torch.where(
                    wanted > 0, wanted, (now + mean[number][:, None]).clamp_(max=0)
                )
            means_of_wanted[number] += wanted.sum(1) / means.counts[number]
            rest = wanted - still[number][:, None] - now
            result += each[number] * (x.mT @ rest.to(x.device)).cpu()
        return result, problem.about(means_of_wanted)

    matrix, mean, steps, left = problem.start.matrix, still, 0, 0.0
    enough = torch.zeros(())
    for number in range(problem.rounds + 1):
        right, mean = residual(matrix, mean, rectified=number > 0)
        if not number:
            norm = right.norm(dim=1)
            enough = tolerance * norm.clamp(min=max(1e-12 * float(norm.max()), 1e-200))
        change, taken, left = _conjugate_gradients(products, right, diagonal, enough, most)
        matrix = matrix + change
        steps += taken
    short = f", the residual still {tolerance * left:.0e} of what it was" if left > 1 else ""
    return Solution(
        matrix,
        offsets_of(mean, centers, matrix),
        streamed_spreads(problem, means, problem.stream),
        f"iterations ({steps} steps{short})",
    )


def _conjugate_gradients(
    products: Callable[[Tensor], Tensor],
    right: Tensor,
    diagonal: Tensor,
    enough: Tensor,
    most: int,
) -> tuple[Tensor, int, float]:
    """Solve for all columns side by side, from zero.

    Args:
        products: by the matrix: symmetric, nowhere negative.
        right: [groups, features, outputs].
        diagonal: of the matrix, or near it: [groups, features, 1].
        enough: norm of each column's residual at which it is solved: [groups, outputs].
        most: steps.

    Returns:
        The solution, steps taken, and the largest norm of a residual over what is enough.
    """
    found, rest = torch.zeros_like(right), right
    scaled = rest / diagonal
    direction, size = scaled, (rest * scaled).sum(1, keepdim=True)
    for step in range(most + 1):
        left = float((rest.norm(dim=1) / enough).max())
        if left <= 1 or step == most:
            break
        image = products(direction)
        curved = (direction * image).sum(1, keepdim=True)
        length = torch.where(curved > 0, size / curved.where(curved > 0, 1.0), 0.0)
        found = found + length * direction
        rest = rest - length * image
        scaled = rest / diagonal
        last, size = size, (rest * scaled).sum(1, keepdim=True)
        direction = (
            scaled + torch.where(last > 0, size / last.where(last > 0, 1.0), 0.0) * direction
        )
    return found, step, left
