"""The table against values worked by hand and against NumPy."""

import io
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from conjoin.records import Interval, Record
from conjoin.report.run_folder import (
    GroupInfo,
    RowInfo,
    Run,
    RunInfo,
    Skipped,
    TaskInfo,
    read_run,
)
from conjoin.report.table import (
    Cell,
    cells_of,
    lines_of,
    markdown_table,
    mean_of,
    print_table,
    severity,
    shown_cell,
)


def make_run(values, *, tasks=("A", "B"), metric="accuracy", rows=None, **info):
    """A run of what is given: (row, task) -> values by seed."""
    names = list(dict.fromkeys(row for row, _ in values))
    found = rows or [RowInfo(key=name, group="g", name=name) for name in names]
    records = [
        Record(row, task, "test", seed, metric, value, 10, {"view": "row"})
        for (row, task), by_seed in values.items()
        for seed, value in enumerate(by_seed)
        if value is not None
    ]
    intervals = info.pop("intervals", ())
    listed = info.pop("task_infos", [TaskInfo(name=task, metric=metric) for task in tasks])
    about = {
        "experiment": "compare",
        "title": "t",
        "seeds": [0, 1],
        "tasks": listed,
        "groups": [GroupInfo(key="g", title="Group", models=[], tasks=list(tasks))],
        "rows": found,
        "specialists": {"A": "a", "B": "b"},
    } | info
    return Run(Path(), RunInfo(**about), tuple(records), tuple(intervals))


TWO = {
    ("a", "A"): (99.0, 97.0),
    ("a", "B"): (20.0, 30.0),
    ("b", "A"): (50.0, 60.0),
    ("b", "B"): (90.0, 94.0),
    ("mean", "A"): (79.0, 81.0),
    ("mean", "B"): (70.0, 80.0),
}


def shown(run, width=200):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_table(run, console)
    return console.file.getvalue()


def test_by_hand():
    interval = Interval("mean", "a", "A", "accuracy", -18.0, -19.5, -16.5, 0.95, 2, 10)
    cells = cells_of(make_run(TWO, intervals=[interval]))
    half = math.sqrt(2)
    assert cells["a", "A"] == Cell(98.0, pytest.approx(half), 0.0, None, None, False)
    assert cells["mean", "A"] == Cell(80.0, pytest.approx(half), -18.0, -19.5, -16.5, False)
    assert cells["mean", "B"] == Cell(75.0, pytest.approx(5 * half), -17.0, None, None, False)
    assert shown_cell(cells["mean", "A"], "accuracy") == "80.0 ± 1.4 (-18.0)"
    assert [line.mean for line in lines_of(make_run(TWO))] == [None, 61.5, 73.5, 77.5]


def test_markdown_by_hand():
    rows = [
        RowInfo(key="a", group="g", name="a alone", kind="parent"),
        RowInfo(key="b", group="h", name="heads", uses_task_label=True),
        RowInfo(key="mean", group="h", name=" "),
    ]
    values = {key: (first,) for key, (first, _) in TWO.items()}
    run = make_run(values, rows=rows, seeds=[0], skipped=[Skipped(group="h", name="x", reason="y")])
    assert markdown_table(run) == (
        "Accuracy on test data, percent:\n"
        "\n"
        "| network | A | B | mean |\n"
        "|---|---:|---:|---:|\n"
        "| **Group** |  |  |  |\n"
        "| a alone | 99.0 (+0.0) | 20.0 (-70.0) | 59.5 |\n"
        "| **h** |  |  |  |\n"
        "| heads \\* | 50.0 (-49.0) | 90.0 (+0.0) | 70.0 |\n"
        "| mean | 79.0 (-20.0) | 70.0 (-20.0) | 74.5 |\n"
        "\n"
        "One seed; in brackets, the difference from the specialist of that task.\n"
        "\\* is told at test time which task an example belongs to; all others are one network, or "
        "one ensemble, that is not.\n"
        "\n"
        "Left out:\n"
        "\n"
        "- x (h): y\n"
    )


