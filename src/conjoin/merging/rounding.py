"""Rounding of results to the dtype in which they are stored, once."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

from conjoin.deferred import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["rounded", "summable"]


def rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Give the nearest numbers of `dtype`; of two that are as near, the even one.

    Torch goes from float64 to what is narrower than float32 by way of float32, and so rounds twice:
    a number a little above the middle of two numbers of bfloat16 becomes the middle, and that the
    lower one. Here float32 keeps a last bit of 1 of what is not exact ("rounding to odd"), so that
    nothing is a middle that was none.

    Boldo and Melquiond, Emulation of FMA and correctly rounded sums, IEEE ToC 2008.

    >>> above = torch.tensor([1 + 2**-8 + 2**-40], dtype=torch.float64)
    >>> above.to(torch.bfloat16), rounded(above, torch.bfloat16)
    (tensor([1.], dtype=torch.bfloat16), tensor([1.0078], dtype=torch.bfloat16))
    """
    if tensor.dtype == torch.float64 and dtype.is_floating_point and dtype.itemsize < 4:
        tensor = _rounded_to_odd(tensor)
    return tensor.to(dtype)


def summable(stored: Tensor, exact: Tensor) -> Tensor:
    """Give what was rounded in a dtype that has sums, with infinity for what was too large.

    Torch makes 448 of all that is larger in float8_e4m3fn, which has no infinity.

    Args:
        stored: what `rounded` gave.
        exact: what it was given.

    >>> exact = torch.tensor([460.0, 1000.0])
    >>> summable(rounded(exact, torch.float8_e4m3fn), exact)
    tensor([448., inf])
    """
    dtype = stored.dtype
    if dtype.itemsize > 1 and dtype != torch.complex32:
        return stored
    wide = stored.to(torch.complex64 if dtype.is_complex else torch.float32)
    if not dtype.is_floating_point or not _saturates(dtype):
        return wide
    largest = torch.finfo(dtype)
    step = largest.eps * 2.0 ** math.floor(math.log2(largest.max))
    return wide.masked_fill(exact.to(wide.dtype).abs() > largest.max + step / 2, math.inf)


@cache
def _saturates(dtype: torch.dtype) -> bool:
    """Whether infinity becomes the largest number of a dtype."""
    return bool(torch.tensor(math.inf).to(dtype).to(torch.float32).isfinite())


def _rounded_to_odd(tensor: Tensor) -> Tensor:
    """Give float32: what is exact, and else the one of both neighbours whose last bit is 1."""
    near = tensor.to(torch.float32)
    bits, size, found = near.view(torch.int32), tensor.abs(), near.double().abs_()
    # Bits of larger magnitudes are larger integers, up to infinity; NaN compares to nothing.
    step = torch.gt(size, found).int().sub_(torch.lt(size, found).int())
    return (bits + step.mul_(1 - (bits & 1))).view(torch.float32)
