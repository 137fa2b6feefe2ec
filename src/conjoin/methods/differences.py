"""What one model has learned since its base, added to another model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from conjoin.deferred import torch
from conjoin.methods.elections import check_real
from conjoin.methods.strips import in_strips

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["add_difference", "train_difference"]

# SuperMerger's: about what brings the mean share, a little over a half, to 1.
_STRENGTH = 1.8


def add_difference(tensors: Sequence[Tensor], *, base: Tensor, alpha: float = 1.0) -> Tensor:
    """Add to the first model what the second has learned: ``w_1 + alpha (w_2 - w_0)``.

    Args:
        tensors: two of one shape, floating: the model that is added to, and the one that was
            trained from the base.
        base: ``w_0``.
        alpha: the factor of the difference.

    "Add difference" of mergers of Stable Diffusion: AUTOMATIC1111's web UI, 2022.

    >>> one, other, base = torch.tensor([10.0]), torch.tensor([5.0]), torch.tensor([3.0])
    >>> add_difference([one, other], base=base, alpha=0.5)
    tensor([11.])
    """

    def add(tensors: list[Tensor], base: Tensor) -> Tensor:
        return (tensors[1] - base).mul_(alpha).add_(tensors[0])

    return in_strips(add, tensors, base)


def train_difference(tensors: Sequence[Tensor], *, base: Tensor, alpha: float = 1.0) -> Tensor:
    """Add what the second model has learned, the less the nearer the first is to it already.

        w_1 + 1.8 alpha (w_2 - w_0) |w_2 - w_1| / (|w_2 - w_0| + |w_2 - w_1|)

    as if the first model had been trained on the second's data: training changes little of what is
    there already. Element by element; where nothing was learned nothing is added.

    Args:
        tensors: two of one shape, real floating: the model that is added to, and the one that was
            trained from the base.
        base: ``w_0``.
        alpha: the factor of the difference. The 1.8 is the source's.

    Raises:
        MethodError: complex tensors.

    "trainDifference" of hako-mikan's SuperMerger for Stable Diffusion, 2023
    (https://github.com/hako-mikan/sd-webui-supermerger). Other tools have other methods of this
    name.

    >>> one, other, base = torch.tensor([2.0]), torch.tensor([5.0]), torch.tensor([3.0])
    >>> train_difference([one, other], base=base)  # 2 + 1.8 * 2 * 3 / (2 + 3)
    tensor([4.1600])
    """
    check_real(base, "train_difference")

    def add(tensors: list[Tensor], base: Tensor) -> Tensor:
        learned = tensors[1] - base
        apart = (tensors[1] - tensors[0]).abs_()
        both = learned.abs().add_(apart)
        # Where both are zero: 0 / 1. An exact zero is no rounding here.
        both += torch.eq(both, 0, out=torch.empty_like(both))
        return apart.div_(both).mul_(learned).mul_(_STRENGTH * alpha).add_(tensors[0])

    return in_strips(add, tensors, base)
