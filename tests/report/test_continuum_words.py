"""Sentences about a continuum: that they follow from its numbers, won or lost."""

import re
from dataclasses import replace

import pytest

from conjoin.records import Interval, Record
from conjoin.report import read_run
from conjoin.report.continuum_findings import continuum_findings, continuum_headline
from conjoin.report.run_folder import ChosenInfo, TriedInfo
from conjoin.report.words import findings, headline

FIGURES = {"continuum", "continuum-transfer"}


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    from synthetic_continuum import Options, write_continuum

    def make(**options):
        options = {"gaps": False, **options}
        return read_run(write_continuum(tmp_path_factory.mktemp("run"), Options(**options)))

    return make


@pytest.fixture(scope="module")
def plain(make):
    return make()


def values(one, own):
    """Give `value` of a synthetic continuum: numbers by strength, equal on both trained tasks."""

    def value(what, profile, strength, task, seed):
        return (one if what == "one network" else own)[strength]

    return value


def only(run, start):
    found = [f.text for f in continuum_findings(run) if start in f.text]
    assert len(found) == 1, [f.text for f in continuum_findings(run)]
    return found[0]


def check(run):
    found = continuum_findings(run)
    for finding in found:
        assert finding.text == finding.text.strip()
        assert finding.text.endswith(".")
        assert "None" not in finding.text
        assert finding.kind in ("result", "explanation", "next")
        assert finding.figure in FIGURES
    everything = findings(run)
    assert all(finding in everything for finding in found)
    assert headline(run).endswith(".")


def test_a_run_without_a_continuum_says_nothing_of_it(synthetic_run, tmp_path):
    run = read_run(synthetic_run(tmp_path, views=False))
    assert continuum_findings(run) == []
    assert continuum_headline(run) is None
    assert "pull them together" not in headline(run)


def test_the_headline_is_about_the_chosen_point(plain, make):
    text = headline(plain)
    assert "strength 1 (“uniform”), chosen on validation data" in text
    assert "96.1 % on “digits” and 91.1 % on “street numbers” on test data (2 seeds)" in text
    assert text.count("1.0 points worse (95 % interval -1.5 to -0.5)") == 2
    merged = [f.text for f in findings(plain) if "merged after training" in f.text]
    assert len(merged) == 1
    assert "“mean + re-estimated statistics” is the best of 4" in merged[0]
    none = make(chosen=None)
    assert headline(none).startswith("“mean + re-estimated statistics” is the best of 4")
    assert not [f for f in findings(none) if "merged after training" in f.text]


def test_what_was_chosen_and_how(plain, make):
    text = only(plain, "On validation data")
    assert "of 8 points of the continuum is that of “uniform” at strength 1." in text
    found = only(make(trainings=5), "A search of 5 trainings")
    assert "chose “uniform” at strength 1 on validation data" in found
    assert "90.0 % at “uniform” 0.1 and 90.0 % at “uniform” 1." in found
    assert "A search of 1 training chose" in only(make(trainings=1), "A search")
    assert not [f for f in continuum_findings(make(chosen=None)) if "validation" in f.text]


def test_winner_loser_and_neither(make):
    own = dict.fromkeys(("0", "0.1", "1", "10", "inf"), 95.0)
    for one, half, said in (
        (97.0, 0.5, "2.0 points better (95 % interval +1.5 to +2.5)"),
        (93.0, 0.5, "2.0 points worse (95 % interval -2.5 to -1.5)"),
        (95.2, 0.5, "no different, within the error (+0.2 points, 95 % interval -0.3 to +0.7)"),
    ):
        run = make(value=values({**own, "1": one}, own), half=half, transfer=False)
        text = only(run, "Against independent specialists")
        assert text.count(said) == 2
        assert headline(run).count(said) == 2
        assert only(run, "Against the two-headed network").count(said) == 2


def test_nothing_is_better_or_worse_without_an_interval(plain):
    run = replace(plain, intervals=(), _views={})
    texts = [headline(run), *(f.text for f in continuum_findings(run))]
    assert not [text for text in texts if re.search(r"\b(better|worse)\b", text)]
    beside = only(run, "Beside independent specialists")
    assert "96.1 % beside 97.1 % on “digits”" in beside
    assert "No interval was computed" in beside
    assert "beside 97.0 % on “digits”" in only(run, "Beside one network on all data")


def test_the_onset_by_hand(make):
    own = dict.fromkeys(("0", "0.1", "1", "10", "inf"), 95.0)
    steady = {"0": 40.0, "0.1": 80.0, "1": 94.5, "10": 95.0, "inf": 95.0}
    run = make(value=values(steady, own), transfer=False)
    text = only(run, "with “uniform” (94.5 %")
    assert text.startswith("Averaging costs less than a point from strength 1 on with “uniform”")
    assert "at 0.1 it is 80.0 % in place of 95.0 %" in text
    hill = {**steady, "inf": 60.0}
    text = only(make(value=values(hill, own), transfer=False), "with “uniform” at strength")
    assert "at strength 1 and 10 only" in text
    assert "at inf one network has 60.0 % in place of 95.0 %" in text
    never = {"0": 40.0, "0.1": 80.0, "1": 90.0, "10": 85.0, "inf": 60.0}
    text = only(make(value=values(never, own), transfer=False), "every strength with “uniform”")
    assert "costs a point or more" in text
    assert "least at 1, where one network has 90.0 % in place of 95.0 %" in text
    always = dict.fromkeys(own, 95.0)
    text = only(
        make(value=values(always, own), transfer=False), "from strength 0 on with “uniform”"
    )
    assert "in place" in text
    assert ";" not in text


