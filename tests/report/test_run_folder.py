"""Run folders, read and checked."""

import json

import pytest

from conjoin.errors import DataError, InputError
from conjoin.report.run_folder import COSTS, RESULTS, read_run


def _changed(folder, name, change):
    path = folder / name
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"hostile": True},
        {"regression": True},
        {"seeds": 1, "tasks": 1, "groups": 1, "unseen": False},
        {"tasks": 4, "batchnorm": False},
        {"views": False},
    ],
)
def test_a_written_folder_reads(synthetic_run, tmp_path, settings):
    run = read_run(synthetic_run(tmp_path, **settings))
    assert len(run.tasks) == settings.get("tasks", 2) + settings.get("unseen", True)
    assert {row.group for row in run.rows.values()} == set(run.groups)
    assert {record.model for record in run.view("row")} == set(run.rows)
    assert set(run.info.specialists.values()) <= set(run.rows)
    assert all(skip.group in {*run.groups, ""} for skip in run.info.skipped)
    assert len(run.costs) == len(run.rows) * len(run.info.seeds)
    views = {"interpolation", "barrier", "plane", "depth", "activations", "distances"}
    for view in views:
        assert bool(run.view(view)) == settings.get("views", True)
        assert all(record.how["group"] in run.groups for record in run.view(view))


def test_views_keep_the_order_and_every_record(synthetic_run, tmp_path):
    run = read_run(synthetic_run(tmp_path))
    found = [record for view in {r.how["view"] for r in run.records} for record in run.view(view)]
    assert len(found) == len(run.records)
    rows = [record for record in run.records if record.how["view"] == "row"]
    assert list(run.view("row")) == rows
    assert run.view("gap") == ()  # there may be such a view, but not in this run


def test_names_that_there_are_not_are_answered_with_those_there_are(synthetic_run, tmp_path):
    run = read_run(str(synthetic_run(tmp_path)))
    assert len(repr(run)) < 500
    assert str(tmp_path) in repr(run)
    with pytest.raises(InputError, match="no view 'interp'; this run has .*interpolation"):
        run.view("interp")
    one = run.intervals[0]
    names = [one.model, one.against, one.task, one.metric]
    for place, what in enumerate(["row 'x'", "row to compare with 'x'", "task 'x'", "metric 'x'"]):
        with pytest.raises(InputError, match=f"this run has no {what}; there are"):
            run.interval(*names[:place], "x", *names[place + 1 :])


def test_intervals_are_found_by_all_four(synthetic_run, tmp_path):
    run = read_run(synthetic_run(tmp_path))
    for one in run.intervals:
        assert run.interval(one.model, one.against, one.task, one.metric) == one
        other = run.interval(one.against, one.model, one.task, one.metric)
        assert other is None or other in run.intervals


def test_what_a_row_is_may_be_left_out(synthetic_run, tmp_path):
    folder = synthetic_run(tmp_path)
    _changed(folder, RESULTS, lambda document: document["run"]["rows"][0].pop("kind"))
    assert next(iter(read_run(folder).rows.values())).kind == "merge"


def test_costs_may_be_missing(synthetic_run, tmp_path):
    folder = synthetic_run(tmp_path)
    (folder / COSTS).unlink()
    run = read_run(folder)
    assert (run.costs, run.seconds, run.device) == ((), None, None)


def test_no_run_folder(tmp_path):
    with pytest.raises(DataError, match="conjoin compare"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: run.pop("seeds"), "run.seeds"),
        (lambda run: run.update(surprise=1), "run.surprise"),
        (lambda run: run["tasks"][0].update(metric="f1"), "run.tasks.0.metric"),
        (lambda run: run["rows"][1].update(networks="2"), "run.rows.1.networks"),
        (lambda run: run["rows"][1].update(kind="parents"), "run.rows.1.kind"),
        (lambda run: run["groups"][0].update(key=""), "run.groups.0.key"),
    ],
)
def test_a_malformed_run_says_where(synthetic_run, tmp_path, change, message):
    folder = synthetic_run(tmp_path, views=False)
    _changed(folder, RESULTS, lambda document: change(document["run"]))
    with pytest.raises(DataError, match=message):
        read_run(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": [1]}', '{"rows": [{"row": "a"}]}'])
def test_malformed_costs(synthetic_run, tmp_path, text):
    folder = synthetic_run(tmp_path, views=False)
    (folder / COSTS).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="costs"):
        read_run(folder)
