"""Elementwise work in strips, so that it takes little memory however large the tensors are.

The engine's blocks are one strip each; who calls a method on a whole tensor gets the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from conjoin.compiled import LARGEST_STRIP
from conjoin.deferred import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["STRIP", "in_strips", "strips_of", "widened"]

STRIP = LARGEST_STRIP
"""Elements of a strip: 1 MB of float32. The masks of DARE are drawn for strips, so that another
number gives other masks.

Measured for a whole merge in nanoseconds per element, with strips of 2**16, 2**17 and 2**18: TIES
of two models 7.7, 7.5 and 7.3; DARE-TIES 8.2, 7.2 and 6.8: fewer calls count for more than a
smaller place in the cache."""

Strips: TypeAlias = "tuple[list[Tensor], Tensor]"


def strips_of(tensors: Sequence[Tensor], base: Tensor) -> list[Strips]:
    """Cut tensors and their base into flat strips of at most STRIP elements; at least one.

    >>> base = torch.zeros(STRIP + 1, 1)
    >>> [(len(tensors), tensors[0].shape[0]) for tensors, _ in strips_of([base, base], base)]
    [(2, 262144), (2, 1)]
    """
    flat = [tensor.reshape(-1).split(STRIP) for tensor in tensors]
    return list(zip(map(list, zip(*flat, strict=True)), base.reshape(-1).split(STRIP), strict=True))


def in_strips(
    function: Callable[[list[Tensor], Tensor], Tensor], tensors: Sequence[Tensor], base: Tensor
) -> Tensor:
    """Call an elementwise function of (tensors, base) on every strip, and join the results.

    Gradients go through it, if they go through the function.

    >>> in_strips(lambda tensors, base: tensors[0] - base, [torch.ones(2, 1)], torch.zeros(2, 1))
    tensor([[1.], [1.]])
    """
    if base.numel() <= STRIP:
        # One strip of any shape: flat, so that results are the same for every layout of it.
        return function([tensor.reshape(-1) for tensor in tensors], base.reshape(-1)).view(
            base.shape
        )
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*tensors, base)):
        # Autograd does not follow what is written into parts of a tensor.
        made = [function(parts, ancestor) for parts, ancestor in strips_of(tensors, base)]
        return torch.cat(made).view(base.shape)
    result = torch.empty(base.shape, dtype=base.dtype, device=base.device)
    for (parts, ancestor), place in zip(
        strips_of(tensors, base), result.view(-1).split(STRIP), strict=True
    ):
        place.copy_(function(parts, ancestor))
    return result


def widened(tensor: Tensor) -> Tensor:
    """Bring what is narrower than float32 to float32; give others as they are.

    >>> widened(torch.ones(2).bfloat16()).dtype, widened(torch.ones(2).double()).dtype
    (torch.float32, torch.float64)
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
