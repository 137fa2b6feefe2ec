"""Measuring models: how far apart two are, and whether their numbers are finite.

    relative distance = ||a - b|| / ||a||,   cosine = <a, b> / (||a|| ||b||)

Everything is computed in float64, a chunk at a time, so that memory does not grow with the model.
"""

from conjoin.measure.distances import (
    Distance,
    StructureDifference,
    by_kind,
    by_layer,
    compare_structure,
    distances,
)
from conjoin.measure.finite import FiniteCount, count_nonfinite, nonfinite_tensors

__all__ = [
    "Distance",
    "FiniteCount",
    "StructureDifference",
    "by_kind",
    "by_layer",
    "compare_structure",
    "count_nonfinite",
    "distances",
    "nonfinite_tensors",
]
