"""All figures of a run."""

from conjoin.report.charts.aligned import (
    aligned_depth_figure,
    aligned_line_figure,
    aligned_units_figure,
    aligned_variance_figure,
)
from conjoin.report.charts.continuum import continuum_figure
from conjoin.report.charts.figure import Figure
from conjoin.report.charts.gap import gap_figure
from conjoin.report.charts.layers import activations_figure, depth_figure, distances_figure
from conjoin.report.charts.plane import plane_figure
from conjoin.report.charts.rows import rows_figure
from conjoin.report.charts.segment import interpolation_figure
from conjoin.report.charts.strength_transfer import strength_transfer_figure
from conjoin.report.charts.transfer import transfer_figure
from conjoin.report.charts.unit_pairs import unit_pairs_figure
from conjoin.report.run_folder import Run

__all__ = ["figures"]

_MAKERS = (
    continuum_figure,
    gap_figure,
    strength_transfer_figure,
    rows_figure,
    interpolation_figure,
    plane_figure,
    depth_figure,
    activations_figure,
    distances_figure,
    transfer_figure,
    aligned_line_figure,
    unit_pairs_figure,
    aligned_units_figure,
    aligned_variance_figure,
    aligned_depth_figure,
)


def figures(run: Run) -> list[Figure]:
    """Give the figures of a run, each if the run has what it shows.

    The same run gives the same charts, to the byte.
    """
    made = [make(run) for make in _MAKERS]
    return [figure for figure in made if figure is not None]
