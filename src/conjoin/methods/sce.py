"""SCE: select where the models differ, calculate weights from the changes, erase minority signs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from conjoin.deferred import torch
from conjoin.methods.elections import Undecided, change_from, check_real
from conjoin.methods.method import Total
from conjoin.methods.parameters import Within
from conjoin.methods.reductions import quick_products, sum_of, went_well
from conjoin.methods.strips import in_strips, strips_of
from conjoin.methods.trimming import count_kept, largest

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["find_coefficients", "sce"]

Among: TypeAlias = Literal["all", "differing"]


def find_coefficients(
    total: Total,
    *,
    select_topk: float = 1.0,
    among: Among = "all",
) -> Tensor:
    """Give the least spread of a selected element, and the weight of each model.

    Returns:
        float64 [1 + n].
    """
    limit = _least_spread(total, select_topk, among)

    def squares(tensors: Sequence[Tensor], *, base: Tensor) -> Tensor:
        sums = torch.zeros(len(tensors), dtype=torch.float64)
        if base.is_meta:
            return sums
        for parts, ancestor in strips_of(tensors, base):
            changes = _selected(parts, ancestor, limit)
            sums += torch.stack([_sum_of_squares(change) for change in changes]).cpu()
        return sums

    found = total(squares)
    whole = found.sum()
    # Without any change every weight gives the same.
    weights = found / whole if whole > 0 else torch.full_like(found, 1 / max(1, len(found)))
    return torch.cat([torch.tensor([limit], dtype=torch.float64), weights])


def sce(
    tensors: Sequence[Tensor],
    *,
    base: Tensor,
    summary: Tensor,
    select_topk: Annotated[float, Within(0, 1)] = 1.0,  # noqa: ARG001 - of find_coefficients
    among: Among = "all",  # noqa: ARG001 - of find_coefficients
    undecided: Undecided = "drop",
    merge: Literal["sum", "weighted"] = "sum",
    scale: float = 1.0,
) -> Tensor:
    """Select elements of large variance, weigh models by their change, erase minority signs.

        tau_i = sel(w_i - w_0),   e_i = sum tau_i^2 / sum_j sum tau_j^2,   g = sign(sum_i tau_i)
        w_0 + scale sum_{i: sign(tau_i) = g} e_i tau_i

    The weights ``e_i`` are those of a tensor. The selection keeps the elements whose changes have
    the largest variance over the models.

    Args:
        tensors: same shape, real floating.
        base: ``w_0``, of that shape.
        summary: of `find_coefficients`.
        select_topk: share of the elements of a tensor that is selected, at least one. Those that
            are equal to the last one selected are selected too.
        among: it is a share of all elements (the paper), or of those where the models differ at
            all ("differing", mergekit and the authors' code).
        undecided: where the sum of changes is zero nothing is merged ("drop"), or what is
            "positive" (mergekit and the authors' code).
        merge: add up what agrees ("sum", the paper), or divide that by the sum of its weights
            ("weighted", mergekit and the authors' code). That code also merges the elements that
            are not selected, and takes the selected ones for the weights alone (18907305772/FuseAI,
            FuseChat/mergekit); here, as in mergekit, they are left out.
        scale: factor of the whole change.

    Raises:
        MethodError: complex tensors.

    Wan et al., FuseChat: knowledge fusion of chat models, EMNLP 2025 (arXiv:2408.07990).

    >>> a, b = torch.tensor([3.0, 1.0]), torch.tensor([-1.0, 1.0])
    >>> sce([a, b], base=torch.zeros(2), summary=torch.tensor([0, 10 / 12, 2 / 12]))
    tensor([2.5000, 1.0000])
    """
    check_real(base, "sce")
    if base.is_meta:
        return torch.empty_like(base)
    limit, *weights = summary.tolist()

    def merge_strip(tensors: list[Tensor], base: Tensor) -> Tensor:
        changes = _selected(tensors, base, limit)
        sign = changes[0].detach().clone()
        for change in changes[1:]:
            sign.add_(change.detach())
        sign.sign_()
        if undecided == "positive":
            sign.add_(0.5).sign_()
        merged, divisor = torch.zeros_like(base), torch.zeros_like(base)
        for change, weight in zip(changes, weights, strict=True):
            change.mul_(sign).relu_()  # its magnitude if it agrees, else zero
            merged.add_(change, alpha=weight)
            if merge == "weighted":
                divisor.add_(change.detach().sign(), alpha=weight)
        if merge == "weighted":
            # Where none agrees zero is divided by one.
            merged /= divisor.add_(torch.eq(divisor, 0, out=torch.empty_like(divisor)))
        return merged.mul_(sign).mul_(scale).add_(base)

    return in_strips(merge_strip, tensors, base)


def _least_spread(total: Total, share: float, among: Among) -> float:
    """Give the least spread of an element that is selected."""
    if share in (0, 1):
        return 0.0 if share else torch.inf

    def spreads(tensors: Sequence[Tensor], base: Tensor) -> list[Tensor]:
        parts = [
            _spread([change_from(ancestor, part, "sce") for part in parts])
            for parts, ancestor in strips_of(tensors, base)
        ]
        return [torch.cat(parts)]

    def differing(tensors: Sequence[Tensor], *, base: Tensor) -> Tensor:
        (spread,) = spreads(tensors, base)
        count = 0 if spread.is_meta else int(spread.count_nonzero())
        return torch.tensor(count, dtype=torch.int64)

    known = int(total(differing)) if among == "differing" else None

    def choose(sizes: Sequence[int]) -> list[list[int]]:
        return [[count_kept(share, sizes[0] if known is None else known)]]

    return largest(total, spreads, choose).item()


def _selected(tensors: Sequence[Tensor], base: Tensor, limit: float) -> list[Tensor]:
    """Give the changes, with zeros where their spread is below the limit."""
    changes = [change_from(base, tensor, "sce") for tensor in tensors]
    if limit > 0:
        spread = _spread(changes)
        kept = torch.ge(spread, limit, out=torch.empty_like(spread))  # as it was found: exactly
        for change in changes:
            change.mul_(kept)
    return changes


def _spread(changes: Sequence[Tensor]) -> Tensor:
    """Give a multiple of the standard deviation of each element over the models, in their dtype.

    It selects what the variance selects, and does not underflow: a change of 1e-20 has a variance
    that float32 cannot hold. Only operations that have the same bits in every part of a tensor.
    """
    if len(changes) == 2:
        return (changes[0] - changes[1]).abs_()
    total = torch.zeros_like(changes[0], dtype=torch.float64)
    for change in changes:
        total.add_(change)
    squares = torch.zeros_like(total)
    for change in changes:
        # n times the distance from the mean: without a division, equal spreads stay equal.
        distance = change.to(torch.float64, copy=True).mul_(len(changes)).sub_(total)
        squares.add_(distance.square_())
    return squares.sqrt_().to(changes[0].dtype)


def _sum_of_squares(change: Tensor) -> Tensor:
    quick = quick_products([change])[0]
    if change.dtype == torch.float32 and went_well([float(quick)]):
        return quick
    wide = change.to(torch.float64, copy=True)
    return sum_of(wide.mul_(wide))
