"""EMR: elect one change, mask it and rescale it for each task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from conjoin.deferred import torch
from conjoin.methods.consensus import check_task
from conjoin.methods.elections import change_from, check_real
from conjoin.methods.method import Total
from conjoin.methods.reductions import sum_of_magnitudes
from conjoin.methods.strips import in_strips, strips_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["emr", "find_magnitudes"]


def find_magnitudes(total: Total, *, task: int = 0) -> Tensor:
    """Give the sums of magnitudes of a task's change, and of the elected change under its mask.

    Returns:
        float64 [2].
    """

    def magnitudes(tensors: Sequence[Tensor], *, base: Tensor) -> Tensor:
        check_task(task, len(tensors), "emr")
        sums = torch.zeros(2, dtype=torch.float64)
        if base.is_meta:
            return sums
        for parts, ancestor in strips_of(tensors, base):
            sums[0] += sum_of_magnitudes(change_from(ancestor, parts[task], "emr")).cpu()
            sums[1] += sum_of_magnitudes(_elected(parts, ancestor, task)).cpu()
        return sums

    return total(magnitudes)


def emr(
    tensors: Sequence[Tensor],
    *,
    base: Tensor,
    summary: Tensor,
    task: int = 0,
    per: Literal["model", "tensor"] = "model",  # noqa: ARG001 - of the engine
    scale: float = 1.0,
) -> Tensor:
    """Give a task the elected change, where it has the sign of the task's, and as large.

        tau_t = w_t - w_0,   g = sign(sum_t tau_t),   u = g max_{t: sign(tau_t) = g} |tau_t|
        m_t = [tau_t u > 0],   l_t = sum |tau_t| / sum m_t |u|
        w_0 + s l_t m_t u

    Args:
        tensors: one model per task, same shape, real floating.
        base: ``w_0``, of that shape.
        summary: of `find_magnitudes`.
        task: number of the task whose model is wanted, from 0.
        per: over what the sums of magnitudes are: the whole model (the paper) or each tensor.
        scale: the factor ``s`` of the change.

    Raises:
        MethodError: a task that is not there; complex tensors.

    Huang et al., EMR-Merging: tuning-free high-performance model merging, NeurIPS 2024
    (arXiv:2405.17461).

    >>> a, b = torch.tensor([1.0, -2.0, 1.0]), torch.tensor([3.0, 4.0, -2.0])
    >>> emr([a, b], base=torch.zeros(3), summary=torch.tensor([4.0, 3.0]))
    tensor([4., 0., 0.])
    """
    check_task(task, len(tensors), "emr")
    check_real(base, "emr")
    if base.is_meta:
        return torch.empty_like(base)
    before, after = summary.tolist()
    # Nothing under the mask: no factor would help.
    factor = before / after if after > 0 else 1.0

    def merge_strip(tensors: list[Tensor], base: Tensor) -> Tensor:
        return _elected(tensors, base, task).mul_(factor * scale).add_(base)

    return in_strips(merge_strip, tensors, base)


def _elected(tensors: Sequence[Tensor], base: Tensor, task: int) -> Tensor:
    """Give ``m_t u``."""
    sign = torch.zeros_like(base)
    for tensor in tensors:
        sign.add_(change_from(base, tensor, "emr").detach())
    sign.sign_()
    largest = torch.zeros_like(base)
    for tensor in tensors:
        agreeing = change_from(base, tensor, "emr").mul_(sign)
        largest = torch.maximum(largest, agreeing)
    largest.add_(0.0)  # of two zeros torch's maximum gives one or the other, of whichever sign
    own = change_from(base, tensors[task], "emr").detach().mul_(sign)
    return largest * torch.gt(own, 0, out=own).mul_(sign)
