"""Interpolation of several models on a sphere, by their mean direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np

from conjoin.methods.gram import coefficients_of, combined, directions, gram_of, norm_of
from conjoin.methods.method import Total
from conjoin.methods.parameters import Within
from conjoin.methods.weights import shares_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["find_barycentre", "multislerp"]

# A sum of unit vectors that is shorter than this part of its weights has no direction in float32.
_LEAST = 1e-6


def find_barycentre(
    total: Total, *, weights: Sequence[float], normalize: bool = True, eps: float = 1e-8
) -> Sequence[float]:
    """Give the coefficients ``c_i`` of the result of `multislerp`: ``sum_i c_i w_i``.

    Returns:
        [n].
    """
    gram = gram_of(total, "multislerp", weights)
    shares = np.array(shares_of(weights, len(gram), "multislerp", normalize=normalize))
    known = directions(gram)
    if known is None:
        return coefficients_of(shares)
    lengths, cosines = known
    length = norm_of(shares, cosines)
    if length <= max(eps, _LEAST * float(np.abs(shares).sum())):
        return coefficients_of(shares)
    scale = float(shares @ lengths) / length
    return coefficients_of(shares * scale / np.where(lengths > 0, lengths, np.inf))


def multislerp(
    tensors: Sequence[Tensor],
    *,
    weights: Sequence[float],  # noqa: ARG001 - of find_barycentre
    summary: Sequence[float],
    base: Tensor | None = None,
    normalize: bool = True,  # noqa: ARG001 - of find_barycentre
    eps: Annotated[float, Within(0, 1)] = 1e-8,  # noqa: ARG001 - of find_barycentre
) -> Tensor:
    """Take the direction of the weighted sum of unit vectors, and the weighted sum of lengths.

        (sum_i a_i |w_i|) m,    m = sum_i a_i w_i / |w_i|, brought to length 1

    A whole tensor is one vector; with a base, its change from it is. Where directions cancel, the
    result is ``sum_i a_i w_i``.

    mergekit and the text that introduced the method go on from ``m`` by the exponential map of
    ``sum_i a_i t_i``, with ``t_i = u_i - (u_i . m) m`` the parts of the unit vectors ``u_i`` at
    right angles to it. That sum is always zero: ``S = sum_i a_i u_i = |S| m``, and ``S - (S . m) m
    = 0``. So this is all that it does. The mean of angles is `karcher`.

    Args:
        tensors: same shape, real floating.
        weights: one per tensor.
        summary: of `find_barycentre`.
        base: the centre of the sphere; None is zero.
        normalize: divide the weights by their sum ("normalize_weights" in mergekit).
        eps: a sum of unit vectors that is not longer is taken for zero.

    Raises:
        MethodError: weights that do not fit, or cancel under normalization; complex tensors.

    Goddard, Multi-SLERP, 2025 (https://goddard.blog/posts/multislerp-wow-what-a-cool-idea).

    >>> import torch
    >>> from conjoin.methods import TotalOf
    >>> a, b = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 1.0])
    >>> summary = find_barycentre(TotalOf([a, b]), weights=[1, 1])
    >>> multislerp([a, b], weights=[1, 1], summary=summary)
    tensor([1.4142, 1.4142])
    """
    return combined(tensors, summary, base)
