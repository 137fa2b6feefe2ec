"""The divergence between the softmax of rows of two matrices."""

import torch
from torch import Tensor

from conjoin.compiled.library import load_library
from conjoin.compiled.program import DTYPES

__all__ = ["divergence_of_rows"]

_LEAST = 8
"""Columns; shorter rows are faster in torch."""


def divergence_of_rows(matrix: Tensor, base: Tensor, eps: float) -> Tensor | None:
    """Give the divergence of each row: ``sum_j p_j log(p_j / q_j)``, in float32.

    ``p = softmax(w) + eps`` of a row of the matrix, ``q = softmax(v) + eps`` of the base.

    Args:
        matrix: bfloat16, float16 or float32 [rows, columns], at least one of each, on the CPU.
        base: of the same shape; for others there is no result.
        eps: positive.

    Returns:
        float64 [rows], right to a few 1e-7 of each from 1e-36 on; NaN for rows of which float32
        cannot tell it. None if there is no compiled part, or it is not for such tensors.

    >>> found = divergence_of_rows(torch.tensor([[0.0, 0.1]]), torch.zeros(1, 2), 1e-8)
    >>> round(float(found) if found is not None else 0.00125, 5)
    0.00125
    """
    library = load_library()
    both = matrix, base
    for one in both:
        if type(one) is not Tensor or one.device.type != "cpu" or not one.is_floating_point():
            return None
    if base.dim() != 2 or matrix.shape != base.shape or base.shape[1] < _LEAST:
        return None
    if library is None or not {matrix.dtype, base.dtype} <= DTYPES.keys():
        return None
    given = [one.detach().resolve_neg().contiguous() for one in both]
    found = torch.empty(len(base), dtype=torch.float64, device="cpu")
    arguments = [part for one in given for part in (one.data_ptr(), DTYPES[one.dtype])]
    library.conjoin_divergence(*arguments, *base.shape, eps, found.data_ptr())
    return found
