"""The section of the continuum on the page."""

import re

import pytest
from page_document import Document

from conjoin.report import read_run, write_report
from conjoin.report.continuum import continuum_of
from conjoin.report.continuum_table import continuum_lines
from conjoin.report.words import findings, headline


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    from synthetic_continuum import Options, write_continuum

    def make(**options):
        folder = write_continuum(tmp_path_factory.mktemp("run"), Options(**options))
        return read_run(folder), write_report([folder]).read_text(encoding="utf-8")

    return make


@pytest.fixture(scope="module")
def full(make):
    return make()


NAMES = ("<script>alert(1)</script>", '"]]>--> &amp; \N{RIGHT-TO-LEFT OVERRIDE}')


@pytest.fixture(scope="module")
def hostile(make):
    return make(hostile=True, seeds=1, names=NAMES, chosen=(NAMES[0], "1"), strengths=("0", "1"))


def section(page):
    return re.search(r'<section id="along".*?</section>', page, re.DOTALL)[0]


def test_it_comes_right_after_the_table(full):
    _, page = full
    titles = [entry[2] for entry in Document(page).all("h2")]
    assert titles == [
        "Table",
        "The continuum",
        "Findings",
        "Figures",
        "Left out",
        "How it was made",
    ]
    found = Document(section(page))
    assert [entry[2] for entry in found.all("h3")] == [
        "From independent networks to one",
        "Every point",
        "How far apart the networks are while they train",
        "As a start for a new task, by strength",
    ]
    assert "At strength 0 they are independent" in found.all("p")[0][2]
    assert "At infinity their weights are one tensor" in found.all("p")[0][2]


def test_a_run_without_a_continuum_has_no_such_section(synthetic_run, tmp_path):
    page = write_report([synthetic_run(tmp_path, views=False, seeds=1)]).read_text(encoding="utf-8")
    assert 'id="along"' not in page


@pytest.mark.parametrize("which", ["full", "hostile"])
def test_structure(which, request):
    _, page = request.getfixturevalue(which)
    document = Document(page)
    assert not document.errors
    ids = [entry[1]["id"] for entry in document.elements if "id" in entry[1]]
    assert len(ids) == len(set(ids))
    for link in document.all("a"):
        assert link[1]["href"][1:] in ids
    for drawing in document.all("svg"):
        assert drawing[1]["aria-label"].strip()
    assert all(entry[1].get("scope") for entry in document.all("th"))
    assert len(document.all("script")) == 1


def test_the_control_for_the_profile_has_every_drawing(full):
    _, page = full
    document = Document(section(page))
    legends = [entry[2] for entry in document.all("legend")]
    assert legends == ["profile", "range", "profile", "strength"]
    figure = re.search(r'<figure id="continuum".*?</figure>', page, re.DOTALL)[0]
    assert re.findall(r'data-variant="([\d ]+)"', figure) == ["0 0", "0 1", "1 0", "1 1"]
    assert re.findall(r'<div data-variant="[\d ]+"( hidden)?>', figure) == ["", *[" hidden"] * 3]
    gaps = re.search(r'<figure id="gap".*?</figure>', page, re.DOTALL)[0]
    assert len(re.findall(r"data-variant=", gaps)) == 2 * 5


def test_the_table_has_every_cell(full):
    run, page = full
    table = re.search(r"<table>.*?</table>", section(page), re.DOTALL)[0]
    rows = [Document(row) for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)]
    rows = [row for row in rows if row.all("td")]
    lines = [o for o in continuum_lines(run, continuum_of(run)) if o.kind == "row"]
    assert len(rows) == len(lines)
    for row, line in zip(rows, lines, strict=True):
        assert row.all("th")[0][2] == line.name + ("chosen" if line.chosen else "")
        for (_, _, text), cell in zip(row.all("td"), line.cells, strict=True):
            if cell is None:
                assert text == ""
                continue
            assert text.startswith(f"{cell.mean:.1f}")
            if cell.interval is not None:
                ends = f"[{cell.interval.low:+.1f}, {cell.interval.high:+.1f}]"
                assert ends.replace("-0.0", "+0.0") in text.replace("-0.0", "+0.0")


def test_what_is_said(full):
    run, page = full
    document = Document(page)
    said = [e[2] for e in document.all("p") if e[1].get("class") == "headline"]
    assert said == [headline(run)]
    items = [e[2] for e in document.all("li")]
    for finding in findings(run):
        assert any(item.startswith(finding.text) for item in items)


def test_hostile_names_are_shown_as_text(hostile):
    _, page = hostile
    text = Document(section(page)).all("section")[0][2]
    assert NAMES[0] in text
    assert '"]]>--> &amp; \\u202e' in text
    assert NAMES[0] not in page


def test_a_continuum_alone_is_a_page(make):
    _, page = make(rows=False, references=False, unseen=False, gaps=False, seeds=1,
                   strengths=("0", "1", "inf"))  # fmt: skip
    document = Document(page)
    assert not document.errors
    assert next(e[2] for e in document.all("h2")) == "The continuum"
    assert "Nothing has been measured" not in page
    assert 'id="gap"' not in page


def test_runs_beside_each_other_show_both(make):
    bare = {"seeds": 1, "gaps": False, "transfer": False, "rows": False, "unseen": False}
    first, second = (make(**bare, strengths=("0", end))[0].folder for end in ("1", "inf"))
    page = write_report([first, second]).read_text(encoding="utf-8")
    assert not Document(page).errors
    for number in (1, 2):
        assert page.count(f'<figure id="run{number}-continuum"') == 1
