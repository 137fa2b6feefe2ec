"""Means and second moments of rows that arrive in parts, without loss of digits."""

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["Moments"]


class Moments:
    """The mean of rows and their products, summed up part by part.

    Of each part, float32 products are summed of distances from the part's own mean, which are of
    the size of the deviations, and then brought together in float64:

        spread = sum_n (x_n - mean) (x_n - mean)^T
        of two parts:  spread_1 + spread_2 + (n_1 n_2 / n) (mean_2 - mean_1) (mean_2 - mean_1)^T

    So units with the mean 10,000 and the deviation 1 keep their digits, and it does not matter how
    the rows are cut into parts.

    Args:
        products: of each pair of features, or of each feature with itself only.

    Source: Chan, Golub & LeVeque, Algorithms for computing the sample variance, The American
    Statistician 37 (1983).

    >>> moments = Moments(products=True)
    >>> moments.add(torch.tensor([[[1.0, 0.0], [3.0, 0.0]]]))      # [groups, rows, features]
    >>> moments.add(torch.tensor([[[5.0, 3.0]]]))
    >>> moments.mean, moments.second_moment()
    (tensor([[3., 1.]], dtype=torch.float64),
     tensor([[[11.6667,  5.0000], [ 5.0000,  3.0000]]], dtype=torch.float64))
    """

    def __init__(self, *, products: bool) -> None:
        self.products, self.count = products, 0
        self.mean = self.spread = torch.zeros(0, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """Add rows: [groups, rows, features]; none are nothing."""
        new = rows.shape[1]
        if not new:
            return
        if rows.dtype in (torch.float16, torch.bfloat16):
            rows = rows.float()
        shift = rows.mean(1, keepdim=True)
        away = rows - shift
        rest = _exact(away.sum(1))  # what rounding has left out of the shift
        mean = _exact(shift[:, 0]) + rest / new
        spread = away.mT @ away if self.products else away.square().sum(1)
        if not self.count:
            self.mean, self.spread = mean, _exact(spread)
        else:
            self.spread += _like(spread, self.spread)
            between = mean - self.mean
            self._add_product(between, self.count * new / (self.count + new))
            self.mean += between * (new / (self.count + new))
        self._add_product(rest, -1 / new)
        self.count += new

    def _add_product(self, vector: Tensor, factor: float) -> None:
        """Add ``factor v v^T`` to the spread, in its place."""
        if self.products:
            self.spread.baddbmm_(vector[:, :, None], vector[:, None, :], alpha=factor)
        else:
            self.spread += factor * vector.square()

    def variance(self) -> Tensor:
        """Give the variance of each feature, ``spread / n``: float64 [groups, features]."""
        spread = self.spread.diagonal(dim1=-2, dim2=-1) if self.products else self.spread
        return (spread / self.count).clamp(min=0.0)

    def second_moment(self) -> Tensor:
        """Give ``mean_n x_n x_n^T``: float64 [groups, features, features].

        The sums are used up for it, since a copy of them may not fit in memory.
        """
        result = self.spread.div_(self.count)
        self.spread = torch.zeros(0, dtype=torch.float64)
        return result.baddbmm_(self.mean[:, :, None], self.mean[:, None, :])

    def state(self) -> dict[str, Tensor]:
        """Give what has been summed up, not copied; see `restore`."""
        count = torch.tensor(self.count)
        return {"count": count, "mean": self.mean, "spread": self.spread} if self.count else {}

    def restore(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Go on from what `state` gave."""
        if state:
            self.count = int(state["count"])
            self.mean = _like(state["mean"].clone(), torch.zeros((), device=_home(device)))
            self.spread = _like(state["spread"].clone(), torch.zeros((), device=_home(device)))


def _home(device: torch.device) -> torch.device:
    """Give where float64 sums of what is on a device are kept: MPS has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def _exact(tensor: Tensor) -> Tensor:
    return tensor.to(_home(tensor.device)).double()


def _like(tensor: Tensor, other: Tensor) -> Tensor:
    return tensor.to(other.device)
