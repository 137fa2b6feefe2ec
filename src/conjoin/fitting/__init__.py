"""Merging with data: the weights of one network from what its parents do on their data."""

from conjoin.fitting.merging_with_data import merge_with_data
from conjoin.fitting.report import FitReport
from conjoin.fitting.routing import RouteReport, route

__all__ = ["FitReport", "RouteReport", "merge_with_data", "route"]
