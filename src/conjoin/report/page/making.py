"""How a run was made: what repeats it, and what it took."""

import json
from collections.abc import Mapping
from typing import Any

from conjoin.report.formats import one_line
from conjoin.report.page.html import Child, Markup, element
from conjoin.report.page.tables import name_block, plain_table
from conjoin.report.run_folder import Cost, Run

__all__ = ["making"]


def making(run: Run) -> list[Markup]:
    """Give command, seeds, data, versions, settings, hashes and costs."""
    info = run.info
    facts: list[tuple[str, Child]] = []
    if info.command:
        facts.append(("command", element("code", {}, one_line(info.command))))
    facts.append(("seeds", ", ".join(map(str, info.seeds))))
    if run.device:
        facts.append(("device", one_line(run.device)))
    if run.seconds is not None:
        facts.append(("time of the whole run", _seconds(run.seconds)))
    facts += [(one_line(name), one_line(text)) for name, text in info.versions.items()]
    parts = [_facts(facts)]
    parts += [element("h3", {}, "Data"), _data(run)]
    if info.settings:
        pairs: list[tuple[str, Child]] = [
            (one_line(k), _setting(v)) for k, v in info.settings.items()
        ]
        parts += [element("h3", {}, "Settings"), _facts(pairs)]
    if info.hashes:
        hashes: list[tuple[str, Child]] = [
            (one_line(name), element("code", {}, one_line(text)))
            for name, text in info.hashes.items()
        ]
        parts += [element("h3", {}, "SHA-256 of what was read"), _facts(hashes)]
    if run.costs:
        parts += [element("h3", {}, "Time and memory"), _costs(run)]
    return parts


def _facts(facts: list[tuple[str, Child]]) -> Markup:
    items = [
        [element("dt", {}, name_block(name)), element("dd", {}, value)] for name, value in facts
    ]
    return element("dl", {}, [child for pair in items for child in pair])


def _setting(value: Any) -> str:
    if isinstance(value, str | int | float | bool):
        return one_line(str(value))
    return one_line(json.dumps(value, ensure_ascii=False, default=str))


def _data(run: Run) -> Markup:
    parts = ("train", "validation", "test")
    rows: list[list[Child]] = [
        [
            name_block(task.name),
            "yes" if task.trained_on else "no",
            *(f"{task.counts[part]:,}" if part in task.counts else "" for part in parts),
        ]
        for task in run.info.tasks
    ]
    columns = ["data", "trained on", *(f"{part} examples" for part in parts)]
    return plain_table(columns, rows, "Data", numbers=3)


def _costs(run: Run) -> Markup:
    by_row: dict[str, list[Cost]] = {}
    for cost in run.costs:
        by_row.setdefault(cost.row, []).append(cost)
    names: Mapping[str, str] = {key: row.name for key, row in run.rows.items()}
    rows: list[list[Child]] = []
    for key in [key for key in run.rows if key in by_row] + [
        k for k in by_row if k not in run.rows
    ]:
        found = by_row[key]
        peaks = [cost.peak_bytes for cost in found if cost.peak_bytes is not None]
        rows.append(
            [
                name_block(names.get(key, key)),
                f"{sum(cost.make_seconds for cost in found) / len(found):.3g} s",
                f"{sum(cost.test_seconds for cost in found) / len(found):.3g} s",
                f"{max(peaks) / 1e6:,.1f} MB" if peaks else "",
                f"{max(cost.parameters for cost in found):,}",
            ]
        )
    table = plain_table(
        ["network", "to make", "to test", "memory", "parameters"],
        rows,
        "Time and memory",
        numbers=4,
    )
    note = element(
        "p",
        {"class": "small"},
        "Seconds are means over seeds. Memory is the most that it rose by while the row was made "
        "and tested; it is empty where that cannot be measured.",
    )
    summary = element("summary", {}, f"{len(rows)} rows")
    return element("details", {}, summary, table, note)


def _seconds(value: float) -> str:
    """Write a time for people.

    >>> _seconds(7.31), _seconds(321.5), _seconds(7300)
    ('7.3 s', '5 min 22 s', '2 h 1 min')
    """
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    return f"{minutes // 60} h {minutes % 60} min"
