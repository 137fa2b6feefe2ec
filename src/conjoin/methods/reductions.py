"""Sums whose bits do not depend on the number of threads.

Torch cuts a sum of 32,768 elements or more among its threads, and each number of threads gives
another order of additions, and so other last bits. Here a sum is made of rows that torch never
cuts, in float64, and the rows are added in their order.
"""

import torch
from torch import Tensor

__all__ = ["sum_of", "sum_of_magnitudes", "sum_of_products"]

# Elements of a row: half of the length at which torch begins to use threads within one sum.
_ROW = 1 << 14


def sum_of(tensor: Tensor) -> Tensor:
    """Add up all elements in float64: ``sum_j w_j``.

    Args:
        tensor: real, of any shape.

    Returns:
        One float64 number, of shape [].

    >>> sum_of(torch.full((3, 100_000), 0.5))
    tensor(150000., dtype=torch.float64)
    """
    values = tensor.reshape(-1)
    while values.numel() > _ROW:
        whole = values.numel() // _ROW * _ROW
        rows = values[:whole].view(-1, _ROW).sum(1, dtype=torch.float64)
        values = torch.cat([rows, values[whole:].sum(dtype=torch.float64)[None]])
    return values.sum(dtype=torch.float64)


def sum_of_magnitudes(tensor: Tensor) -> Tensor:
    """Add up the magnitudes in float64: ``sum_j |w_j|``, the L1 norm.

    >>> sum_of_magnitudes(torch.tensor([-3.0, 4.0]))
    tensor(7., dtype=torch.float64)
    """
    return sum_of(tensor.abs())


def sum_of_products(first: Tensor, second: Tensor) -> Tensor:
    """Add up the products of elements in float64: ``sum_j a_j b_j``.

    Not `torch.dot`: that is BLAS's, which has threads and orders of its own.

    >>> sum_of_products(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 0.5]))
    tensor(11., dtype=torch.float64)
    """
    return sum_of(first.double() * second.double())
