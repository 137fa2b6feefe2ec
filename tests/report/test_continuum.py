"""The continuum read, and its table, against values worked by hand."""

import io
import json

import pytest
from rich.console import Console

from conjoin.errors import DataError
from conjoin.report import read_run
from conjoin.report.continuum import Point, continuum_of, strength_label
from conjoin.report.continuum_table import (
    columns_of,
    continuum_legend,
    continuum_lines,
    shown_continuum_cell,
)
from conjoin.report.table import lines_of, markdown_table, print_table


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    from synthetic_continuum import Options, write_continuum

    def make(**options):
        return read_run(write_continuum(tmp_path_factory.mktemp("run"), Options(**options)))

    return make


@pytest.fixture(scope="module")
def small(make):
    return make(gaps=False, transfer=False)


def printed(run, width=200):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_table(run, console)
    return console.file.getvalue()


def rows_of(run):
    continuum = continuum_of(run)
    found, profile = {}, None
    for line in continuum_lines(run, continuum):
        if line.kind == "section":
            profile = line.name
        else:
            found[profile, line.name] = line
    return found


def test_a_run_without_a_continuum_has_none(synthetic_run, tmp_path):
    run = read_run(synthetic_run(tmp_path, views=False))
    assert continuum_of(run) is None
    assert "continuum" not in printed(run)
    assert "continuum" not in markdown_table(run)


def test_a_curve_takes_over_what_its_profile_shares(small):
    continuum = continuum_of(small)
    assert continuum.strengths == ("0", "0.1", "1", "10", "inf")
    assert continuum.curve("uniform") == {s: Point("uniform", s) for s in continuum.strengths}
    second = continuum.curve("upstream")
    assert list(second) == list(continuum.strengths)
    owners = [second[strength].profile for strength in second]
    assert owners == ["uniform", "upstream", "upstream", "upstream", "uniform"]
    assert continuum.chosen() == Point("uniform", "1")
    assert continuum.independent() == Point("uniform", "0")


def test_a_chosen_point_that_is_shared_is_the_recorded_one(make):
    run = make(chosen=("upstream", "inf"), gaps=False, transfer=False)
    assert continuum_of(run).chosen() == Point("uniform", "inf")
    assert [name for (_, name), line in rows_of(run).items() if line.chosen] == ["inf (one tensor)"]


def test_profiles_that_name_each_other_at_infinity_come_to_an_end(small):
    from synthetic_continuum import rewrite_run

    def change(run):
        for profile, other in zip(
            run["continuum"]["profiles"], ("upstream", "uniform"), strict=True
        ):
            profile["same_at_infinity"] = other

    run = read_run(rewrite_run(small.folder, change))
    for profile in ("uniform", "upstream"):
        assert continuum_of(run).curve(profile)["inf"] == Point("uniform", "inf")


def test_the_table_has_the_means_worked_by_hand(small):
    rows = rows_of(small)
    assert list(rows)[:5] == [
        ("uniform", strength_label(s)) for s in ("0", "0.1", "1", "10", "inf")
    ]
    assert list(rows)[5:] == [
        ("upstream", "0.1"),
        ("upstream", "1"),
        ("upstream", "10"),
        ("references", "one network on all data"),
    ]
    # One network on both tasks, their mean, the unseen task; heads; specialists. Seeds are 0.2
    # apart: means are 0.1 higher than what `hand_value` says for the first.
    expected = [96.1, 91.1, 93.6, 76.1, 97.1, 92.1, 97.6, 92.6]
    assert [cell.mean for cell in rows["uniform", "1"].cells] == pytest.approx(expected)
    spreads = [cell.spread for cell in rows["uniform", "1"].cells]
    assert spreads[2] is None
    assert spreads[:2] + spreads[3:] == pytest.approx([0.2 / 2**0.5] * 7)
    below = [value - 1 for value in expected]
    assert [cell.mean for cell in rows["upstream", "1"].cells] == pytest.approx(below)
    last = rows["references", "one network on all data"].cells
    assert [cell and cell.mean for cell in last] == [97.0, 92.0, 94.5, 80.0, None, None, None, None]


