"""Means and standard deviations of activations, channel by channel, batch by batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from conjoin.errors import NonFiniteError

__all__ = ["Moments", "Statistics", "averaged"]


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and standard deviation of every channel: float64 [channels] each."""

    mean: Tensor
    deviation: Tensor


class Moments:
    """Running mean and variance of every channel, in float64 over batches.

    Batches are joined by their means and summed squares of distances from them (Chan et al., 1979),
    so that the result does not depend on how the examples are cut into batches.

    Args:
        where: whose activations these are, for the message.

    >>> seen = Moments("layer 0")
    >>> seen.add(torch.tensor([[0.0, 1.0], [2.0, 1.0]]), axis=-1)
    >>> seen.add(torch.tensor([[4.0, 1.0]]), axis=-1)
    >>> seen.statistics().mean, seen.variance(unbiased=True)
    (tensor([2., 1.], dtype=torch.float64), tensor([4., 0.], dtype=torch.float64))
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.count = 0
        self.mean = torch.zeros(1, dtype=torch.float64)
        self.squares = torch.zeros(1, dtype=torch.float64)

    def add(self, value: Tensor, axis: int) -> None:
        """Add a batch of activations; every dimension but `axis` is one of samples.

        Raises:
            NonFiniteError: NaN or infinity among them.
        """
        flat = value.detach().movedim(axis, -1).flatten(0, -2)  # [samples, channels]
        if flat.dtype != torch.float64:
            flat = flat.float()
        variance, mean = torch.var_mean(flat, 0, correction=0)
        variance, mean = variance.double().cpu(), mean.double().cpu()
        if not bool((variance.isfinite() & mean.isfinite()).all()):
            raise NonFiniteError(
                f"the activations of {self.where} have NaN or infinite values; look at its weights "
                "and at the data before anything is repaired"
            )
        samples = len(flat)
        if samples == 0:
            return
        total = self.count + samples
        apart = mean - self.mean
        self.squares = (
            self.squares + samples * variance + apart.square() * self.count * samples / total
        )
        self.mean = self.mean + apart * samples / total
        self.count = total

    def variance(self, *, unbiased: bool) -> Tensor:
        """Give the variance: float64 [channels]; of the samples, or estimated without bias."""
        return self.squares / max(1, self.count - int(unbiased))

    def statistics(self) -> Statistics:
        """Give mean and standard deviation of the samples."""
        return Statistics(self.mean, self.variance(unbiased=False).sqrt())

    def joined(self, other: "Moments") -> "Moments":
        """Give the moments of both together."""
        result = Moments(self.where)
        result.count = self.count + other.count
        apart = other.mean - self.mean
        result.mean = self.mean + apart * other.count / max(1, result.count)
        result.squares = (
            self.squares
            + other.squares
            + apart.square() * self.count * other.count / max(1, result.count)
        )
        return result


def averaged(parts: Sequence[Statistics], weights: Sequence[float]) -> Statistics:
    """Average means, and average standard deviations (not variances), as REPAIR does.

    Args:
        parts: one for each network, or one for each data set.
        weights: of them, with the sum 1.
    """
    pairs = list(zip(parts, weights, strict=True))
    mean = torch.stack([weight * part.mean for part, weight in pairs]).sum(0)
    return Statistics(mean, torch.stack([weight * part.deviation for part, weight in pairs]).sum(0))