def test_what_strength_does_to_the_specialists(plain, make):
    text = only(plain, "What coupling does to the specialists")
    assert "at strength 1 they are" in text
    assert "at strength inf they are 2.0 points worse (95 % interval -2.5 to -1.5)" in text
    run = replace(plain, intervals=(), _views={})
    text = only(run, "What coupling does to the specialists")
    assert "at strength inf they are at 95.1 % beside 97.1 % on “digits”" in text
    # At strength 0 there is nothing that coupling did.
    text = only(make(chosen=("uniform", "0")), "What coupling does to the specialists")
    assert "at strength 0" not in text


def test_no_coupling_may_be_the_best(make):
    run = make(chosen=("uniform", "0"))
    assert headline(run).startswith("No strength of coupling gave a better single network")
    assert "no coupling at all" in only(run, "On validation data")


def test_the_unseen_domain(plain, make):
    text = only(plain, "which no network was trained on, the single network")
    assert "at strength 1 has 76.1 %" in text
    assert "20.1 % for the mean of independent networks" in text
    assert "73.1 % for that at strength inf" in text
    assert "80.0 % for one network on all data" in text
    more = Interval("uniform 1: one network", "references: one network on all data", "handwriting",
                    "accuracy", -3.9, -4.5, -3.3, 0.95, 2, 2000)  # fmt: skip
    text = only(replace(plain, intervals=(*plain.intervals, more), _views={}), "which no network")
    assert "Against one network on all data, it is 3.9 points worse" in text
    bare = make(unseen=False)
    assert not [f for f in continuum_findings(bare) if "which no network" in f.text]


def test_transfer_at_the_fewest_labels(plain):
    text = only(plain, "Trained further")
    assert "on 10 labels of “handwriting”" in text
    assert "has 66.2 % and the mean of independent networks, 51.2 %." in text


def test_next_steps(plain, make):
    assert not [f for f in continuum_findings(plain) if f.kind == "next"]
    edge = only(make(chosen=("uniform", "10"), transfer=False), "Measure more strengths")
    assert "is the strongest of the finite ones" in edge
    edge = only(make(chosen=("uniform", "0.1"), transfer=False), "Measure more strengths")
    assert "is the weakest of the finite ones" in edge
    one = make(seeds=1, rows=False, references=False)
    assert len([f for f in findings(one) if "more seeds" in f.text]) == 1
    both = make(seeds=1)
    assert len([f for f in findings(both) if "more seeds" in f.text]) == 1


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"seeds": 1},
        {"unseen": False},
        {"references": False},
        {"rows": False},
        {"rows": False, "references": False, "unseen": False, "seeds": 1},
        {"chosen": None},
        {"chosen": ("upstream", "inf")},
        {"chosen": ("nobody", "1")},
        {"strengths": ("1",)},
        {"strengths": ("0", "inf")},
        {"hostile": True},
    ],
    ids=str,
)
def test_every_continuum_has_words(make, options):
    run = make(**options)
    check(run)
    check(replace(run, intervals=(), _views={}))
    for wanted in (
        lambda r: r.seed == 0,
        lambda r: r.split != "validation",
        lambda r: r.split != "test",
        lambda r: r.how.get("what") != "specialists",
        lambda r: r.how.get("what") != "one network",
        lambda r: r.how.get("strength") != "0",
        lambda r: r.how.get("strength") != "inf",
        lambda r: r.task == next(iter(run.tasks)),
    ):
        check(replace(run, records=tuple(filter(wanted, run.records)), _views={}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 0.0])
def test_numbers_that_are_none_do_not_stop_it(plain, value):
    check(replace(plain, records=tuple(replace(r, value=value) for r in plain.records), _views={}))
    odd = [replace(i, value=value, low=value, high=value) for i in plain.intervals]
    check(replace(plain, intervals=tuple(odd), _views={}))


def test_a_regression_is_judged_by_its_loss(make):
    run = make(transfer=False)
    tasks = [task.model_copy(update={"metric": "loss"}) for task in run.info.tasks]
    info = run.info.model_copy(update={"tasks": tasks})
    run = type(run)(run.folder, info, run.records)
    check(run)
    assert "a loss of 0.130 on “digits”" in headline(run)  # (100 - 96.1) / 30
    text = only(run, "with “uniform”;")
    assert text.startswith("Averaging costs a tenth of the loss or more at every strength")
    tried = [TriedInfo(profile="uniform", strength="1", score=-0.25)]
    chosen = ChosenInfo(profile="uniform", strength="1", trainings=3, tried=tried)
    continuum = run.info.continuum.model_copy(update={"chosen": chosen})
    info = run.info.model_copy(update={"continuum": continuum})
    text = only(type(run)(run.folder, info, run.records), "A search of 3 trainings")
    assert "scores were -0.250 at “uniform” 1." in text


def test_records_without_their_keys_are_passed_over(plain):
    odd = [
        Record("nobody", task, "test", 0, "accuracy", 1.0, 1, {"view": view})
        for view in ("continuum", "gap", "continuum transfer")
        for task in ("nothing", "digits")
    ]
    before = [finding.text for finding in continuum_findings(plain)]
    run = replace(plain, records=(*plain.records, *odd), _views={})
    assert [finding.text for finding in continuum_findings(run)] == before
