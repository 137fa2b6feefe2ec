"""Which rows a sentence is about."""

from dataclasses import replace
from pathlib import Path

import pytest

from conjoin.records import Interval, Record
from conjoin.report.choice import choose, compared, row_mean, summary_metric
from conjoin.report.run_folder import GroupInfo, RowInfo, Run, RunInfo, TaskInfo, read_run

ROWS = (
    RowInfo(key="a", group="refs", name="a alone", kind="parent"),
    RowInfo(key="b", group="refs", name="b alone", kind="parent"),
    RowInfo(key="best", group="refs", name="best single parent (chosen)", kind="reference"),
    RowInfo(key="all", group="refs", name="one network on all data", kind="reference"),
    RowInfo(key="ens", group="g", name="ensemble", kind="ensemble", networks=2),
    RowInfo(key="thread", group="g", name="the thread's code", kind="control"),
    RowInfo(key="mean", group="g", name="mean"),
    RowInfo(key="fresh", group="g", name="mean + re-estimated"),
    RowInfo(key="told", group="g", name="heads", uses_task_label=True),
    RowInfo(key="two", group="g", name="two networks", networks=2),
    RowInfo(key="once", group="one", name="A twice"),
)

# Row -> (validation, test) on A and on B.
VALUES = {
    "a": ((98, 98), (20, 20)),
    "b": ((50, 50), (90, 90)),
    "best": ((50, 50), (90, 90)),
    "all": ((99, 99), (99, 99)),
    "ens": ((95, 95), (85, 85)),
    "thread": ((99, 99), (99, 99)),
    "mean": ((60, 90), (60, 90)),
    "fresh": ((70, 65), (70, 65)),
    "told": ((99, 99), (99, 99)),
    "two": ((99, 99), (99, 99)),
    "once": ((99, 99), None),
}


def make_run(values=VALUES, *, rows=ROWS, metric="accuracy", parts=("validation", "test")):
    records = [
        Record(row, task, part, 0, metric, float(value), 10, {"view": "row"})
        for row, both in values.items()
        for task, pair in zip("AB", both, strict=True)
        for part, value in zip(("validation", "test"), pair or (), strict=False)
        if part in parts
    ]
    info = RunInfo(
        experiment="compare",
        title="t",
        seeds=[0],
        tasks=[TaskInfo(name=task, metric=metric) for task in "AB"],
        groups=[GroupInfo(key=k, title=k, models=[], tasks=["A"]) for k in ("refs", "g", "one")],
        rows=list(rows),
        specialists={"A": "a", "B": "b"},
    )
    return Run(Path(), info, tuple(records))


def test_the_best_is_chosen_on_validation_data():
    choice = choose(make_run())
    # "mean" has the better test numbers; rows with a task label, several networks, another kind
    # or fewer tasks are no candidates.
    assert (choice.merge.key, choice.chosen_on, choice.candidates) == ("fresh", "validation", 2)
    assert (choice.parent.key, choice.ensemble.key) == ("best", "ens")
    assert [task.name for task in choice.tasks] == ["A", "B"]


def test_without_validation_data_the_choice_says_so():
    choice = choose(make_run(parts=("test",)))
    assert (choice.merge.key, choice.chosen_on) == ("mean", "test")


def test_losses_are_better_when_low():
    assert choose(make_run(metric="loss")).merge.key == "mean"
    assert choose(make_run(metric="loss")).parent.key in ("a", "best")


def test_a_specialist_is_no_merge_even_if_its_kind_is_not_said():
    rows = tuple(row.model_copy(update={"kind": "merge"}) for row in ROWS[:2]) + ROWS[6:8]
    assert choose(make_run(rows=rows)).candidates == 2
    assert choose(make_run(rows=rows)).parent is None


def test_a_group_with_parents_of_its_own_uses_them():
    own = RowInfo(key="own", group="g", name="own alone", kind="parent")
    run = make_run(VALUES | {"own": ((10, 10), (10, 10))}, rows=(*ROWS, own))
    assert choose(run).parent.key == "own"


def test_nothing_is_chosen_from_nothing():
    assert choose(make_run({})) is None
    assert choose(make_run({"a": VALUES["a"]}, rows=ROWS[:1])) is None
    assert choose(make_run(rows=())) is None
    run = make_run()
    assert choose(replace(run, info=run.info.model_copy(update={"tasks": []}))) is None


def test_a_row_that_failed_is_not_the_best():
    failed = {"mean": ((float("nan"), 90), (60, 90))}
    assert choose(make_run(VALUES | failed)).merge.key == "fresh"


def test_a_partial_run_is_judged_on_what_most_rows_have():
    values = {"mean": ((60, 90), None), "fresh": ((70, 65), None)}
    choice = choose(make_run(values))
    assert (choice.merge.key, [task.name for task in choice.tasks]) == ("fresh", ["A"])
    assert (choice.parent, choice.ensemble) == (None, None)


def test_means_by_hand():
    run = make_run()
    tasks = list(run.tasks.values())
    mean = run.rows["mean"]
    assert row_mean(run, mean, tasks, "accuracy") == 90
    assert row_mean(run, mean, tasks, "accuracy", "validation") == 60
    assert row_mean(run, run.rows["once"], tasks, "accuracy") is None
    assert row_mean(run, mean, [], "accuracy") is None
    assert summary_metric(tasks) == "accuracy"
    assert summary_metric([*tasks, TaskInfo(name="C", metric="loss")]) is None


def test_an_interval_can_be_read_backwards():
    one = Interval("mean", "ens", "A", "accuracy", -2.0, -5.0, 1.0, 0.95, 1, 10)
    run = replace(make_run(), intervals=(one,))
    task = run.tasks["A"]
    assert compared(run, "mean", "ens", task) == one
    back = compared(run, "ens", "mean", task)
    assert (back.value, back.low, back.high) == (2.0, -1.0, 5.0)
    assert (back.model, back.against) == ("ens", "mean")
    assert compared(run, "mean", "a", task) is None


@pytest.mark.parametrize("hostile", [False, True])
def test_a_written_run_has_a_choice(synthetic_run, tmp_path, hostile):
    run = read_run(synthetic_run(tmp_path, hostile=hostile, views=False))
    choice = choose(run)
    assert choice.merge.kind == "merge"
    assert choice.chosen_on == "validation"
    assert choice.candidates == 8
    assert choice.ensemble.group == choice.merge.group
    assert choice.parent.kind in ("parent", "reference")
