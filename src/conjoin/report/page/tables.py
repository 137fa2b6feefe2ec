"""The table of a run, in HTML."""

from collections.abc import Sequence

from conjoin.report.formats import number, one_line, signed
from conjoin.report.page.html import Child, Markup, element
from conjoin.report.run_folder import Run, TaskInfo
from conjoin.report.table import Cell, Line, heading_of, legend_of, lines_of, severity

__all__ = ["name_block", "plain_table", "row_name", "run_table", "scrolled"]


def run_table(run: Run) -> list[Markup]:
    """Give the table: a column per task, a body per group of rows, and what its marks mean."""
    tasks, lines = tuple(run.tasks.values()), lines_of(run)
    means = any(line.mean is not None for line in lines)
    names = [one_line(heading_of(task)) for task in tasks] + (["mean"] if means else [])
    head = element(
        "tr",
        {},
        element("th", {"scope": "col", "class": "corner"}, "network"),
        [element("th", {"scope": "col"}, name) for name in names],
    )
    bodies: list[Markup] = []
    rows: list[Markup] = []
    for line in lines:
        if line.kind == "section":
            bodies += [element("tbody", {}, rows)] if rows else []
            title = element("span", {}, one_line(line.name))
            span = str(len(names) + 1)
            rows = [element("tr", {}, element("th", {"scope": "rowgroup", "colspan": span}, title))]
        else:
            rows.append(_row(line, tasks, means))
    bodies += [element("tbody", {}, rows)] if rows else []
    notes = [element("p", {"class": "small"}, note) for note in _notes(run)]
    table = element("table", {}, element("thead", {}, head), bodies)
    return [scrolled(table, "Table of results"), *notes]


def _notes(run: Run) -> list[str]:
    """Explain the table; a page has differences below the values, not in brackets behind them."""
    levels = sorted({interval.level for interval in run.intervals})
    ends = f", in brackets the ends of its {100 * levels[0]:g} % interval" if levels else ""
    here = f"below, the difference from the specialist of that task{ends}"
    there = "in brackets, the difference from the specialist of that task"
    return [note.replace(there, here) for note in legend_of(run)]


def _row(line: Line, tasks: Sequence[TaskInfo], means: bool) -> Markup:
    cells = [
        element("td", {}, _cell(cell, task.metric))
        for cell, task in zip(line.cells, tasks, strict=True)
    ]
    if means:
        shown = "" if line.mean is None else number(line.mean, "accuracy")
        cells.append(element("td", {}, shown))
    return element("tr", {}, element("th", {"scope": "row"}, row_name(line)), cells)


def row_name(line: Line) -> list[Child]:
    """Give the name of a row, with its marks and what it is."""
    told = element("span", {"class": "badge"}, "* told the task") if line.told else None
    several = f"{line.networks} networks"
    networks = element("span", {"class": "badge"}, several) if line.networks > 1 else None
    about = element("small", {}, name_block(line.about)) if line.about.strip() else None
    found: list[Child] = [name_block(line.name), told, networks, about]
    return found


def name_block(name: str) -> Child:
    """Give a name; of a very long one the style sheet shows the beginning."""
    text = one_line(name)
    return element("span", {"class": "clamped", "title": text}, text) if len(text) > 90 else text


def _cell(cell: Cell | None, metric: str) -> Child:
    if cell is None:
        return None
    spread = "" if cell.spread is None else f" ± {number(cell.spread, metric)}"
    shown = number(cell.mean, metric) + spread
    if cell.difference is None:
        return shown
    change = signed(cell.difference, metric)
    interval = None
    if cell.low is not None and cell.high is not None:
        ends = f" [{signed(cell.low, metric)}, {signed(cell.high, metric)}]"
        interval = element("span", {"class": "ends"}, ends)
    behind = severity(cell, metric).replace(" ", "-")
    found: list[Child] = [shown, element("small", {"class": behind or None}, change, interval)]
    return found


def plain_table(
    columns: Sequence[str], rows: Sequence[Sequence[Child]], label: str, *, numbers: int = 0
) -> Markup:
    """Give a table of texts.

    Args:
        columns: headings.
        rows: cells; the first of a row names it.
        label: of the table, for readers who do not see it.
        numbers: how many of the last columns are numbers.
    """
    first = len(columns) - numbers

    def kind(index: int) -> dict[str, str | bool | None]:
        return {"class": "number"} if index >= first else {}

    head = [
        element("th", {"scope": "col", **(kind(i) if i else {"class": "corner"})}, name)
        for i, name in enumerate(columns)
    ]
    body = [
        element(
            "tr",
            {},
            element("th", {"scope": "row"}, row[0]),
            [element("td", kind(i), cell) for i, cell in enumerate(row[1:], start=1)],
        )
        for row in rows
    ]
    table = element(
        "table",
        {"class": "plain"},
        element("thead", {}, element("tr", {}, head)),
        element("tbody", {}, body),
    )
    return scrolled(table, label)


def scrolled(table: Markup, label: str) -> Markup:
    """Give a region in which a wide table can be moved, by keyboard too."""
    return element(
        "div", {"class": "scroll", "role": "region", "tabindex": "0", "aria-label": label}, table
    )
