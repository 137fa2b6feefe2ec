"""Sign election: where the changes of models disagree in sign, one side is elected and merged.

For each element, with weighted changes ``d_i = a_i tau_i``:

    s = sign(sum_i d_i)    (elect="sum")        s = sign(sum_i sign(d_i))    (elect="count")
    A = {i : sign(d_i) = s}
    sum_{i in A} d_i / |A|                (merge="mean")
    sum_{i in A} d_i / sum_{i in A} a_i   (merge="weighted")
    sum_{i in A} d_i                      (merge="sum")

Yadav et al., TIES-Merging, NeurIPS 2023 (arXiv:2306.01708).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from conjoin.deferred import torch
from conjoin.errors import MethodError
from conjoin.methods.weights import check_no_part_cancels

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Elect",
    "Merge",
    "Undecided",
    "change_from",
    "check_election",
    "check_real",
    "merge_elected",
]

Elect: TypeAlias = Literal["sum", "count"]
Merge: TypeAlias = Literal["mean", "weighted", "sum"]
Undecided: TypeAlias = Literal["drop", "positive"]


def check_real(tensor: Tensor, method: str) -> None:
    """Raise a MethodError if a tensor is complex."""
    if tensor.is_complex():
        raise MethodError(
            f"{method} looks at signs and magnitudes of real numbers, and this tensor is complex; "
            "keep it from one model, or use a linear method"
        )


def change_from(base: Tensor, tensor: Tensor, method: str) -> Tensor:
    """Give the change ``tau = w - w_0`` as a new tensor, for methods that look at signs.

    Raises:
        MethodError: complex tensors, which have none.
    """
    check_real(tensor, method)
    return tensor - base


def check_election(weights: Sequence[float], merge: Merge, method: str) -> None:
    """Raise a MethodError if `merge_elected` could divide by zero."""
    if merge == "weighted":
        check_no_part_cancels(weights, method)


def merge_elected(
    changes: list[Tensor],
    weights: Sequence[float],
    *,
    elect: Elect,
    merge: Merge,
    undecided: Undecided,
) -> Tensor:
    """Merge weighted changes as the module says. The tensors in `changes` are used up.

    Gradients go through it; which changes are merged is taken as given.

    Args:
        changes: ``d_i``, real, of one shape; they are overwritten.
        weights: ``a_i``, one per change.
        elect: what decides the sign.
        merge: what becomes of the changes that agree with it.
        undecided: of an even vote, ``s = 0``, nothing agrees with it, so that the result is zero
            ("drop"); or the sign is taken for positive.

    Returns:
        The merged change, a new tensor.
    """
    # Everything is arithmetic on floats in place: masks of bool and `where` take many times longer.
    votes = [change.detach() if elect == "sum" else change.detach().sign() for change in changes]
    sign = votes[0] + votes[1] if len(votes) > 1 else votes[0].clone()
    for vote in votes[2:]:
        sign += vote
    sign.sign_()
    if undecided == "positive":
        sign.add_(0.5).sign_()
    merged, divisor = None, None
    for change, weight in zip(changes, weights, strict=True):
        change.mul_(sign).relu_()  # its magnitude if it agrees, else zero
        if merge != "sum":
            share = weight if merge == "weighted" else 1
            if divisor is None:
                divisor = change.detach().sign().mul_(share)
            else:
                divisor.add_(change.detach().sign(), alpha=share)
        if merged is None:
            # For gradients relu_ needs its result as it was.
            merged = change.clone() if change.requires_grad else change
        else:
            merged.add_(change)
    assert merged is not None
    if divisor is not None:
        # Where none agrees zero is divided by one.
        merged /= divisor.add_(torch.eq(divisor, 0, out=torch.empty_like(divisor)))
    return merged.mul_(sign)
