"""Task singular vectors: the strongest directions of all models, made orthogonal to each other.

Gargiulo et al., Task Singular Vectors: Reducing Task Interference in Model Merging, CVPR 2025
(arXiv:2412.00081).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from conjoin.deferred import torch
from conjoin.methods.matrices import Changes, merge_matrices
from conjoin.methods.svd import Directions, Svd, find_directions, isometry

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["merge_directions", "tsv"]


def tsv(
    tensors: Sequence[Tensor],
    *,
    base: Tensor,
    weights: Sequence[float],
    keep: Literal["share", "all"] = "share",
    flatten: bool = False,
    svd: Svd = "auto",
    scale: float = 1.0,
) -> Tensor:
    """Add the strongest singular directions of all changes, without interference (TSV-M).

        a_i (w_i - w_0) = U_i S_i V_i^T,  of which the k = min(m, n) / n_models largest are kept
        U = [U_1 ... U_n],  S = diag(S_1, ..., S_n),  V = [V_1 ... V_n]
        w_0 + s U' S V'^T,  where U', V' are the nearest orthonormal matrices to U, V

    Each of two dimensions is merged so; of other tensors the mean of the weighted changes is taken.

    Args:
        tensors: ``w_i``, same shape, floating.
        base: ``w_0``, of that shape.
        weights: one number per tensor; the paper has 1 for all.
        keep: how many directions of each: "share" rounds down, but keeps at least one; "all" is
            the authors' variant that loses none ("lossless").
        flatten: take tensors of more than two dimensions (convolutions) as matrices [out, rest].
        svd: "exact", "randomized", or by size ("auto"), see `conjoin.methods.svd`.
        scale: factor of the merged change (``alpha`` in the paper, which finds 1 to be best).

    A direction that is zero takes no part, and one that models have in common is counted once: the
    authors' code fills up such places with vectors that depend on roundings. Of equal singular
    values at the end of the share, any may be kept.

    Raises:
        MethodError: another number of weights than tensors, NaN or infinite ones.

    >>> base = torch.zeros(2, 2)
    >>> a, b = torch.tensor([[4.0, 0.0], [0.0, 0.1]]), torch.tensor([[0.0, 0.0], [0.0, 2.0]])
    >>> tsv([a, b], base=base, weights=[1, 1])
    tensor([[4., 0.],
            [0., 2.]])
    """

    def merge(changes: Changes) -> Tensor:
        count = changes.rank if keep == "all" else max(1, changes.rank // len(changes))
        found = [
            find_directions(changes.of(number), count, eps=changes.eps, svd=svd)
            for number in range(len(changes))
        ]
        return merge_directions(found)

    return merge_matrices(
        merge,
        tensors,
        base=base,
        weights=weights,
        flatten=flatten,
        scale=scale,
        method="tsv",
    )


def merge_directions(found: Sequence[Directions]) -> Tensor:
    """Give ``U' S V'^H``, the directions of several matrices made orthogonal, as a new matrix.

    Args:
        found: of matrices of one shape [m, n].
    """
    left = isometry(torch.cat([one.left for one in found], 1))
    right = isometry(torch.cat([one.right for one in found], 1))
    sizes = torch.cat([one.sizes for one in found])
    return (left * sizes) @ right.mH
