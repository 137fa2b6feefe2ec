"""Two or more runs beside each other."""

from collections.abc import Sequence
from typing import NamedTuple

from conjoin.report.charts import figures
from conjoin.report.charts.points import in_order, unique
from conjoin.report.formats import number, one_line, signed
from conjoin.report.page.html import Child, Markup, element
from conjoin.report.page.sections import Section
from conjoin.report.page.switched import figure_block
from conjoin.report.page.tables import name_block, scrolled
from conjoin.report.run_folder import Run
from conjoin.report.table import Cell, cells_of, title_of
from conjoin.report.words import headline

__all__ = ["compared_sections", "run_labels"]

_BESIDE = ("continuum", "interpolation", "transfer")


class _Key(NamedTuple):
    """What a row is in every run: keys are each run's own."""

    group: str
    name: str


def run_labels(runs: Sequence[Run]) -> list[str]:
    """Name runs so that they can be told apart: by title, or by folder where titles are equal."""
    titles = [run.info.title for run in runs]
    if len(set(titles)) < len(titles):
        titles = [f"{run.info.title} ({run.folder.name})" for run in runs]
    return unique(titles)


def compared_sections(runs: Sequence[Run]) -> list[Section]:
    """Give the sections of the page of several runs."""
    labels = run_labels(runs)
    results = [
        [element("h3", {}, label), element("p", {"class": "headline"}, headline(run))]
        for label, run in zip(labels, runs, strict=True)
    ]
    sections: list[Section] = [
        ("results", "Results", [child for pair in results for child in pair]),
        ("table", "Rows that the runs share", _table(runs, labels)),
    ]
    drawn = [{figure.key: figure for figure in figures(run)} for run in runs]
    for key in _BESIDE:
        present = [i for i, found in enumerate(drawn) if key in found]
        if not present:
            continue
        blocks = [figure_block(drawn[i][key], f"run{i + 1}-", labels[i]) for i in present]
        title = drawn[present[0]][key].title
        sections.append((key, title, element("div", {"class": "sides"}, blocks)))
    return [section for section in sections if section[2]]


def _table(runs: Sequence[Run], labels: Sequence[str]) -> Child:
    rows = [_rows(run) for run in runs]
    cells = [cells_of(run) for run in runs]
    shared = [key for key in rows[0] if all(key in found for found in rows)]
    # A task that is judged in two ways has no difference.
    tasks = [
        task.name
        for task in runs[0].info.tasks
        if all(t in run.tasks for run in runs for t in [task.name])
        and len({run.tasks[task.name].metric for run in runs}) == 1
    ]
    if not shared or not tasks:
        return element("p", {}, "The runs have no row and no task in common, by name.")
    last = len(runs) == 2
    head = element(
        "thead",
        {},
        element(
            "tr",
            {},
            element("th", {"scope": "col", "rowspan": "2", "class": "corner"}, "network"),
            [
                element("th", {"scope": "colgroup", "colspan": str(len(tasks))}, name)
                for name in [*labels, *(["difference, second minus first"] if last else [])]
            ],
        ),
        element(
            "tr",
            {},
            [
                element("th", {"scope": "col"}, one_line(task))
                for _ in range(len(runs) + last)
                for task in tasks
            ],
        ),
    )
    bodies = []
    for group in in_order(key.group for key in shared):
        title = element("span", {}, one_line(group))
        span = str(1 + len(tasks) * (len(runs) + last))
        lines = [element("tr", {}, element("th", {"scope": "rowgroup", "colspan": span}, title))]
        for key in shared:
            if key.group == group:
                found = [
                    [c.get((r[key], task)) for task in tasks]
                    for r, c in zip(rows, cells, strict=True)
                ]
                lines.append(_line(key, found, [runs[0].tasks[task].metric for task in tasks]))
        bodies.append(element("tbody", {}, lines))
    note = element(
        "p",
        {"class": "small"},
        "Means over the seeds of each run, ± their standard deviation. The runs can differ in "
        "seeds, data and settings: see the page of each.",
    )
    return [scrolled(element("table", {}, head, bodies), "Rows of all runs"), note]


def _rows(run: Run) -> dict[_Key, str]:
    found: dict[_Key, str] = {}
    for row in run.info.rows:
        found.setdefault(_Key(title_of(run, row.group), row.name), row.key)
    return found


def _line(key: _Key, found: Sequence[Sequence[Cell | None]], metrics: Sequence[str]) -> Markup:
    cells = [
        element("td", {}, _shown(cell, metric))
        for of_run in found
        for cell, metric in zip(of_run, metrics, strict=True)
    ]
    if len(found) == 2:
        for first, second, metric in zip(*found, metrics, strict=True):
            known = first is not None and second is not None
            change = signed(second.mean - first.mean, metric) if known else ""
            cells.append(element("td", {}, change))
    return element("tr", {}, element("th", {"scope": "row"}, name_block(key.name)), cells)


def _shown(cell: Cell | None, metric: str) -> str:
    if cell is None:
        return ""
    spread = "" if cell.spread is None else f" ± {number(cell.spread, metric)}"
    return number(cell.mean, metric) + spread
