"""Merging with data: the weights of one network from what its parents do on their data."""

from conjoin.fitting.merging_with_data import merge_with_data
from conjoin.fitting.report import FitReport

__all__ = ["FitReport", "merge_with_data"]
