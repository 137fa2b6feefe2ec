"""The section of aligned networks: what alignment is, its figures, and how well units matched."""

from collections.abc import Sequence

from conjoin.report.alignment import UnitsLine, aligned, units_of
from conjoin.report.charts import Figure
from conjoin.report.formats import one_line
from conjoin.report.page.html import Child, Markup, element
from conjoin.report.page.switched import figure_block
from conjoin.report.page.tables import name_block, plain_table
from conjoin.report.run_folder import Run
from conjoin.report.table import title_of

__all__ = ["ALIGNED", "alignment_section"]

ALIGNED = (
    "aligned-interpolation",
    "unit-pairs",
    "aligned-units",
    "aligned-variance",
    "aligned-depth",
)
"""Keys of the figures that stand in this section and in no other, in their order."""

_ABOUT = (
    "The hidden units of a layer can be put into any order without changing what a network "
    "computes, and each training finds an order of its own. So the units of the second network "
    "were matched with those of the first, by their activations on unlabelled training inputs, and "
    "brought into its order. What is drawn was measured on test data; all is of the first seed."
)

_COLUMNS = ("layer", "units", "moved", "matched", "correlation before", "after")

_NOTE = (
    "Moved: units that are not where they were. Correlation: of the activations of units at one "
    "place on test data, mean over the layer. Matched: units that are each other's best match by "
    "it, after alignment; where that is low, an order is hardly better than others. Both are empty "
    "for units that no linear layer or convolution reads."
)


def alignment_section(run: Run, drawn: Sequence[Figure]) -> list[Child]:
    """Give the content of the section; nothing if no networks were aligned for it."""
    if not run.view("alignment"):
        return []
    blocks = {figure.key: figure_block(figure) for figure in drawn if figure.key in ALIGNED}
    found: list[Child] = [
        element("p", {}, _ABOUT),
        [blocks[key] for key in ALIGNED if key in blocks],
        _tables(run),
    ]
    return found


def _tables(run: Run) -> list[Markup]:
    groups = dict.fromkeys(str(record.how.get("group")) for record in aligned(run, "units"))
    if not groups:
        return []
    parts = [element("h3", {}, "How well units were matched")]
    for group in groups:
        title = one_line(title_of(run, group)) or "(no name)"
        rows = [_cells(line) for line in units_of(run, group)]
        table = plain_table(_COLUMNS, rows, f"Matched units: {title}", numbers=5)
        parts += [element("p", {}, name_block(title)), table] if len(groups) > 1 else [table]
    return [*parts, element("p", {"class": "small"}, _NOTE)]


def _cells(line: UnitsLine) -> list[Child]:
    shares = ["" if v is None else f"{100 * v:.0f} %" for v in (line.moved, line.matched)]
    means = ["" if v is None else f"{v:z.2f}" for v in (line.before, line.after)]
    return [name_block(line.layer), f"{line.size:,}", *shares, *means]
