"""Putting right what merging does to activations."""

from conjoin.repairing.batchnorm import has_batchnorm, needs_reestimation, reestimate_batchnorm
from conjoin.repairing.choosing import METHODS, repair
from conjoin.repairing.report import Candidate, LayerRepair, RepairReport

__all__ = [
    "METHODS",
    "Candidate",
    "LayerRepair",
    "RepairReport",
    "has_batchnorm",
    "needs_reestimation",
    "reestimate_batchnorm",
    "repair",
]
