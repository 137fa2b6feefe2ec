"""Putting right what merging does to activations."""

from conjoin.repairing.batchnorm import has_batchnorm, needs_reestimation, reestimate_batchnorm

__all__ = ["has_batchnorm", "needs_reestimation", "reestimate_batchnorm"]
