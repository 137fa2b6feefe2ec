"""Arcee Fusion: take over the changes that matter most."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from conjoin.methods.elections import change_from
from conjoin.methods.rows import groups_of_rows, row_sums

__all__ = ["arcee_fusion"]

# mergekit's: added to every probability.
_EPS = 1e-8


def arcee_fusion(tensors: Sequence[Tensor], *, base: Tensor) -> Tensor:
    """Take the other model's weight where its change is important, else the base's.

        w_0 + d 1[s >= median(s) + 1.5 (q_3(s) - q_1(s))],    d = w_1 - w_0
        s = |d| sum_j p_j log(p_j / q_j),    p = softmax(w_1) + eps,   q = softmax(w_0) + eps

    with softmax and sum along the last axis, eps = 1e-8, and the quartiles q_1, q_3 and the median
    of the scores s over the tensor: that element in the order of scores which has the whole part of
    the rank. So about the outliers of the change are taken. No weight of a network is a
    logit; the divergence serves as a measure of how much a row has changed.

    The divergence is of the order of ``d**2``, what is left of terms of the order of d, so
    that it is formed in float64: in bfloat16, as mergekit does it, it is roundings for models that
    differ little. Quartiles are those of all scores, where mergekit draws a million of a large
    tensor.

    Args:
        tensors: one, real floating, whole.
        base: ``w_0``, of its shape.

    Raises:
        MethodError: complex tensors.

    Arcee AI, in mergekit 0.1.1, 2025.

    >>> base = torch.zeros(8)
    >>> arcee_fusion([torch.tensor([0.0, 0.1, 0.2, 0.1, 0.0, 0.2, 5.0, 0.3])], base=base)
    tensor([0., 0., 0., 0., 0., 0., 5., 0.])
    """
    if base.is_meta or base.numel() == 0:
        return torch.empty_like(base)
    rows = [tensor.reshape(-1, base.shape[-1] if base.dim() else 1) for tensor in (*tensors, base)]
    change = change_from(rows[1], rows[0], "arcee_fusion")
    divergence = torch.cat([_divergence(*parts) for parts in groups_of_rows(rows)])
    # Only the order of scores counts. So the largest factor may be 1, and none too small.
    largest = divergence.max()
    factors = divergence / torch.where(largest > 0, largest, 1.0)
    scores = change.abs().mul_(factors[:, None].to(change.dtype))
    ranks = [int(share * (scores.numel() - 1)) for share in (0.25, 0.5, 0.75)]
    ordered = np.partition(scores.reshape(-1).cpu().numpy(), ranks)
    first, middle, third = (float(ordered[rank]) for rank in ranks)
    kept = torch.ge(scores, middle + 1.5 * (third - first), out=torch.empty_like(scores))
    return change.mul_(kept).add_(rows[1]).reshape(base.shape)


def _divergence(tensor: Tensor, base: Tensor) -> Tensor:
    """Give the divergence of each row from that of the base: float64 [rows], not negative."""
    found = tensor.double().softmax(1).add_(_EPS)
    expected = base.double().softmax(1).add_(_EPS)
    return row_sums((found / expected).log_().mul_(found)).clamp_(min=0.0)
