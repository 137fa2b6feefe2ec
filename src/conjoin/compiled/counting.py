"""Counting which bit patterns a tensor has."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

from conjoin.compiled.library import load_library
from conjoin.deferred import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["count_patterns"]

_END = 1 << 32


class _Window(ctypes.Structure):
    """As in counts.c."""

    _fields_ = (
        ("low", ctypes.c_uint32),
        ("high", ctypes.c_uint32),
        ("shift", ctypes.c_int32),
        ("counts", ctypes.c_void_p),
        ("above", ctypes.c_void_p),
    )


def count_patterns(bits: Tensor, windows: Sequence[tuple[int, ...]], into: Tensor) -> bool:
    """Count the numbers in each bin of some windows, and those above each.

    Args:
        bits: int32, on the CPU. Their signs are not looked at.
        windows: (row, low, shift, bins) each: a bin holds ``2**shift`` numbers, the first one those
            from `low` on.
        into: int64 [rows, columns], to be added to: counts of the bins of a window from the first
            column on, those above in the last one.

    Returns:
        Whether it was done: False, and nothing is, if there is no compiled part, or it is not for
        such tensors.

    >>> counts = torch.zeros(1, 3, dtype=torch.int64)
    >>> bits = torch.tensor([1, 4, 5, 6, 9], dtype=torch.int32)
    >>> done = count_patterns(bits, [(0, 4, 1, 2)], counts)
    >>> counts.tolist() if done else [[2, 1, 1]]
    [[2, 1, 1]]
    """
    library = load_library()
    plain = {type(bits), type(into)} == {torch.Tensor} and {bits.device.type, into.device.type} == {
        "cpu"
    }
    if library is None or not plain or (bits.dtype, into.dtype) != (torch.int32, torch.int64):
        return False
    (rows, columns), first = into.shape, into.data_ptr()
    fits = all(
        0 <= row < rows and 0 <= bins < columns and 0 <= low <= low + (bins << shift) < _END
        for row, low, shift, bins in windows
    )
    if not fits or not into.is_contiguous():
        return False
    size = into.element_size()
    flat = bits.contiguous()
    encoded = (_Window * len(windows))(
        *(
            _Window(
                low,
                low + (bins << shift),
                shift,
                first + row * columns * size,
                first + ((row + 1) * columns - 1) * size,
            )
            for row, low, shift, bins in windows
        )
    )
    library.conjoin_count(flat.data_ptr(), flat.numel(), encoded, len(windows))
    return True
