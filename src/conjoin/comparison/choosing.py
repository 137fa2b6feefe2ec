"""What every choice of a comparison is made by: a score on validation data."""

import math
from collections.abc import Mapping

from conjoin.comparison.family import Family
from conjoin.evaluation import Predictor, outcomes

__all__ = ["comparable", "validation_score"]


def validation_score(predictor: Predictor, family: Family) -> float:
    """Mean over tasks of accuracy on validation data, or of minus the loss for a regression."""
    scores = []
    for name, task in family.tasks.items():
        chosen = predictor[name] if isinstance(predictor, Mapping) else predictor
        metrics = outcomes(chosen, task.parts["validation"](), name).metrics()
        scores.append(-metrics["loss"] if task.regression else metrics["accuracy"])
    return comparable(sum(scores) / len(scores))


def comparable(score: float) -> float:
    """Give a score that can be compared: NaN, which no number is above or below, is the worst.

    >>> max([math.nan, -1.0], key=comparable)
    -1.0
    """
    return -math.inf if math.isnan(score) else score
