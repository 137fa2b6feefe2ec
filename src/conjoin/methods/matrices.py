"""Changes of models as matrices: what the methods that look at singular directions share.

A tensor of two dimensions is a matrix. Of any other (biases, norms, convolutions) the mean of the
weighted changes is taken, ``w_0 + s/n sum_i a_i (w_i - w_0)``, as the authors of these methods do.
With ``flatten`` a tensor of more dimensions is the matrix [out, everything else].

The authors apply their methods to every tensor of two dimensions except the text projection of
CLIP. That includes embeddings; a recipe can give them another method by their names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conjoin.deferred import torch
from conjoin.methods.task_arithmetic import task_arithmetic
from conjoin.methods.weights import checked_weights

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Changes", "merge_matrices"]


@dataclass(frozen=True, slots=True)
class Changes:
    """Weighted changes ``a_i (w_i - w_0)`` of one matrix.

    Each is computed when it is asked for: in float64 a few of them fill a memory.

    Args:
        tensors: ``w_i``, [m, n].
        base: ``w_0``, [m, n].
        weights: ``a_i``.
    """

    tensors: Sequence[Tensor]
    base: Tensor
    weights: Sequence[float]

    def __len__(self) -> int:
        return len(self.tensors)

    def of(self, number: int) -> Tensor:
        """Give the change of a model, as a new float64 (or complex128) matrix."""
        wide = torch.promote_types(self.base.dtype, torch.float64)
        change = self.tensors[number].to(wide) - self.base.to(wide)
        return change.mul_(self.weights[number])

    def total(self) -> Tensor:
        """Add them up."""
        total = self.of(0)
        for number in range(1, len(self)):
            total += self.of(number)
        return total

    @property
    def rank(self) -> int:
        """How many directions such a matrix has at most."""
        return min(self.base.shape)

    @property
    def eps(self) -> float:
        """Relative precision of the elements of the models."""
        return torch.finfo(self.base.dtype).eps


def merge_matrices(
    merge: Callable[[Changes], Tensor],
    tensors: Sequence[Tensor],
    *,
    base: Tensor,
    weights: Sequence[float],
    flatten: bool,
    scale: float,
    method: str,
) -> Tensor:
    """Merge the changes of a matrix by a function, and those of other tensors by their mean.

    Args:
        merge: weighted changes -> merged change, float64 [m, n].
        tensors: same shape, floating.
        base: of that shape.
        weights: one per tensor.
        flatten: take a tensor of more than two dimensions as a matrix.
        scale: factor of the merged change.
        method: that asks, for errors.

    Returns:
        base + scale * merged change. Of a matrix with NaN or infinity everything is NaN, since
        every element of a merged matrix depends on all.

    Raises:
        MethodError: another number of weights than tensors, NaN or infinite ones.
    """
    checked = checked_weights(weights, len(tensors), method)
    if base.is_meta:
        return torch.empty_like(base)
    if base.numel() == 0 or base.dim() < 2 or (base.dim() > 2 and not flatten):
        shares = [weight / len(tensors) for weight in checked]
        return task_arithmetic(tensors, base=base, weights=shares, scale=scale)
    # Copies that are contiguous: the same bits for every layout in memory.
    flat = [tensor.reshape(base.shape[0], -1).contiguous() for tensor in tensors]
    changes = Changes(flat, base.reshape(base.shape[0], -1).contiguous(), checked)
    if not torch.isfinite(changes.base).all() or not all(
        torch.isfinite(tensor).all() for tensor in flat
    ):
        return torch.full_like(base, torch.nan)
    merged = merge(changes)
    return merged.mul_(scale).add_(changes.base).to(base.dtype).reshape(base.shape)
