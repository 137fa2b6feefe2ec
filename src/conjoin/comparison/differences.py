"""Differences between rows on the same test examples, with their intervals."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from conjoin.comparison.measuring import Measured, check_same_order
from conjoin.comparison.subject import TaskData
from conjoin.measure.intervals import paired_intervals
from conjoin.records import Interval

__all__ = ["LEVEL", "differences"]

LEVEL = 0.95


def differences(
    rows: Mapping[str, Sequence[Measured]],
    tasks: Mapping[str, TaskData],
    against: Mapping[str, Mapping[str, Sequence[str]]],
) -> list[Interval]:
    """Compare rows with others, example by example.

    Args:
        rows: row -> what is stored of it, a seed each.
        tasks: by name.
        against: task -> row -> the rows that it is compared with.
    """
    found = []
    for name, task in tasks.items():
        metric = "loss" if task.regression else "accuracy"
        scores = {}
        check_same_order((m for stored in rows.values() for m in stored), name)
        for key, stored in rows.items():
            values = [_scores(measured, name, metric) for measured in stored]
            if all(value is not None for value in values) and values:
                scores[key] = np.stack([value for value in values if value is not None])
        # A row that lacks a seed, or of which there is one example, has no interval.
        seeds = max((len(value) for value in scores.values()), default=0)
        scores = {k: v for k, v in scores.items() if len(v) == seeds and v.shape[1] > 1}
        pairs = [
            (key, other)
            for key, others in against.get(name, {}).items()
            for other in others
            if key != other and key in scores and other in scores
        ]
        for (key, other), interval in zip(
            pairs, paired_intervals(scores, pairs, level=LEVEL), strict=True
        ):
            count, value = scores[key].shape[1], interval.value
            # With two or three seeds, an interval can reach beyond what a difference can be.
            most = math.inf if task.regression else 100.0
            low, high = max(interval.low, -most), min(interval.high, most)
            found.append(
                Interval(key, other, name, metric, value, low, high, LEVEL, len(scores[key]), count)
            )
    return found


def _scores(measured: Measured, task: str, metric: str) -> NDArray[np.float64] | None:
    if metric == "loss":
        loss = measured.outcomes(task, "loss")
        return None if loss is None else loss.double().numpy()
    prediction, targets = measured.outcomes(task, "prediction"), measured.outcomes(task, "targets")
    if prediction is None or targets is None:
        return None
    return 100.0 * (prediction == targets).double().numpy()
