"""ExPO: go on in the direction in which training went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from conjoin.methods.strips import in_strips

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["expo"]


def expo(tensors: Sequence[Tensor], *, base: Tensor, alpha: float = 0.3) -> Tensor:
    """Extrapolate from a base beyond a model that was trained from it: ``w_1 + a (w_1 - w_0)``.

    Meant for a model after training on preferences (DPO, RLHF), with the model before that, after
    supervised fine-tuning, as the base. It is task arithmetic of one model with scale ``1 + a``.

    Args:
        tensors: the model.
        base: ``w_0``, of that shape.
        alpha: how far to go on. 0 gives the model, -1 the base. The authors say that 0.3 or 0.5
            usually is good (README of chujiezheng/LLM-Extrapolation); choose it on validation data.

    Zheng et al., Model extrapolation expedites alignment, ACL 2025 (arXiv:2404.16792).

    >>> import torch
    >>> expo([torch.tensor([2.0, 1.0])], base=torch.tensor([1.0, 1.0]), alpha=0.5)
    tensor([2.5000, 1.0000])
    """

    def extrapolate(tensors: list[Tensor], base: Tensor) -> Tensor:
        (tensor,) = tensors
        return (tensor - base).mul_(alpha).add_(tensor)

    return in_strips(extrapolate, tensors, base)
