"""Elementwise work in strips, so that what is made on the way stays in a core's cache.

A method with many steps makes many tensors of a block's size. Memory of that size goes back to
the system and comes anew, page by page, which may take longer than the arithmetic: TIES of two
models took from 2.4 to 13 ns per element of a megabyte's block, as the allocator pleased, and
takes 2.8 in strips.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["STRIP", "in_strips", "strips_of"]

STRIP = 1 << 16
"""Elements of a strip: 256 KB of float32. The masks of DARE are drawn for strips, so that another
number gives other masks."""

Strips: TypeAlias = tuple[list[Tensor], Tensor]


def strips_of(tensors: Sequence[Tensor], base: Tensor) -> list[Strips]:
    """Cut tensors and their base into flat strips of at most STRIP elements; at least one.

    >>> base = torch.zeros(STRIP + 1, 1)
    >>> [(len(tensors), tensors[0].shape[0]) for tensors, _ in strips_of([base, base], base)]
    [(2, 65536), (2, 1)]
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