def test_columns_say_what_is_told_the_task(small):
    headings = [column.heading for column in columns_of(small, continuum_of(small))]
    assert headings == [
        ("one network", "digits"),
        ("one network", "street numbers"),
        ("one network", "mean"),
        ("one network", "handwriting (unseen)"),
        ("heads *", "digits"),
        ("heads *", "street numbers"),
        ("specialists *", "digits"),
        ("specialists *", "street numbers"),
    ]


def test_differences_are_those_from_the_independent_specialist(small):
    rows = rows_of(small)
    found = rows["uniform", "1"].cells[0].interval
    assert (found.against, found.task) == ("uniform 0: specialists", "digits")
    assert found.value == pytest.approx(-1.0)
    assert rows["uniform", "0 (independent)"].cells[6].interval is None  # that is itself


def test_every_form_of_the_table_has_every_cell(small):
    continuum = continuum_of(small)
    columns = columns_of(small, continuum)
    wide, narrow, text = printed(small, 200), printed(small, 80), markdown_table(small)
    assert max(map(len, narrow.splitlines())) <= 80
    for line in continuum_lines(small, continuum):
        if line.kind == "section":
            assert line.name in wide
            assert f"**{line.name}**" in text
            continue
        cells = [
            shown_continuum_cell(c, o.metric) for c, o in zip(line.cells, columns, strict=True)
        ]
        mark = " (chosen)" if line.chosen else ""
        (row,) = [r for r in text.splitlines() if _cells(r)[:1] == [f"{line.name}{mark}"]
                  and _cells(r)[1:] == cells]  # fmt: skip
        assert row.startswith("| **") == line.chosen
        assert any(_cells(r)[-len(cells) :] == cells for r in wide.splitlines())
        assert all(cell in narrow for cell in cells)


def _cells(row):
    """The cells of a row of a table, as a terminal or Markdown has it."""
    inside = row.replace("│", "|").strip()[1:-1]
    return [cell.strip().removeprefix("**").removesuffix("**") for cell in inside.split("|")]


def test_the_table_of_rows_is_not_changed_by_a_continuum(small, synthetic_run, tmp_path):
    plain = read_run(synthetic_run(tmp_path, seeds=2, groups=1, views=False))
    assert lines_of(small)[: len(lines_of(plain))] == lines_of(plain)
    assert markdown_table(small).startswith("Accuracy on test data, percent:\n\n| network |")


def test_the_legend_says_what_stands_where(small, make):
    legend = continuum_legend(small, continuum_of(small))
    assert "Mean over 2 seeds, ± their standard deviation." in legend
    assert any("At strength 0" in note and "“uniform”" in note for note in legend)
    assert "At inf, “upstream” is “uniform”." in legend
    assert "The chosen point was chosen on validation data." in legend
    assert not any("not complete" in note for note in legend)
    one = make(seeds=1, chosen=None, gaps=False, transfer=False)
    legend = continuum_legend(one, continuum_of(one))
    assert legend[0] == "One seed."
    assert not any("chosen" in note for note in legend)
    assert all(cell.spread is None for line in rows_of(one).values() for cell in line.cells if cell)


def test_a_point_that_lacks_a_seed_is_admitted(make):
    from synthetic_run import without

    run = make(gaps=False, transfer=False)
    without(
        run.folder, lambda r: r.model != "uniform 10: heads" or r.seed == 0 or r.split != "test"
    )
    run = read_run(run.folder)
    assert "not complete" in printed(run)
    assert rows_of(run)["uniform", "10"].cells[4].spread is None


def test_a_continuum_alone_has_no_empty_table_of_rows(make):
    run = make(rows=False, references=False, gaps=False, transfer=False)
    assert markdown_table(run).startswith("The continuum, on test data: accuracy, percent:")
    assert printed(run).startswith("The continuum, on test data")
    assert "Nothing has been measured" not in printed(run)


