"""Sentences: that they follow from the numbers, and that any run has them."""

import json
import re
from dataclasses import replace

import pytest

from conjoin.records import Record
from conjoin.report.choice import choose
from conjoin.report.formats import number
from conjoin.report.run_folder import read_run
from conjoin.report.table import cells_of, lines_of
from conjoin.report.words import Finding, findings, headline

FIGURES = {"rows", "interpolation", "plane", "depth", "activations", "distances", "transfer", None}

VARIANTS = [
    {},
    {"seeds": 1},
    {"tasks": 1},
    {"tasks": 1, "seeds": 1, "groups": 1, "unseen": False},
    {"tasks": 3, "groups": 1},
    {"tasks": 4, "groups": 1, "batchnorm": False},
    {"regression": True},
    {"regression": True, "tasks": 1, "seeds": 1},
    {"regression": True, "tasks": 4, "groups": 1},
    {"views": False},
    {"unseen": False},
    {"hostile": True},
]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Give the run of a variant, written once."""
    from synthetic_run import write_synthetic_run

    found = {}

    def run(**settings):
        key = json.dumps(settings, sort_keys=True)
        if key not in found:
            found[key] = read_run(write_synthetic_run(tmp_path_factory.mktemp("run"), **settings))
        return found[key]

    return run


def keep(run, wanted):
    return replace(run, records=tuple(r for r in run.records if wanted(r)), _views={})


def texts(run):
    return [headline(run), *(finding.text for finding in findings(run))]


def check(run):
    found = findings(run)
    for text in (headline(run), *(finding.text for finding in found)):
        assert text == text.strip()
        assert text.endswith(".")
        assert "None" not in text
    for finding in found:
        assert finding.kind in ("result", "explanation", "next")
        assert finding.figure in FIGURES


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_every_run_has_words(written, settings):
    run = written(**settings)
    check(run)
    # What is left of a run: no intervals, no costs, only some seeds, tasks, views or rows.
    check(replace(run, intervals=(), costs=(), _views={}))
    check(keep(run, lambda record: record.seed == 0))
    check(keep(run, lambda record: record.split != "validation"))
    check(keep(run, lambda record: record.task == next(iter(run.tasks))))
    check(keep(run, lambda record: not record.how.get("reestimated")))
    for view in {record.how["view"] for record in run.records}:
        check(keep(run, lambda record, view=view: record.how["view"] == view))
        check(keep(run, lambda record, view=view: record.how["view"] != view))
    for row in list(run.rows)[::4]:
        check(keep(run, lambda record, row=row: record.model != row))
    for kind in ("merge", "parent", "ensemble"):
        check(keep(run, lambda r, kind=kind: run.rows.get(r.model) is None
                   or run.rows[r.model].kind != kind))  # fmt: skip


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 0.0])
def test_numbers_that_are_none_do_not_stop_it(written, settings, value):
    run = written(**settings)
    check(replace(run, records=tuple(replace(r, value=value) for r in run.records), _views={}))
    odd = [replace(i, value=value, low=value, high=value) for i in run.intervals]
    check(replace(run, intervals=tuple(odd), _views={}))


def numbers_in(text):
    return re.findall(r"(?<![\w.])\d+\.\d+(?:e[+-]?\d+)?", text)


@pytest.mark.parametrize(
    "settings", [{}, {"tasks": 1}, {"tasks": 3}, {"regression": True}, {"seeds": 1}], ids=str
)
def test_every_number_of_the_headline_is_in_the_table(written, settings):
    run = written(**settings)
    metric = "loss" if settings.get("regression") else "accuracy"
    allowed = {number(line.mean, metric) for line in lines_of(run) if line.mean is not None}
    for cell in cells_of(run).values():
        for value in (cell.mean, cell.difference, cell.low, cell.high):
            allowed |= set() if value is None else {number(abs(value), metric)}
    found = numbers_in(headline(run))
    assert len(found) >= 6
    assert set(found) <= allowed


def test_headline_by_hand(written):
    run = written(groups=1, unseen=False, views=False)
    choice = choose(run)
    cells = cells_of(run)
    mine = [cells[choice.merge.key, task] for task in run.tasks]
    other = [cells["references: best single parent (chosen on validation data)", task]
             for task in run.tasks]  # fmt: skip
    ensemble = [cells["different: ensemble of outputs", task] for task in run.tasks]

    def mean(found):
        return f"{sum(cell.mean for cell in found) / 2:.1f} %"

    def worse(cell):
        return (
            f"{-cell.difference:.1f} points worse "
            f"(95 % interval {cell.low:+.1f} to {cell.high:+.1f})"
        )

    assert headline(run) == (
        "“mean + re-estimated statistics” is the best of 4 merged networks on validation data: "
        f"on test data it has {mean(mine)} on average over “digits” and “street numbers” (best "
        f"single parent {mean(other)}, ensemble of 2 networks {mean(ensemble)}, 3 seeds); against "
        f"the specialist of each task, it is {worse(mine[0])} on “digits” and {worse(mine[1])} on "
        "“street numbers”."
    )


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_nothing_is_better_or_worse_where_intervals_include_zero(written, settings):
    run = written(**settings)
    wide = [replace(i, low=-abs(i.value) - 1, high=abs(i.value) + 1) for i in run.intervals]
    wide = replace(run, intervals=tuple(wide), _views={})
    said = " ".join(texts(wide))
    claims = r"\b(better|worse)\b(?! than it is)"
    assert not re.search(claims, said)
    assert "no different, within the error" in said
    assert re.search(claims, " ".join(texts(run)))
    none = " ".join(texts(replace(run, intervals=(), _views={})))
    assert not re.search(claims, none)
    assert "no interval was computed" in headline(replace(run, intervals=(), _views={}))


def test_a_choice_on_test_data_is_admitted(written):
    run = keep(written(), lambda record: record.split == "test")
    assert "makes it look better than it is" in headline(run)
    assert "makes it look" not in headline(written())


def test_without_networks_that_run(written):
    run = keep(written(), lambda record: record.how["view"] == "distances")
    assert headline(run).startswith("No network was run")
    assert len(numbers_in(headline(run))) == 2
    assert {finding.figure for finding in findings(run)} == {"distances"}
    nothing = keep(run, lambda record: False)
    assert headline(nothing) == "Nothing has been measured in this run yet."
    assert findings(nothing) == []


def test_hostile_names_stand_as_they_are(written):
    run = written(hostile=True)
    choice = choose(run)
    said = " ".join(texts(run))
    for name in (choice.merge.name, *(task.name for task in choice.tasks)):
        assert name in said


def test_results_come_first(written):
    kinds = [finding.kind for finding in findings(written())]
    assert kinds == sorted(kinds, key=("result", "explanation", "next").index)
    assert set(kinds) == {"result", "explanation", "next"}


def one(run, start, **wanted):
    found = [f for f in findings(run) if start in f.text]
    assert len(found) == 1, [f.text for f in findings(run)]
    for name, value in wanted.items():
        assert getattr(found[0], name) == value
    return found[0].text


def with_values(run, view, change):
    """Change the values of a view."""
    records = [replace(r, value=change(r)) if r.how.get("view") == view else r for r in run.records]
    return replace(run, records=tuple(records), _views={})


def test_barrier_by_hand(written):
    run = written(groups=1)

    def sizes(raw, fresh):
        return with_values(run, "barrier", lambda r: fresh if r.how["reestimated"] else raw)

    half = sizes(40.0, 10.0)
    assert "falls up to 40.0 points below" in one(half, "the barrier, mean", kind="result")
    assert "from 40.0 to 10.0 points: 75 % of it" in one(half, "lower the barrier from")
    assert "from 40.0 to 10.0 points here" in one(half, "Re-estimate BatchNorm", kind="next")
    more = one(sizes(40.0, 50.0), "do not lower the barrier", kind="explanation")
    assert "50.0 points with them and 40.0 points without" in more
    assert not [f for f in findings(sizes(40.0, 50.0)) if "Re-estimate BatchNorm" in f.text]
    assert "hardly any" in one(sizes(0.5, 0.2), "0.5 points below")
    assert not [f for f in findings(sizes(0.5, 0.2)) if "Align the hidden" in f.text]
    assert "barrier of 10.0 points is left" in one(half, "Align the hidden", kind="next")
    assert "barrier of 40.0 points is left" in one(sizes(40.0, 50.0), "Align the hidden")
    assert "not yet in conjoin" in one(half, "Align the hidden")


def test_activations_by_hand(written):
    run = written(groups=1)

    def values(variance, correlation):
        return with_values(
            run,
            "activations",
            lambda r: variance[r.how["index"] - 1] if "variance" in r.metric else correlation,
        )

    low = values((1.0, 0.9, 0.25, 0.5, 0.6), 0.125)
    assert "collapses: relative to its parents, the lowest of 5 layers is 0.25, at “stage 3”" in (
        one(low, "activation variance", kind="explanation", figure="activations")
    )
    assert "0.12 (mean over 5 layers): a unit of one is mostly not" in one(
        low, "correlate by 0.12 ("
    )
    high = values((1.0, 0.9, 0.75, 0.8, 0.8), 0.75)
    assert "does not collapse" in one(high, "activation variance")
    assert "mostly do the same" in one(high, "correlate by 0.75 (")
    assert not [f for f in findings(high) if "Align the hidden" in f.text]


def test_depth_by_hand(written):
    run = written(groups=1)
    first, only = (98.0, 97.5, 97.25, 60.0, 50.0, 40.0), (None, 97.0, 90.0, 80.0, 95.0, 97.0)

    def values(by_mode):
        return with_values(run, "depth", lambda r: by_mode[r.how["mode"]][r.how["index"]])

    found = values({"first": first, "only": only})
    assert "“stage 3” does the most damage" in one(found, "damage", figure="depth")
    assert "goes from 98.0 % to 80.0 %" in one(found, "damage")
    step = one(found, "merge only the first 2 of 5 layers", kind="next")
    assert "up to “stage 2”" in step
    assert "97.2 % then, and 40.0 %" in step
    harmless = values({"first": (98.0,) * 6, "only": (None, *(97.5,) * 5)})
    assert "no single layer" in one(harmless, "damage").lower()
    assert not [f for f in findings(harmless) if "merge only" in f.text or "cheaply" in f.text]
    at_once = values({"first": (98.0, 90.0, 80.0, 70.0, 60.0, 50.0), "only": only})
    assert "from 98.0 % to 90.0 %" in one(at_once, "Nothing can be shared cheaply")


def test_transfer_compares_at_the_fewest_labels_and_not_at_none(written):
    text = one(written(), "Trained further", kind="result", figure="transfer")
    assert "on 10 labels of “handwriting”" in text
    assert "“a new network, never trained”" in text
    records = [
        replace(r, model="other") if r.how["view"] == "transfer" else r for r in written().records
    ]
    assert text in texts(replace(written(), records=tuple(records), _views={}))
    without = keep(written(), lambda record: record.how.get("labels") in (None, 0))
    assert not [f for f in findings(without) if f.figure == "transfer"]


def test_an_unseen_domain_is_compared_with_every_parent(written):
    text = one(written(), "which no network was trained on", kind="result")
    for name in ("first network alone", "second network alone", "the ensemble"):
        assert name in text
    assert "Against the best single parent it is" in text
    assert not [f for f in findings(written(unseen=False)) if "no network was trained on" in f.text]


def test_seeds_and_starts(written):
    assert "there is 1" in one(written(seeds=1), "more seeds", kind="next")
    assert not [f for f in findings(written()) if "more seeds" in f.text]
    assert "one initialization" in one(written(), "cosine between their weights", kind="next")
    near = with_values(written(), "distances", lambda record: 0.9)
    assert not [f for f in findings(near) if "cosine between their weights" in f.text]


def test_two_groups_are_compared_by_the_same_row(written):
    text = one(written(), "The same row in other groups", kind="result")
    assert "“networks number 0, combined”" in text
    assert "“networks number 1, combined”" in text
    assert not [f for f in findings(written(groups=1)) if "other groups" in f.text]


def test_a_row_that_is_told_the_task_is_named_where_it_is_ahead(written):
    assert "two-headed network" in one(written(), "separate heads", kind="next")
    run = written()
    equal = with_values(run, "row", lambda record: 50.0)
    assert not [f for f in findings(equal) if "separate heads" in f.text]


def test_findings_are_values():
    assert Finding("a", "result") == Finding("a", "result", None)


def test_costs_are_those_of_the_best_row(written):
    run = written()
    choice = choose(run)
    costs = [c for c in run.costs if c.row == choice.merge.key]
    text = one(run, "s to make", kind="result", figure=None)
    assert f"took {sum(c.make_seconds for c in costs) / 3:.3g} s to make" in text
    assert "290,000 parameters" in text
    assert "580,000" in text


def test_records_of_no_known_row_or_task_are_passed_over(written):
    run = written()
    odd = [
        Record("nobody", "nothing", "test", 0, "accuracy", 1.0, 1, {"view": view})
        for view in ("row", "interpolation", "barrier", "depth", "activations", "transfer", "x")
    ]
    check(replace(run, records=(*run.records, *odd), _views={}))


def test_what_was_chosen_is_said(written):
    run = written()
    merge = choose(run).merge.key
    shares = {0: 0.7, 1: 0.7, 2: 0.9}

    def chosen(shares):
        records = [
            replace(r, how={**r.how, "chosen": {"share": shares[r.seed], "of": "the second"}})
            if r.model == merge
            else r
            for r in run.records
        ]
        return texts(replace(run, records=tuple(records), _views={}))

    assert (
        sum(
            "the share of “the second” was chosen on validation data" in text
            for text in chosen(shares)
        )
        == 1
    )
    assert any(text.endswith(": 0.7, 0.7 and 0.9, seed by seed.") for text in chosen(shares))
    same = chosen(dict.fromkeys(shares, 0.5))
    assert any(text.endswith("was chosen on validation data: 0.5.") for text in same)
    assert not any("was chosen on validation data:" in text for text in texts(run))
