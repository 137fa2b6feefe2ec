"""Arcee Fusion: take over the changes that matter most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from conjoin.compiled import add_scored_changes, divergence_of_rows, scores_of_changes
from conjoin.deferred import torch
from conjoin.errors import MethodError
from conjoin.methods.elections import check_real
from conjoin.methods.magprune import strips
from conjoin.methods.method import Total
from conjoin.methods.rows import groups_of_rows, row_sums
from conjoin.methods.strips import widened
from conjoin.methods.trimming import largest

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["arcee_fusion"]

# mergekit's: added to every probability.
_EPS = 1e-8
# Of which the exponential is no infinity.
_LARGEST = 700.0


def arcee_fusion(tensors: Sequence[Tensor], *, base: Tensor) -> Tensor:
    """Take the other model's weight where its change is important, else the base's.

        w_0 + d 1[s >= median(s) + 1.5 (q_3(s) - q_1(s))],    d = w_1 - w_0
        s = |d| sum_j p_j log(p_j / q_j),    p = softmax(w_1) + eps,   q = softmax(w_0) + eps

    with softmax and sum along the last axis, eps = 1e-8, and the quartiles q_1, q_3 and the median
    of the scores s over the tensor: that element in the order of scores which has the whole part of
    the rank. So about the outliers of the change are taken. No weight of a network is a
    logit; the divergence serves as a measure of how much a row has changed.

    The divergence is of the order of ``d**2``, what is left of terms of the order of d: in
    bfloat16, as mergekit does it, it is roundings for models that differ little. Here it is formed
    so that nothing cancels, and is right to a few 1e-7. Quartiles are those of all scores, where
    mergekit draws a million of a large tensor.

    Args:
        tensors: one, real floating, whole.
        base: ``w_0``, of its shape.

    Raises:
        MethodError: complex tensors; several, or one of another shape than the base.

    Arcee AI, in mergekit 0.1.1, 2025.

    >>> base = torch.zeros(8)
    >>> arcee_fusion([torch.tensor([0.0, 0.1, 0.2, 0.1, 0.0, 0.2, 5.0, 0.3])], base=base)
    tensor([0., 0., 0., 0., 0., 0., 5., 0.])
    """
    check_real(base, "arcee_fusion")
    if [tensor.shape for tensor in tensors] != [base.shape]:
        shapes = [list(tensor.shape) for tensor in tensors]
        raise MethodError(f"arcee_fusion takes one tensor of its base's shape, not {shapes}")
    if base.is_meta or base.numel() == 0:
        return torch.empty_like(base)
    rows = [tensor.reshape(-1, base.shape[-1] if base.dim() else 1) for tensor in (*tensors, base)]
    divergence = _divergence(*rows)
    # Only the order of scores counts. So the largest factor may be 1, and none too small.
    largest = divergence.max()
    factors = divergence / torch.where(largest > 0, largest, 1.0)
    factors = factors.to(torch.promote_types(*(widened(one[:0]).dtype for one in rows)))
    threshold = _threshold(_Rows(rows[0], rows[1], factors))
    # Scores are formed again, part by part: all of them would take a lot of memory.
    result = add_scored_changes(rows[0], rows[1], factors, threshold)
    if result is None:
        result = torch.empty(rows[1].shape, dtype=base.dtype, device=base.device)
        for part in strips(result):
            ancestor = widened(rows[1][part])
            change = widened(rows[0][part]) - ancestor
            scores = change.abs().mul_(factors[part, None])
            kept = torch.ge(scores, threshold, out=scores)
            result[part] = change.mul_(kept).add_(ancestor)
    return result.view(base.shape)


class _Rows(Total):
    """The total over some rows at a time, of a tensor and the factors of its rows."""

    def __init__(self, tensor: Tensor, base: Tensor, factors: Tensor) -> None:
        self._tensor, self._base, self._factors = tensor, base, factors

    @property
    def size(self) -> int:
        return self._tensor.numel()

    def __call__(self, function: Callable[..., Tensor], /) -> Tensor:
        found = None
        for part in strips(self._tensor):
            tensors = [self._tensor[part], self._factors[part, None]]
            found = function(tensors, base=self._base[part], into=found)
        assert found is not None  # there are rows
        return found

    def sample(self, function: Callable[..., Tensor], count: int, /) -> Tensor:
        # An odd step does not meet the same column of every row of 2**k elements.
        step = -(-self.size // count) | 1 if self.size > count else 1
        tensor, base = (one.reshape(-1)[::step] for one in (self._tensor, self._base))
        places = torch.arange(0, self.size, step, device=self._tensor.device)
        rows = places.div_(self._tensor.shape[1], rounding_mode="floor")
        return function([tensor, self._factors[rows]], base=base)


def _threshold(total: Total) -> float:
    """Give the least score that is kept."""

    def scores(tensors: Sequence[Tensor], base: Tensor) -> list[Tensor]:
        # A factor for each row of a matrix, or, of a sample, for each element.
        tensor, factors = tensors
        found = scores_of_changes(tensor, base, factors[:, 0]) if base.dim() == 2 else None
        if found is None:
            found = (widened(tensor) - widened(base)).abs_().mul_(factors)
        return [found]

    def choose(sizes: Sequence[int]) -> list[list[int]]:
        return [[size - int(share * (size - 1)) for share in (0.25, 0.5, 0.75)] for size in sizes]

    first, middle, third = largest(total, scores, choose)[0].tolist()
    return float(middle + 1.5 * (third - first))


def _divergence(tensor: Tensor, base: Tensor) -> Tensor:
    """Give the divergence of each row from that of the base: float64 [rows], not negative."""
    found = divergence_of_rows(tensor, base, _EPS)
    if found is None:
        found = torch.full((len(base),), torch.nan, dtype=torch.float64, device=base.device)
    if found.isnan().any():
        start = 0
        for parts in groups_of_rows([tensor, base]):
            own = found[start : start + len(parts[0])]
            left = own.isnan()
            if left.any():
                own[left] = _divergence_in_float64(*(part[left].double() for part in parts))
            start += len(own)
    return found


def _divergence_in_float64(tensor: Tensor, base: Tensor) -> Tensor:
    """As `divergence.c` does it, for numbers of any size.

    The sum of ``p log(p / q)`` is that of ``q f(p / q - 1)``, since p and q have the same sum, with
    ``f(x) = (1 + x) log(1 + x) - x``, and the first has terms that cancel.
    """
    softmax = base.softmax(1)
    expected = softmax + _EPS
    # What is added to all weights of a row changes no softmax. So the change of the largest weight
    # of the base is taken from all, and the logarithm is of something larger than 1 / columns.
    change = tensor - base
    change -= change.gather(1, base.argmax(1, keepdim=True))
    constant = row_sums(change.clamp(max=_LARGEST).expm1_().mul_(softmax)).log1p_()
    if not (change.amax(1) <= _LARGEST).all():
        relative = tensor - tensor.gather(1, base.argmax(1, keepdim=True))
        others = base - base.amax(1, keepdim=True)
        far = relative.logsumexp(1) - others.logsumexp(1)
        constant = torch.where(change.amax(1) <= _LARGEST, constant, far)
    moved = change.sub_(constant[:, None])  # the logarithm of the ratio of the two softmaxes
    # p - q, and z with log(p / q) = 2 (z + z**3 / 3 + z**5 / 5 + ...).
    difference = moved.clamp(-1, 1).expm1_().mul_(softmax)
    if not (near := moved.abs() < 1).all():
        difference = torch.where(near, difference, tensor.softmax(1) - softmax)
    found = difference + expected
    z = difference / (found + expected)
    square = z.square()
    series = (square / 9 + 1 / 7).mul_(square).add_(1 / 5).mul_(square).add_(1 / 3)
    parts = series.mul_(square).mul_(found).mul_(2).add_(difference).mul_(z)
    if not (near := square < 1e-4).all():
        parts = torch.where(near, parts, (difference / expected).log1p_() * found - difference)
    return row_sums(parts)
