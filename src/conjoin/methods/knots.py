"""KnOTS: the changes of all models in one basis of directions, and TIES there.

Stoica et al., Model merging with SVD to tie the Knots, ICLR 2025 (arXiv:2410.19735).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from conjoin.deferred import torch
from conjoin.methods.elections import check_real
from conjoin.methods.matrices import Changes, merge_matrices
from conjoin.methods.method import TotalOf
from conjoin.methods.parameters import Within
from conjoin.methods.svd import find_directions
from conjoin.methods.ties import find_thresholds, ties
from conjoin.methods.weights import checked_weights

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["knots_ties"]


def knots_ties(
    tensors: Sequence[Tensor],
    *,
    base: Tensor,
    weights: Sequence[float],
    density: Annotated[float | Sequence[float], Within(0, 1)] = 0.2,
    flatten: bool = False,
    scale: float = 1.0,
) -> Tensor:
    """Turn the changes of all models into one basis, merge them there with TIES, and turn back.

        [w_1 - w_0  ...  w_n - w_0] = U S [V_1^T ... V_n^T]
        w_0 + s U ties(S V_1^T, ..., S V_n^T)

    Made for models that were fine-tuned with LoRA: their changes use few directions, each model
    its own, so that elements of the weights say little about each other. Each tensor of two
    dimensions is merged so; of other tensors the mean of the weighted changes is taken.

    Args:
        tensors: ``w_i``, same shape, floating.
        base: ``w_0``, of that shape.
        weights: one number per tensor, for TIES; the basis does not depend on them.
        density: share of the elements of ``S V_i^T`` that TIES keeps. The authors trim over all
            layers of a model together; here every tensor is trimmed for itself.
        flatten: take tensors of more than two dimensions (convolutions) as matrices [out, rest].
        scale: factor of the merged change, which the authors choose on validation data.

    Directions of singular values that are zero are left out. Within directions of equal singular
    values the basis is any, and so is what TIES keeps.

    Raises:
        MethodError: another number of weights than tensors, NaN or infinite ones; complex tensors.

    >>> base = torch.zeros(2, 2)
    >>> a, b = torch.tensor([[4.0, 0.0], [0.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> knots_ties([a, b], base=base, weights=[1, 1], density=1)
    tensor([[3., 0.],
            [0., 1.]])
    """
    check_real(base, "knots_ties")
    # Weights of 1 here: those of the user are for TIES.
    checked = checked_weights(weights, len(tensors), "knots_ties")

    def merge(changes: Changes) -> Tensor:
        own = Changes(changes.tensors, changes.base, [1.0] * len(changes))
        all_changes = torch.cat([own.of(number) for number in range(len(own))], 1)
        count = min(all_changes.shape)
        basis = find_directions(all_changes, count, eps=own.eps, svd="exact").left
        turned = list((basis.mT @ all_changes).split(own.base.shape[1], 1))
        zero = torch.zeros_like(turned[0])
        summary = find_thresholds(TotalOf(turned, base=zero), density=density)
        merged = ties(turned, base=zero, weights=checked, summary=summary, density=density)
        return basis @ merged

    return merge_matrices(
        merge,
        tensors,
        base=base,
        weights=checked,
        flatten=flatten,
        scale=scale,
        method="knots_ties",
    )
