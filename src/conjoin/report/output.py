"""Figures and page of a run, as functions that say what to install where something is missing."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from conjoin.report.extra import report_packages
from conjoin.report.run_folder import Folder, Run

if TYPE_CHECKING:
    from conjoin.report.charts import Figure

__all__ = ["figures", "save_figures", "write_report"]


def figures(run: Run) -> "list[Figure]":
    """Give the figures of a run, each if the run has what it shows.

    The same run gives the same drawings, to the byte.

    Raises:
        ConjoinError: a package is missing; the message says how to install it.
    """
    with report_packages():
        from conjoin.report.charts import figures as make
    return make(run)


def save_figures(run: Run, folder: str | PathLike[str]) -> list[Path]:
    """Write every figure, under every setting of its switches, as SVG, PDF and PNG.

    Ink is black on white. Names are the figure's key and what was chosen, such as
    ``interpolation-mnist-loss-as-merged.pdf``, in plain ASCII.
    The same run gives the same SVGs and PNGs, to the byte; the entries of a PDF are in any order.

    Args:
        run: from `read_run`.
        folder: made if it is missing; files of these names are replaced.

    Returns:
        The files, in the order of the figures.

    Raises:
        ConjoinError: a package is missing; the message says how to install it.
    """
    with report_packages():
        from conjoin.report.charts import save_figures as save
    return save(run, folder)


def write_report(
    folders: Folder | Sequence[Folder], out: str | PathLike[str] | None = None
) -> Path:
    """Write the page of a run, or of several beside each other, as one HTML file.

    The file needs nothing else: it opens without a network, on a phone too, and prints. Names
    from the run are shown as text, whatever they contain.

    Args:
        folders: of runs, as ``docs/run-folder.md`` describes them, or the runs; one or several.
        out: where the page goes, in the place of what is there; default: ``report.html`` in the
            folder, or ``report-compared.html`` in the first of several.

    Returns:
        Where the page is.

    Raises:
        ConjoinError: a package is missing; the message says how to install it.
        DataError: a folder is not that of a run, or a file in it is malformed.
        InputError: there is no folder to write into.
    """
    with report_packages():
        from conjoin.report.page import write_page
    return write_page(folders, out)
