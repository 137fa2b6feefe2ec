"""Model Stock: how far to go from the base to the mean, from the angles between models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from conjoin.deferred import torch
from conjoin.methods.elections import check_real
from conjoin.methods.gram import combined, directions, gram_of
from conjoin.methods.method import Total
from conjoin.methods.rows import by_rows, row_sums

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["find_ratio", "model_stock"]

N = TypeVar("N", float, "Tensor")


def find_ratio(total: Total, *, filter_wise: bool = False) -> Sequence[float]:
    """Give ``t / n`` for every model; nothing if each filter has a ratio of its own.

    Returns:
        [n], or [0].
    """
    if filter_wise:
        return ()
    gram = gram_of(total, "model_stock")
    known = directions(gram)
    count = len(gram)
    if known is None or count < 2:
        return [1 / count] * count
    cosines = known[1]
    pairs = float(cosines.sum() - np.trace(cosines))
    cosine = min(max(pairs / (count * (count - 1)), 0.0), 1.0)
    return [_ratio(cosine, count) / count] * count


def model_stock(
    tensors: Sequence[Tensor],
    *,
    base: Tensor,
    summary: Sequence[float],
    filter_wise: bool = False,
) -> Tensor:
    """Go from the base towards the mean of the models, the farther the more these agree.

        w_0 + t (mean_i w_i - w_0),    t = n c / (1 + (n - 1) c)

    with c the mean cosine of the angles between the changes ``w_i - w_0`` of two models. It lies
    nearest to the centre of all models that are fine-tuned so, if these lie on a sphere around
    it. The paper has one angle for all pairs, and c for several is their mean, as in mergekit. If c
    is negative, the formula would go away from the models, any distance; t is 0 then. A model that
    has not changed agrees with none: its cosines are 0.

    Args:
        tensors: two or more of one shape, real floating.
        base: ``w_0``, of that shape, from which all were fine-tuned.
        summary: of `find_ratio`.
        filter_wise: an angle for every filter: what belongs to one place on the first axis, of a
            tensor with two axes or more. Otherwise for every tensor.

    Raises:
        MethodError: complex tensors.

    Jang, Yun and Han, Model Stock: all we need is just a few fine-tuned models, ECCV 2024
    (arXiv:2403.19522).

    >>> from conjoin.methods import TotalOf
    >>> base, a, b = torch.zeros(2), torch.tensor([3.0, 0.0]), torch.tensor([1.0, 1.0])
    >>> summary = find_ratio(TotalOf([a, b], base=base))
    >>> model_stock([a, b], base=base, summary=summary)  # t = 0.8284
    tensor([1.6569, 0.4142])
    """
    if not filter_wise:
        return combined(tensors, summary, base)
    check_real(base, "model_stock")
    count = len(tensors)

    def merge(parts: list[Tensor]) -> Tensor:
        ancestor = parts[-1].double()
        mean, unit, moved = (torch.zeros_like(ancestor) for _ in range(3))
        for part in parts[:-1]:
            change = part.double() - ancestor
            length = row_sums(change.square())[:, None].sqrt()
            mean += change
            unit += change / torch.where(length > 0, length, torch.inf)
            moved += length > 0
        # |sum_i u_i|^2 has the cosines of all pairs twice, and 1 for every model that has moved.
        pairs = row_sums(unit.square()) - moved[:, 0]
        cosine = (pairs / (count * max(count - 1, 1))).clamp(0.0, 1.0)
        ratio = _ratio(cosine, count)[:, None]
        return mean.mul_(ratio / count).add_(ancestor)

    rows = base.shape[0] if base.dim() > 1 else 1
    if base.numel() == 0:
        return base.clone()
    matrices = [tensor.reshape(rows, -1) for tensor in (*tensors, base)]
    return by_rows(merge, matrices).view(base.shape)


def _ratio(cosine: N, count: int) -> N:
    """Give t from the mean cosine of all pairs."""
    if count < 2:
        return cosine * 0 + 1
    return count * cosine / (1 + (count - 1) * cosine)
