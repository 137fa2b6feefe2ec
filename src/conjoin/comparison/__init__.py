"""Networks + data -> every row and curve of a comparison, as one run folder.

    Subject (one seed) ──► Laboratory ──► rows      ──┐
      networks, data         cached       views       ├──► records, intervals ──► run folder
                             stages       transfer  ──┘

A row of the table is an entry of `conjoin.comparison.rows.ROWS`, a curve one of
`conjoin.comparison.views.VIEWS`.
"""

from conjoin.comparison.comparing import compare
from conjoin.comparison.data import TaskSpec
from conjoin.comparison.networks import Model, Source
from conjoin.comparison.subject import Settings

__all__ = ["Model", "Settings", "Source", "TaskSpec", "compare"]
