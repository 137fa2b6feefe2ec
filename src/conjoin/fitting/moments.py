"""First and second moments of a layer's inputs and of what they should become."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Affine", "Moments", "Scaled", "Sums", "pooled", "within"]


@dataclass(frozen=True)
class Affine:
    """A map of rows: ``rows @ matrix + offset``.

    Args:
        matrix: float64 [groups, features, outputs].
        offset: float64 [groups, outputs].
    """

    matrix: Tensor
    offset: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        """Give [groups, rows, outputs] in the dtype of the rows, [groups, rows, features]."""
        matrix, offset = (t.to(rows.device, rows.dtype) for t in (self.matrix, self.offset))
        return torch.baddbmm(offset[:, None], rows, matrix)


@dataclass(frozen=True)
class Scaled:
    """A map of rows that has a scale besides its matrix: ``scale * (rows @ matrix) + offset``.

    Args:
        matrix: float64 [groups, features, outputs].
        scale, offset: float64 [groups, outputs].
    """

    matrix: Tensor
    scale: Tensor
    offset: Tensor

    @property
    def affine(self) -> Affine:
        """The same as one matrix."""
        return Affine(self.matrix * self.scale[:, None], self.offset)


@dataclass(frozen=True)
class Moments:
    """Means, and second moments about them.

    Args:
        inputs: float64 [groups, features].
        targets: float64 [groups, outputs].
        gram: float64 [groups, features, features], of the inputs.
        cross: float64 [groups, features, outputs].
    """

    inputs: Tensor
    targets: Tensor
    gram: Tensor
    cross: Tensor

    def variance(self, matrix: Tensor) -> Tensor:
        """Give the variance of ``inputs @ matrix``: float64 [groups, outputs]."""
        return (matrix * (self.gram @ matrix)).sum(1).clamp(min=0)

    def about_zero(self) -> "Moments":
        """Give the second moments about zero, for maps without an offset."""
        return Moments(
            torch.zeros_like(self.inputs),
            torch.zeros_like(self.targets),
            self.gram + self.inputs[:, :, None] * self.inputs[:, None],
            self.cross + self.inputs[:, :, None] * self.targets[:, None],
        )


class Sums:
    """Running sums of rows; float32 products of distances from the first rows' means."""

    def __init__(self) -> None:
        self.count = 0
        self._shifts: tuple[Tensor, Tensor] | None = None
        self._sums: list[Tensor] = []

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """Add rows: [groups, rows, features] and [groups, rows, outputs]."""
        if self._shifts is None:
            self._shifts = (inputs.mean(1, keepdim=True), targets.mean(1, keepdim=True))
        x, y = inputs - self._shifts[0], targets - self._shifts[1]
        found = (x.sum(1), y.sum(1), x.transpose(1, 2) @ x, x.transpose(1, 2) @ y)
        self.count += inputs.shape[1]
        if not self._sums:
            self._sums = [one.double().cpu() for one in found]
            return
        for total, one in zip(self._sums, found, strict=True):
            total += one.cpu()

    def moments(self) -> Moments:
        """Give what the rows so far have in the mean."""
        shifts = [shift[:, 0].double().cpu() for shift in self._shifts or ()]
        x, y, gram, cross = (total / self.count for total in self._sums)
        return Moments(
            x + shifts[0],
            y + shifts[1],
            gram - x[:, :, None] * x[:, None],
            cross - x[:, :, None] * y[:, None],
        )


def pooled(parts: Iterable[Moments], weights: Sequence[float]) -> Moments:
    """Give the moments of a mixture.

    >>> one, two = (Moments(*(torch.full(s, v) for s in ((1, 1),) * 2 + ((1, 1, 1),) * 2))
    ...             for v in (0.0, 2.0))
    >>> pooled([one, two], [0.5, 0.5]).gram.item()    # 1 within, and 1 between the two means
    2.0
    """
    shares = [weight / sum(weights) for weight in weights]
    found = list(zip(parts, shares, strict=True))
    inputs = torch.stack([share * one.inputs for one, share in found]).sum(0)
    targets = torch.stack([share * one.targets for one, share in found]).sum(0)
    gram, cross = (torch.zeros_like(t) for t in (found[0][0].gram, found[0][0].cross))
    for one, share in found:
        x, y = one.inputs - inputs, one.targets - targets
        gram += share * (one.gram + x[:, :, None] * x[:, None])
        cross += share * (one.cross + x[:, :, None] * y[:, None])
    return Moments(inputs, targets, gram, cross)


def within(parts: Sequence[Moments], weights: Sequence[float]) -> Moments:
    """Give the moments of a mixture of which each part is looked at about its own means.

    >>> one, two = (Moments(*(torch.full(s, v) for s in ((1, 1),) * 2 + ((1, 1, 1),) * 2))
    ...             for v in (0.0, 2.0))
    >>> within([one, two], [0.5, 0.5]).gram.item()    # what `pooled` has, but for 1 between them
    1.0
    """
    shares = [weight / sum(weights) for weight in weights]
    found = list(zip(parts, shares, strict=True))
    gram, cross = (torch.zeros_like(t) for t in (parts[0].gram, parts[0].cross))
    for one, share in found:
        gram += share * one.gram
        cross += share * one.cross
    return Moments(
        torch.zeros_like(parts[0].inputs), torch.zeros_like(parts[0].targets), gram, cross
    )