def test_a_row_that_lacks_a_seed_is_compared_by_the_seeds_it_has():
    run = make_run(TWO | {("mean", "A"): (None, 81.0), ("mean", "B"): (None, None)})
    cells = cells_of(run)
    assert cells["mean", "A"] == Cell(81.0, None, -16.0, None, None, False)
    assert ("mean", "B") not in cells
    assert lines_of(run)[-1].mean is None
    assert "some rows lack seeds" in shown(run)
    assert "some rows lack seeds" not in shown(make_run(TWO))


def test_a_specialist_without_a_common_seed_gives_no_difference():
    run = make_run(TWO | {("a", "A"): (99.0, None), ("mean", "A"): (None, 81.0)})
    assert cells_of(run)["mean", "A"].difference is None
    assert cells_of(make_run(TWO, specialists={}))["mean", "A"].difference is None
    assert cells_of(make_run(TWO, specialists={"A": "gone"}))["mean", "A"].difference is None


def test_only_test_records_of_the_table_count():
    run = make_run(TWO)
    odd = [
        replace(run.records[0], value=0.0, split="validation"),
        replace(run.records[0], value=0.0, metric="loss"),
        replace(run.records[0], value=0.0, how={"view": "interpolation"}),
        replace(run.records[0], value=0.0, model="nobody"),
        replace(run.records[0], value=0.0, task="nothing"),
    ]
    assert cells_of(replace(run, records=(*run.records, *odd), _views={})) == cells_of(run)


def test_unseen_tasks_have_no_difference_and_no_part_in_the_mean():
    infos = [TaskInfo(name="A"), TaskInfo(name="B"), TaskInfo(name="C", trained_on=False)]
    run = make_run(TWO | {("mean", "C"): (10.0, 20.0)}, task_infos=infos)
    assert cells_of(run)["mean", "C"].difference is None
    assert lines_of(run)[-1].mean == 77.5
    assert "C (unseen)" in shown(run)
    assert "C (unseen)" in markdown_table(run)


def test_one_task_and_losses_have_no_mean_column():
    one = {key: value for key, value in TWO.items() if key[1] == "A"}
    assert "| mean |" not in markdown_table(make_run(one, tasks=("A",))).splitlines()[2]
    assert "| mean |" not in markdown_table(make_run(TWO, metric="loss")).splitlines()[2]
    assert "| mean |" in markdown_table(make_run(TWO)).splitlines()[2]


@pytest.mark.parametrize(
    ("mean", "difference", "metric", "seen"),
    [
        (98.0, -0.9, "accuracy", ""),
        (98.0, -1.0, "accuracy", "worse"),
        (98.0, -9.9, "accuracy", "worse"),
        (98.0, -10.0, "accuracy", "much worse"),
        (98.0, 20.0, "accuracy", ""),
        (98.0, None, "accuracy", ""),
        (1.09, 0.09, "loss", ""),
        (1.1, 0.11, "loss", "worse"),
        (2.5, 1.5, "loss", "much worse"),
        (0.5, -0.5, "loss", ""),
        (0.0, 0.0, "loss", ""),
        (math.inf, math.inf, "loss", "much worse"),
        (math.nan, math.nan, "loss", "much worse"),
    ],
)
def test_severity_by_hand(mean, difference, metric, seen):
    assert severity(Cell(mean, None, difference, None, None, False), metric) == seen


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e308, -1e308])
def test_odd_numbers_are_shown_as_such(value):
    run = make_run(TWO | {("mean", "A"): (value, 1e308)}, metric="loss")
    text = shown(run) + markdown_table(run)
    if not math.isfinite(value):
        assert ("NaN" if math.isnan(value) else "inf") in text
    assert "-0.0 " not in text


numbers = st.floats() | st.floats(0, 100)


