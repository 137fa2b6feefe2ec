"""Whether a classifier is right as often as it is sure.

    ECE = 100 sum_b n_b / N |accuracy_b - confidence_b|

over bins of equal width, where bin b holds the n_b of N examples whose confidence is in
``(b / bins, (b + 1) / bins]``. A confidence of 0 belongs to the first bin.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from conjoin.errors import InputError

__all__ = ["Bin", "calibration_error", "reliability"]

_ROUNDING = 1e-5
"""How far outside 0 and 1 a probability in float32 may be for rounding."""


@dataclass(frozen=True, slots=True)
class Bin:
    """The examples whose confidence is in ``(low, high]``.

    Args:
        low, high: edges of the bin, from 0 to 1.
        count: how many examples.
        confidence: their mean confidence, 0 to 1; NaN without examples.
        accuracy: the share of them that is right, 0 to 1; NaN without examples.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def calibration_error(
    confidence: Tensor | ArrayLike, correct: Tensor | ArrayLike, *, bins: int = 15
) -> float:
    """Give the expected calibration error (ECE) in percentage points; see the module.

    0 is calibrated, 100 is sure and wrong. It depends on the number of bins, and is above 0 for a
    calibrated classifier on finite data: compare equal counts and bins only.

    Args:
        confidence: [N], probability of the predicted class; NaN in it gives NaN.
        correct: bool [N] (or 0 and 1), whether the prediction is right.
        bins: how many.

    Raises:
        InputError: no examples, different lengths, values outside 0 to 1, or no bins.

    Source: Naeini et al. (Obtaining Well Calibrated Probabilities Using Bayesian Binning, AAAI
    2015); Guo et al. (On Calibration of Modern Neural Networks, ICML 2017, arXiv:1706.04599).

    >>> calibration_error([0.75, 0.75, 0.75, 0.75], [True, True, True, False])
    0.0
    >>> calibration_error([1.0, 1.0], [True, False])
    50.0
    """
    sure, right = _checked(confidence, correct, bins)
    if np.isnan(sure).any():
        return float("nan")
    found = [one for one in _bins(sure, right, bins) if one.count]
    gaps = sum(one.count * abs(one.accuracy - one.confidence) for one in found)
    return 100.0 * gaps / len(sure)


def reliability(
    confidence: Tensor | ArrayLike, correct: Tensor | ArrayLike, bins: int = 15
) -> list[Bin]:
    """Give the bins of a reliability diagram, from low to high confidence.

    Args:
        confidence: [N], probability of the predicted class.
        correct: bool [N] (or 0 and 1), whether the prediction is right.
        bins: how many.

    Raises:
        InputError: as `calibration_error`, or NaN, which no bin holds.

    >>> [(b.low, b.high, b.count, b.accuracy) for b in reliability([0.5, 0.9, 1.0], [0, 1, 1], 2)]
    [(0.0, 0.5, 1, 0.0), (0.5, 1.0, 2, 1.0)]
    """
    sure, right = _checked(confidence, correct, bins)
    if count := int(np.isnan(sure).sum()):
        raise InputError(f"{count} of {len(sure)} confidences are NaN, which no bin holds")
    return _bins(sure, right, bins)


def _bins(sure: NDArray[Any], right: NDArray[np.float64], bins: int) -> list[Bin]:
    # Edges in the precision of the confidences: 1/3 in float32 is the edge 5/15, not above it.
    edges = np.linspace(0, 1, bins + 1)
    inner = edges[1:-1].astype(sure.dtype)
    index = np.searchsorted(inner, sure, side="left")  # the edge itself belongs below
    counts = np.bincount(index, minlength=bins)
    sums = [np.bincount(index, values, minlength=bins) for values in (sure, right)]
    with np.errstate(invalid="ignore"):  # an empty bin has no mean
        confidence, accuracy = (total / counts for total in sums)
    return [
        Bin(float(edges[b]), float(edges[b + 1]), int(n), float(confidence[b]), float(accuracy[b]))
        for b, n in enumerate(counts)
    ]


def _checked(
    confidence: Tensor | ArrayLike, correct: Tensor | ArrayLike, bins: int
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Give confidences clipped to 0..1, in float32 or float64, and 0.0 or 1.0 for each."""
    if bins < 1:
        raise InputError(f"bins must be at least 1; got {bins}")
    sure, right = _array(confidence), _array(correct).astype(np.float64)
    if sure.ndim != 1 or sure.shape != right.shape:
        raise InputError(
            "expected confidence [N] and correct [N]; "
            f"found {list(sure.shape)} and {list(right.shape)}"
        )
    if not len(sure):
        raise InputError("a calibration error needs at least one example")
    if not np.isin(right, (0, 1)).all():
        raise InputError("correct must be true or false (or 1 or 0) for each example")
    outside = (sure < -_ROUNDING) | (sure > 1 + _ROUNDING)
    if outside.any():
        raise InputError(
            f"confidences are probabilities from 0 to 1, not {float(sure[outside][0])}; "
            "give 0.5 rather than 50 percent, and a softmax rather than logits"
        )
    return np.clip(sure, 0, 1), right


def _array(values: Tensor | ArrayLike | Sequence[float]) -> NDArray[Any]:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        exact = values.dtype in (torch.float32, torch.float64)
        return (values if exact else values.float()).numpy()
    array = np.asarray(list(values) if isinstance(values, Iterator) else values)
    return array if array.dtype == np.float32 else array.astype(np.float64)
