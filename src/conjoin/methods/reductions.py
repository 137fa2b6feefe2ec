"""Sums whose bits do not depend on the number of threads.

Torch cuts a sum of 32,768 elements or more among its threads, and each number of threads gives
another order of additions, and so other last bits. Here a sum is made of rows that torch never
cuts, in float64, and the rows are added in their order.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from functools import cache
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any

from conjoin.compiled import Symbol, SymbolOfSums
from conjoin.deferred import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "quick_products",
    "quick_sums",
    "sum_of",
    "sum_of_magnitudes",
    "sum_of_products",
    "went_well",
]

# Elements of a row: half of the length at which torch begins to use threads within one sum.
_ROW = 1 << 14
# Elements that are summed up in float32, and the range of sums of squares in which that is safe.
# Squares below the range of float32, of 1e-45 at most each, are nothing beside the least sum of a
# few hundred thousand; and no sum of products is larger than the largest sum of squares.
_SHORT_ROW = 1 << 12
_LEAST, _LARGEST = 1e-30, 1e37


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


def quick_sums(tensors: Sequence[Tensor]) -> Tensor:
    """Add up numbers that are not negative: ``sum_j w_ij`` for each of several tensors.

    Rows of 4096 are added up in float32, and the rows in float64, in a third of the time of
    `sum_of`. The error is a few roundings of float32. It is an operation of torch's, so that a
    function that ends with it can be compiled, see `conjoin.compiled`.

    Args:
        tensors: real, of any shape; float64 is summed up as by `sum_of`, and so is what overflows.

    Returns:
        float64 [n].

    >>> quick_sums([torch.full((3, 100_000), 0.5), torch.ones(2)])
    tensor([1.5000e+05, 2.0000e+00], dtype=torch.float64)
    """
    found: Tensor = _operation("quick_sums")([*tensors])
    return found


def _quick_sums(tensors: Sequence[Tensor]) -> Tensor:
    return torch.tensor([_quick_sum(tensor) for tensor in tensors], dtype=torch.float64)


def _quick_sum(sizes: Tensor) -> float:
    values, total = sizes.detach().reshape(-1), math.inf
    if values.dtype == torch.float32:
        whole = values.numel() // _SHORT_ROW * _SHORT_ROW
        rows = values[:whole].view(-1, _SHORT_ROW).sum(1).tolist()
        total = math.fsum([*rows, values[whole:].sum().item()] if whole < len(values) else rows)
    return total if math.isfinite(total) else sum_of(values).item()


def sum_of_products(first: Tensor, second: Tensor) -> Tensor:
    """Add up the products of elements in float64: ``sum_j a_j b_j``.

    Not `torch.dot`: that is BLAS's, which has threads and orders of its own.

    >>> sum_of_products(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 0.5]))
    tensor(11., dtype=torch.float64)
    """
    return sum_of(first.double() * second.double())


def quick_products(vectors: Sequence[Tensor]) -> Tensor:
    """Add up the products of elements of every two tensors, with products in float32.

    Rows of 4096 products are summed up in float32, and the rows in float64. It takes .2 ns per
    product, a third of the time that float64 takes. The error is a few roundings of float32, 3e-7
    of the product of the lengths, where all products are rounded to one side or one row is all; of
    normal values it is about 1e-8 for 65,536 elements, and falls with more of them, below 1e-9 for
    1e8. Where a sum of squares leaves the range of float32 it goes wrong: see `went_well`. It is an
    operation of torch's, as `quick_sums`.

    Args:
        vectors: real, [size] each, of one dtype; float64 is multiplied and summed up as such.

    Returns:
        float64 [n (n + 1) / 2]: ``v_i . v_j`` for j >= i, row by row.

    >>> quick_products([torch.tensor([3.0, 4.0]), torch.tensor([3.0, 0.5])])
    tensor([25.0000, 11.0000,  9.2500], dtype=torch.float64)
    """
    if isinstance(vectors[0], Symbol):
        return SymbolOfSums(vectors)
    found: Tensor = _operation("quick_products")([*vectors])
    return found


def _quick_products(vectors: Sequence[Tensor]) -> Tensor:
    flat = [vector.detach() for vector in vectors]
    pairs = list(combinations_with_replacement(flat, 2))
    if any(vector.dtype != torch.float32 for vector in vectors):
        return torch.stack([sum_of_products(one, other) for one, other in pairs]).cpu()
    sums = []
    whole = flat[0].numel() // _SHORT_ROW * _SHORT_ROW
    for one, other in pairs:
        products = one * other
        if whole < products.numel():
            end = products[whole:].sum()[None]
            sums.append(torch.cat([products[:whole].view(-1, _SHORT_ROW).sum(1), end]))
        else:
            sums.append(products.view(-1, _SHORT_ROW).sum(1))
    return torch.stack(sums).double().sum(1).cpu()


def went_well(squares: Sequence[float]) -> bool:
    """Whether sums of squares, of `quick_products`, say that nothing left the range of float32.

    >>> went_well([25.0, 9.25]), went_well([0.0, 9.25]), went_well([float("inf"), 1.0])
    (True, False, False)
    """
    return all(_LEAST < square < _LARGEST for square in squares)


@cache
def _operations() -> Any:
    """Give these as operations of torch's, so that whoever notes what is done sees each as one."""
    library = torch.library.Library("conjoin", "DEF")
    library.define("quick_sums(Tensor[] tensors) -> Tensor")
    library.define("quick_products(Tensor[] vectors) -> Tensor")
    library.impl("quick_sums", _quick_sums, "CompositeExplicitAutograd")
    library.impl("quick_products", _quick_products, "CompositeExplicitAutograd")
    return library, torch.ops.conjoin


def _operation(name: str) -> Any:
    with _LOCK:  # they can be defined once
        return getattr(_operations()[1], name)


_LOCK = threading.Lock()
