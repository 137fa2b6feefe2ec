"""Cholesky factors of matrices of second moments, which may lack rank."""

import torch
from torch import Tensor

__all__ = ["factorized"]


def factorized(matrix: Tensor, ridge: float | Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Give the Cholesky factors of matrices with a ridge, and the ridge that it took.

    Args:
        matrix: float64 [groups, size, size], symmetric, nowhere negative but by rounding.
        ridge: in units of the scale. A larger one is taken where rounding has made the matrix
            indefinite.
        scale: float64 [groups].

    Returns:
        [groups, size, size]; and what was added to the diagonal, [groups].

    >>> factor, floor = factorized(torch.ones(1, 2, 2).double(), 3.0, torch.ones(1).double())
    >>> factor @ factor.mT, floor
    (tensor([[[4., 1.],
              [1., 4.]]], dtype=torch.float64), tensor([3.], dtype=torch.float64))
    """
    ridges = torch.as_tensor(ridge, dtype=torch.float64).expand(len(matrix))
    # Of inputs that are all dead nothing is known, and any ridge at all keeps the start.
    scale = scale.clamp(min=1e-200)
    while True:
        floor = ridges * scale
        raised = matrix + torch.diag_embed(floor[:, None].expand(matrix.shape[:2]))
        factor, failed = torch.linalg.cholesky_ex(raised)
        if not failed.any():
            return factor, floor
        ridges = (10 * ridges).clamp(min=1e-12)
