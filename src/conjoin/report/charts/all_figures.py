"""All figures of a run."""

from conjoin.report.charts.figure import Figure
from conjoin.report.charts.layers import activations_figure, depth_figure, distances_figure
from conjoin.report.charts.plane import plane_figure
from conjoin.report.charts.rows import rows_figure
from conjoin.report.charts.segment import interpolation_figure
from conjoin.report.charts.transfer import transfer_figure
from conjoin.report.run_folder import Run

__all__ = ["figures"]

_MAKERS = (
    rows_figure,
    interpolation_figure,
    plane_figure,
    depth_figure,
    activations_figure,
    distances_figure,
    transfer_figure,
)


def figures(run: Run) -> list[Figure]:
    """Give the figures of a run, each if the run has what it shows.

    The same run gives the same charts, to the byte.
    """
    made = [make(run) for make in _MAKERS]
    return [figure for figure in made if figure is not None]
