"""A run folder -> tables, figures and one self-contained page. Nothing here sees a model.

What a run folder holds is said in ``docs/run-folder.md``. The page and the figures need packages
that tables do not: ``pip install "conjoin[report]"``.
"""

from conjoin.report.output import figures, save_figures, write_report
from conjoin.report.run_folder import Run, read_run

__all__ = ["Run", "figures", "read_run", "save_figures", "write_report"]