@given(st.lists(numbers, max_size=4))
def test_mean_of_anything(values):
    found = mean_of(values)
    if not values or any(map(math.isnan, values)) or {math.inf, -math.inf} <= set(values):
        assert math.isnan(found)
    elif all(abs(v) < 1e300 for v in values):
        expected = float(np.mean(np.array(values, dtype=np.longdouble)))
        scale = max(map(abs, values))
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-12 * scale)
    elif not all(map(math.isfinite, values)):
        assert found == next(v for v in values if not math.isfinite(v))


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=2, max_size=5))
def test_cells_against_numpy(pairs):
    own, mine = np.array(pairs).T
    cells = cells_of(make_run({("a", "A"): own, ("mean", "A"): mine}))
    cell = cells["mean", "A"]
    assert cell.mean == pytest.approx(mine.mean())
    assert cell.spread == pytest.approx(mine.std(ddof=1), abs=1e-9)
    assert cell.difference == pytest.approx((mine - own).mean(), abs=1e-9)


def columns(line):
    """Split a row of a Markdown table at the bars that are not escaped."""
    return re.split(r"(?<!\\)(?:\\\\)*\|", line)


names = st.text(min_size=1, max_size=30) | st.sampled_from(
    ["|", "\\", "\\|", "a\n|b", "***", "`", "<b>", "[bold]x[/bold]", "\u202e", "\x1b[31m", " "]
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(names, names, names, names)
def test_markdown_stays_one_table_whatever_the_names(task, row, title, reason):
    other = task + "2"
    run = make_run(
        {("a", task): (1.0,), ("a", other): (2.0,)},
        tasks=(task, other),
        rows=[RowInfo(key="a", group="g", name=row, uses_task_label=True)],
        groups=[GroupInfo(key="g", title=title, models=[], tasks=[task])],
        skipped=[Skipped(group="g", name=row, reason=reason)],
        specialists={},
    )
    lines = markdown_table(run).split("\n")
    table = lines[2:6]
    assert [len(columns(line)) for line in table] == [6] * 4
    assert lines[6] == ""
    assert all(len(columns(line)) == 1 for line in lines[6:])
    text = "\n".join(lines)
    assert not re.search(r"(?<!\\)(?:\\\\)*[<>`\[]", text)
    assert all(letter.isprintable() or letter == "\n" for letter in text)


def test_the_terminal_interprets_nothing(synthetic_run, tmp_path):
    rows = [RowInfo(key="a", group="g", name="[red]x[/red] \x1b[31m[/nothing]")]
    text = shown(make_run({("a", "A"): (1.0,)}, rows=rows))
    assert "[red]x[/red] \\x1b[31m[/nothing]" in text
    assert "\x1b" not in text
    assert shown(read_run(synthetic_run(tmp_path, hostile=True, tasks=3)), width=80)


@pytest.mark.parametrize("regression", [False, True])
@pytest.mark.parametrize("hostile", [False, True])
def test_lines_have_every_row_and_task(synthetic_run, tmp_path, regression, hostile):
    run = read_run(synthetic_run(tmp_path, regression=regression, hostile=hostile, views=False))
    lines = lines_of(run)
    assert [line.key for line in lines if line.kind == "row"] == list(run.rows)
    assert [line.key for line in lines if line.kind == "section"] == list(run.groups)
    cells = cells_of(run)
    for line in lines:
        if line.kind == "row":
            assert line.cells == tuple(cells.get((line.key, task)) for task in run.tasks)
            assert line.name == run.rows[line.key].name or not run.rows[line.key].name.strip()
    for task, key in run.info.specialists.items():
        assert cells[key, task].difference == 0
    for one in run.intervals:
        if one.against == run.info.specialists.get(one.task):
            cell = cells[one.model, one.task]
            assert (cell.low, cell.high) == (one.low, one.high)
            assert cell.difference == pytest.approx(one.value)


def test_an_empty_run_has_a_table():
    run = make_run({}, rows=[RowInfo(key="a", group="gone", name="a")])
    assert "Nothing has been measured yet" in shown(run)
    assert "| a |  |  |" in markdown_table(run)
    assert lines_of(make_run({})) == ()
    assert markdown_table(make_run({}, tasks=(), task_infos=[])).startswith("Accuracy")
