"""What arcee_fusion does with two matrices: divergences of rows, and changes that score enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from conjoin.compiled.library import load_library
from conjoin.compiled.program import KINDS
from conjoin.deferred import torch
from conjoin.dtypes import dtype_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["add_scored_changes", "divergence_of_rows", "scores_of_changes"]

_LEAST = 8
"""Columns of which divergences are formed; shorter rows are faster in torch."""


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
    given = _given(matrix, base)
    if given is None or base.shape[1] < _LEAST:
        return None
    found = torch.empty(len(base), dtype=torch.float64, device="cpu")
    given.call("conjoin_divergence", *base.shape, eps, found.data_ptr())
    return found


def scores_of_changes(matrix: Tensor, base: Tensor, factors: Tensor) -> Tensor | None:
    """Give ``|w - v| f`` of each element, with a factor for each row.

    Args:
        matrix: bfloat16, float16 or float32 [rows, columns], on the CPU.
        base: of the same shape.
        factors: float32 [rows].

    Returns:
        float32 [rows, columns], to the bits that torch gives. None if there is no compiled part, or
        it is not for such tensors.

    >>> found = scores_of_changes(torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([3.0]))
    >>> [[3.0, 3.0]] if found is None else found.tolist()
    [[3.0, 3.0]]
    """
    given = _given(matrix, base, factors)
    if given is None:
        return None
    found = torch.empty(base.shape, dtype=torch.float32, device="cpu")
    given.call("conjoin_scores", given.factors(), *base.shape, found.data_ptr())
    return found


def add_scored_changes(
    matrix: Tensor, base: Tensor, factors: Tensor, threshold: float
) -> Tensor | None:
    """Give the base with those changes ``w - v`` whose score is not less than a threshold.

    Args:
        matrix, base, factors: as for `scores_of_changes`.
        threshold: of scores, rounded to float32.

    Returns:
        [rows, columns] of the dtype of the base, to the bits that torch gives. None also if a
        number is NaN or infinite.

    >>> ones, factors = torch.ones(2, 1), torch.tensor([3.0, 1.0])
    >>> found = add_scored_changes(ones, torch.zeros(2, 1), factors, 2.0)
    >>> [[1.0], [0.0]] if found is None else found.tolist()
    [[1.0], [0.0]]
    """
    given = _given(matrix, base, factors)
    if given is None:
        return None
    found = torch.empty(base.shape, dtype=base.dtype, device="cpu")
    sizes = (*base.shape, threshold)
    if given.call("conjoin_add_scored", given.factors(), *sizes, found.data_ptr()):
        return None
    return found


class _Given:
    """Two matrices, and maybe a factor for each row, whose elements lie one after the other."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self._tensors = [one.detach().resolve_neg().contiguous() for one in tensors]

    def factors(self) -> int:
        """Give the address of the factors."""
        return self._tensors[2].data_ptr()

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the library: of both matrices, and of more."""
        both = [
            part
            for one in self._tensors[:2]
            for part in (one.data_ptr(), KINDS[dtype_of(one.dtype)])
        ]
        return getattr(load_library(), name)(*both, *arguments)


def _given(matrix: Tensor, base: Tensor, *factors: Tensor) -> _Given | None:
    """Take what can be computed with; None if that is not so."""
    everything = [matrix, base, *factors]
    usual = all(
        type(one) is torch.Tensor
        and one.device.type == "cpu"
        and dtype_of(one.dtype) in KINDS
        and one.is_floating_point()
        for one in everything
    )
    if load_library() is None or not usual or base.dim() != 2 or matrix.shape != base.shape:
        return None
    if any(one.dtype != torch.float32 or one.shape != base.shape[:1] for one in factors):
        return None
    if torch.is_grad_enabled() and any(one.requires_grad for one in everything):
        return None
    return _Given(everything)
