"""Measuring models: how far apart they are, what lies between them, and what merging does to them.

    of weights alone     distances, finite numbers
    of networks on data  interpolation and barriers, a loss surface, layer by layer, activations,
                         transfer to an unseen domain
    of outcomes          calibration; intervals of differences on the same examples

Distances are computed in float64, a chunk at a time, so that memory does not grow with the model.
"""

from conjoin.measure.activations import activation_statistics
from conjoin.measure.calibration import Bin, calibration_error, reliability
from conjoin.measure.depth import merging_by_depth
from conjoin.measure.distances import (
    Distance,
    StructureDifference,
    by_kind,
    by_layer,
    compare_structure,
    distances,
)
from conjoin.measure.finite import FiniteCount, count_nonfinite, nonfinite_tensors
from conjoin.measure.interpolation import barriers, interpolate
from conjoin.measure.intervals import Difference, paired_interval, paired_intervals
from conjoin.measure.layers import Layer, group_layers, layers_of
from conjoin.measure.plane import plane
from conjoin.measure.transfer import Transferred, balanced_order, transfer, transfer_outcomes

__all__ = [
    "Bin",
    "Difference",
    "Distance",
    "FiniteCount",
    "Layer",
    "StructureDifference",
    "Transferred",
    "activation_statistics",
    "balanced_order",
    "barriers",
    "by_kind",
    "by_layer",
    "calibration_error",
    "compare_structure",
    "count_nonfinite",
    "distances",
    "group_layers",
    "interpolate",
    "layers_of",
    "merging_by_depth",
    "nonfinite_tensors",
    "paired_interval",
    "paired_intervals",
    "plane",
    "reliability",
    "transfer",
    "transfer_outcomes",
]
