"""The section of the continuum: what it is, its figures and its table."""

from collections.abc import Sequence

from conjoin.report.charts import Figure
from conjoin.report.continuum import continuum_of
from conjoin.report.continuum_table import (
    Column,
    ContinuumCell,
    ContinuumLine,
    columns_of,
    continuum_legend,
    continuum_lines,
    shown_continuum_cell,
)
from conjoin.report.formats import one_line, signed, verdict
from conjoin.report.page.html import Child, Markup, element
from conjoin.report.page.switched import figure_block
from conjoin.report.page.tables import name_block, scrolled
from conjoin.report.run_folder import Run

__all__ = ["FIGURES", "continuum_section"]

FIGURES = ("continuum", "gap", "continuum-transfer")
"""Keys of the figures that stand in this section and in no other."""

_ABOUT = (
    "Networks of one architecture start from the same weights; each is trained on its own task, "
    "and after each step all are pulled towards each other. The strength is the factor of their "
    "squared distance in the loss. At strength 0 they are independent, and their mean is mostly of "
    "no use. As the strength grows they stay close enough to be averaged into one network that is "
    "not told the task. At infinity their weights are one tensor: shared everywhere, it is one "
    "network on all tasks; shared in the trunk only, it is the network with several heads. “Heads” "
    "keeps the classifier and the statistics of each task beside a merged trunk, and “specialists” "
    "are the coupled networks themselves; both need to know the task."
)


def continuum_section(run: Run, drawn: Sequence[Figure]) -> list[Child]:
    """Give the content of the section; nothing if the run has no continuum."""
    blocks = {figure.key: figure_block(figure) for figure in drawn if figure.key in FIGURES}
    table = _table(run)
    if not blocks and not table:
        return []
    first = [blocks[key] for key in FIGURES[:1] if key in blocks]
    others = [blocks[key] for key in FIGURES[1:] if key in blocks]
    found: list[Child] = [element("p", {}, _ABOUT), first, table, others]
    return found


def _table(run: Run) -> list[Markup]:
    continuum = continuum_of(run)
    if continuum is None:
        return []
    columns, lines = columns_of(run, continuum), continuum_lines(run, continuum)
    tops = list(dict.fromkeys(column.heading[0] for column in columns))
    counts = [sum(column.heading[0] == top for column in columns) for top in tops]
    head = element(
        "thead",
        {},
        element(
            "tr",
            {},
            element("th", {"scope": "col", "rowspan": "2", "class": "corner"}, "strength"),
            [
                element("th", {"scope": "colgroup", "colspan": str(count)}, top)
                for top, count in zip(tops, counts, strict=True)
            ],
        ),
        element(
            "tr", {}, [element("th", {"scope": "col"}, column.heading[1]) for column in columns]
        ),
    )
    bodies: list[Markup] = []
    rows: list[Markup] = []
    for line in lines:
        if line.kind == "section":
            bodies += [element("tbody", {}, rows)] if rows else []
            name = one_line(line.name) or "(no name)"
            about = f": {one_line(line.about)}" if line.about.strip() else ""
            title = element("span", {}, f"{name}{about}")
            span = str(len(columns) + 1)
            rows = [element("tr", {}, element("th", {"scope": "rowgroup", "colspan": span}, title))]
        else:
            rows.append(_row(line, columns))
    bodies += [element("tbody", {}, rows)] if rows else []
    below = (
        "Below a value, its difference from the independent specialist of that task, in brackets "
        "the ends of its {:g} % interval."
    )
    levels = sorted({c.interval.level for line in lines for c in line.cells if c and c.interval})
    notes = [
        *([below.format(100 * levels[0])] if levels else []),
        *continuum_legend(run, continuum),
    ]
    table = element("table", {}, head, bodies)
    return [
        element("h3", {}, "Every point"),
        scrolled(table, "Table of the continuum"),
        element("p", {"class": "small"}, " ".join(notes)),
    ]


def _row(line: ContinuumLine, columns: Sequence[Column]) -> Markup:
    badge = element("span", {"class": "badge"}, "chosen") if line.chosen else None
    cells = [
        element("td", {}, _cell(cell, column.metric))
        for cell, column in zip(line.cells, columns, strict=True)
    ]
    return element("tr", {}, element("th", {"scope": "row"}, name_block(line.name), badge), cells)


def _cell(cell: ContinuumCell | None, metric: str) -> Child:
    shown = shown_continuum_cell(cell, metric)
    interval = cell.interval if cell else None
    if interval is None:
        return shown
    ends = f" [{signed(interval.low, metric)}, {signed(interval.high, metric)}]"
    color = "worse" if verdict(interval) == "worse" else None
    found: list[Child] = [
        shown,
        element(
            "small",
            {"class": color},
            signed(interval.value, metric),
            element("span", {"class": "ends"}, ends),
        ),
    ]
    return found
