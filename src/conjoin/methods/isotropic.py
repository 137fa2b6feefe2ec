"""Isotropic merging: every direction of the merged change becomes equally strong.

Marczak et al., No Task Left Behind: Isotropic Model Merging with Common and Task-Specific
Subspaces, ICML 2025 (arXiv:2502.04959).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from conjoin.deferred import torch
from conjoin.methods.matrices import Changes, merge_matrices
from conjoin.methods.parameters import Within
from conjoin.methods.svd import Directions, Svd, find_directions, isometry

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["count_directions", "flatten_spectrum", "iso_c", "iso_cts"]


def iso_c(
    tensors: Sequence[Tensor],
    *,
    base: Tensor,
    weights: Sequence[float],
    flatten: bool = False,
    scale: float = 1.0,
) -> Tensor:
    """Add the changes up, and make all singular values of the sum equal to their mean (Iso-C).

        sum_i a_i (w_i - w_0) = U S V^T,  w_0 + s mean(S) U V^T

    Each of two dimensions is merged so; of other tensors the mean of the weighted changes is taken.

    Args:
        tensors: ``w_i``, same shape, floating.
        base: ``w_0``, of that shape.
        weights: one number per tensor; the paper has 1 for all.
        flatten: take tensors of more than two dimensions (convolutions) as matrices [out, rest].
        scale: factor of the merged change (``alpha`` in the paper, which chooses it on validation
            data).

    Singular values that are zero take no part, neither in the mean nor in ``U V^T``, so that the
    sum of the singular values stays. The authors' code fills up such a matrix (of LoRA, say) with
    directions that depend on roundings.

    Raises:
        MethodError: another number of weights than tensors, NaN or infinite ones.

    >>> base = torch.zeros(2, 2)
    >>> a, b = torch.tensor([[3.0, 0.0], [0.0, 0.5]]), torch.tensor([[0.0, 0.0], [0.0, 0.5]])
    >>> iso_c([a, b], base=base, weights=[1, 1])
    tensor([[2., 0.],
            [0., 2.]])
    """

    def merge(changes: Changes) -> Tensor:
        found = find_directions(changes.total(), changes.rank, eps=changes.eps, svd="exact")
        return flatten_spectrum(found)

    return merge_matrices(
        merge,
        tensors,
        base=base,
        weights=weights,
        flatten=flatten,
        scale=scale,
        method="iso_c",
    )


def iso_cts(
    tensors: Sequence[Tensor],
    *,
    base: Tensor,
    weights: Sequence[float],
    common_space_fraction: Annotated[float, Within(0, 1)] = 0.8,
    flatten: bool = False,
    svd: Svd = "auto",
    scale: float = 1.0,
) -> Tensor:
    """Iso-C of the common directions and of those that each model has for itself (Iso-CTS).

        D_i = a_i (w_i - w_0),  U_c S_c V_c^T = the leading part of sum_i D_i
        U_i S_i V_i^T = the leading part of D_i - U_c U_c^T D_i
        U = [U_1 ... U_n U_c],  S = (S_1, ..., S_n, S_c),  V = [V_1 ... V_n V_c]
        w_0 + s mean(S) U' V'^T,  where U', V' are the nearest orthonormal matrices to U, V

    The directions are ``r = min(m, n)`` together: every model has the same number, the nearest to
    ``(1 - common_space_fraction) r / n``, and the rest are common. What is said of other tensors
    and of directions that are zero in `iso_c` holds here.

    Args:
        tensors: ``w_i``, same shape, floating.
        base: ``w_0``, of that shape.
        weights: one number per tensor; the paper has 1 for all.
        common_space_fraction: share of the directions that are common; 1 is `iso_c`.
        flatten: take tensors of more than two dimensions (convolutions) as matrices [out, rest].
        svd: "exact", "randomized", or by size ("auto"), see `conjoin.methods.svd`.
        scale: factor of the merged change (``alpha`` in the paper, which chooses it on validation
            data).

    Raises:
        MethodError: another number of weights than tensors, NaN or infinite ones.

    >>> base = torch.zeros(2, 2)
    >>> a, b = torch.tensor([[3.0, 0.0], [0.0, 0.5]]), torch.tensor([[0.0, 0.0], [0.0, 0.5]])
    >>> iso_cts([a, b], base=base, weights=[1, 1])
    tensor([[2., 0.],
            [0., 2.]])
    """

    def merge(changes: Changes) -> Tensor:
        common, own = count_directions(changes.rank, len(changes), common_space_fraction)
        shared = find_directions(changes.total(), common, eps=changes.eps, svd=svd)
        found = [shared]
        for number in range(len(changes) if own else 0):
            change = changes.of(number)
            # What is left may be roundings of the whole, which are large beside nothing.
            floor = changes.eps * float(torch.linalg.matrix_norm(change))
            change -= shared.left @ (shared.left.mH @ change)
            found.append(find_directions(change, own, eps=changes.eps, floor=floor, svd=svd))
        return flatten_spectrum(
            Directions(
                isometry(torch.cat([one.left for one in found], 1)),
                torch.cat([one.sizes for one in found]),
                isometry(torch.cat([one.right for one in found], 1)),
            )
        )

    return merge_matrices(
        merge,
        tensors,
        base=base,
        weights=weights,
        flatten=flatten,
        scale=scale,
        method="iso_cts",
    )


def flatten_spectrum(found: Directions) -> Tensor:
    """Give ``mean(s) sum_j u_j v_j^H``, a new matrix; zeros if there is no direction."""
    if found.sizes.numel() == 0:
        return found.left @ found.right.mH
    return (found.left @ found.right.mH).mul_(found.sizes.mean())


def count_directions(rank: int, models: int, fraction: float) -> tuple[int, int]:
    """Give how many directions of `iso_cts` are common, and how many are each model's own.

    >>> count_directions(100, 8, 0.8), count_directions(3, 2, 0.0), count_directions(7, 2, 1.0)
    ((84, 2), (1, 1), (7, 0))
    """
    own = round((rank - int(rank * fraction)) / models)
    # Rounding up may ask for more than there are.
    own = min(own, rank // models)
    return rank - models * own, own