def test_without_unseen_and_without_references(make):
    run = make(unseen=False, references=False, gaps=False, transfer=False)
    headings = [column.heading[1] for column in columns_of(run, continuum_of(run))]
    assert "handwriting (unseen)" not in headings
    assert ("references", "one network on all data") not in rows_of(run)
    assert all(c.interval is None for line in rows_of(run).values() for c in line.cells if c)


def test_a_reference_of_a_profile_that_is_not_listed_stands_in_its_columns(make):
    from synthetic_continuum import rewrite_run

    run = make(gaps=False, transfer=False)
    before = rows_of(run)["upstream", "10"].cells

    def change(about):
        about["continuum"]["profiles"].pop()
        about["continuum"]["references"]["two-headed"] = "upstream 10: heads"

    rows = rows_of(read_run(rewrite_run(run.folder, change)))
    assert ("upstream", "10") not in rows
    cells = rows["references", "two-headed"].cells
    assert [cell and cell.mean for cell in cells] == [
        None, None, None, None, before[4].mean, before[5].mean, None, None
    ]  # fmt: skip


def test_strengths_that_only_a_search_tried_are_shown(make):
    from synthetic_continuum import rewrite_run

    run = make(gaps=False, transfer=False)
    rewrite_run(run.folder, lambda r: r["continuum"].update(strengths=["0", "inf"]))
    assert continuum_of(read_run(run.folder)).strengths == ("0", "0.1", "1", "10", "inf")


def test_records_that_belong_to_no_point_are_passed_over(make):
    run = make(gaps=False, transfer=False)
    before = continuum_lines(run, continuum_of(run))
    path = run.folder / "results.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    (first, *_) = [r for r in document["records"] if r["how"]["view"] == "continuum"]
    for change in ({"strength": "strong"}, {"strength": 1}, {"strength": "nan"}, {"strength": "-1"},
                   {"profile": "nobody's"}, {"what": "three networks"}):  # fmt: skip
        document["records"].append({**first, "value": 1.0, "how": first["how"] | change})
    document["records"].append({**first, "task": "nothing"})
    path.write_text(json.dumps(document), encoding="utf-8")
    run = read_run(run.folder)
    assert continuum_lines(run, continuum_of(run)) == before


def test_hostile_names_stand_as_text(make):
    names = ("a|b*c\n# [bold]d[/bold]", "<script>\x1b[31m\N{RIGHT-TO-LEFT OVERRIDE}")
    run = make(hostile=True, names=names, chosen=(names[0], "1"), gaps=False, transfer=False)
    assert len(rows_of(run)) == 9
    text = printed(run, 400)
    assert "a|b*c # [bold]d[/bold]" in text
    assert "\\x1b[31m\\u202e" in text
    assert "**a\\|b\\*c \\# \\[bold\\]d\\[/bold\\]**" in markdown_table(run)
    assert markdown_table(run).isprintable() or "\x1b" not in markdown_table(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("profiles"), "run.continuum.profiles"),
        (lambda c: c.update(strengths=["-1"]), "run.continuum.strengths.0"),
        (lambda c: c.update(strengths=["nan"]), "a strength is a number from 0 to inf"),
        (lambda c: c.update(strengths=["strong"]), "run.continuum.strengths.0"),
        (lambda c: c.update(strengths=[0.1]), "run.continuum.strengths.0"),
        (lambda c: c["profiles"][0].update(name=""), "run.continuum.profiles.0.name"),
        (lambda c: c["chosen"].pop("strength"), "run.continuum.chosen.strength"),
        (lambda c: c.update(surprise=1), "run.continuum.surprise"),
    ],
)
def test_a_malformed_continuum_says_where(make, change, message):
    from synthetic_continuum import rewrite_run

    run = make(seeds=1, gaps=False, transfer=False, rows=False)
    rewrite_run(run.folder, lambda r: change(r["continuum"]))
    with pytest.raises(DataError, match=message):
        read_run(run.folder)
