"""The section of aligned networks: figures, table, sentences; and nothing of it without records."""

import json
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pytest
from page_document import Document

from conjoin.records import Record
from conjoin.report import figures, read_run, save_figures, write_report
from conjoin.report.alignment import WAYS, both, units_of, way
from conjoin.report.charts.drawing import draw, page_svg, print_svg
from conjoin.report.charts.unit_pairs import STEP
from conjoin.report.page.alignment import ALIGNED
from conjoin.report.words import findings

SHOWN = ("row", "interpolation", "barrier", "depth", "activations", "alignment")


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    from synthetic_alignment import add_alignment
    from synthetic_run import without, write_synthetic_run

    def make(*, aligned=1, odd="", **options):
        folder = write_synthetic_run(tmp_path_factory.mktemp("run"), **{"seeds": 2, **options})
        batchnorm, regression = options.get("batchnorm", True), options.get("regression")
        if aligned:
            add_alignment(folder, groups=aligned, odd=odd, batchnorm=batchnorm)
        # What the section says nothing of need not be drawn.
        without(
            folder,
            lambda record: record.how["view"] in SHOWN and (regression or record.metric != "loss"),
        )
        return read_run(folder)

    return make


@pytest.fixture(scope="module")
def run(make):
    return make()


@pytest.fixture(scope="module")
def hostile(make):
    return make(hostile=True, odd="<script>alert(1)</script>\N{RIGHT-TO-LEFT OVERRIDE}")


def by_key(run):
    return {figure.key: figure for figure in figures(run) if figure.key in ALIGNED}


def points(chart):
    return [row for rows in chart.to_dict()["datasets"].values() for row in rows]


def first(figure):
    return next(iter(figure.variants.values()))


def test_figures_are_there_with_records_only(run, make):
    assert set(by_key(run)) == set(ALIGNED)
    without = make(aligned=0, views=False)
    assert by_key(without) == {}
    assert not [f for f in findings(without) if f.figure in ALIGNED]
    assert "Aligned" not in _headings(without)


def _headings(run):
    page = write_report([run.folder]).read_text(encoding="utf-8")
    return [entry[2] for entry in Document(page).all("h2")]


def test_naive_and_aligned_are_of_the_same_networks(run):
    """The view has one group of two, and one seed of two: curves of others are not beside it."""
    records = both(run, "interpolation", "interpolation")
    assert {way(record) for record in records} == set(WAYS)
    assert {record.seed for record in records} == {0}
    assert len({record.how["group"] for record in records}) == 1
    figure = by_key(run)["aligned-interpolation"]
    assert [switch.name for switch in figure.switches] == ["task"]
    for (task,), variant in figure.variants.items():
        drawn = [row for row in points(variant.chart(700)) if "text" in row]
        expected = {
            (way(r), r.how["t"]): r.value
            for r in records
            if (r.task, r.metric) == (task, "accuracy")
        }
        assert {(row["series"], row["at"]): row["value"] for row in drawn} == expected
        for name in WAYS:
            assert f"{name}: " in variant.alt


@pytest.mark.parametrize("width", [340, 700])
def test_maps_have_the_color_of_every_pair(run, width):
    figure = by_key(run)["unit-pairs"]
    assert [switch.options for switch in figure.switches] == [("early: stage 0", "late: stage 2")]
    rows = points(figure.variants[("late: stage 2",)].chart(width))
    titles = {row["title"]: row for row in rows if "title" in row}
    squares = [row for row in rows if "shade" in row]
    for record in run.view("alignment"):
        if record.how.get("place") != "late" or record.how["of"] != "pairs of units":
            continue
        matrix = np.array([row.split() for row in record.how["matrix"]], dtype=float)
        size = len(matrix)
        title = titles["after" if record.how["aligned"] else "before"]
        left = title["x"] - size / 2
        top = min(r["y"] for r in squares if r["y"] > title["y"])
        for (line, column), value in np.ndenumerate(matrix):
            x, y = left + column + 0.5, top + line + 0.5
            inside = [r for r in squares if r["x"] <= x <= r["x2"] and r["y"] <= y <= r["y2"]]
            assert inside
            assert all(abs(r["shade"] - value) <= STEP / 2 + 1e-9 for r in inside)
    said = [row["text"] for row in rows if "text" in row]
    assert len(said) == 2 * size
    assert "units 1, after: correlation 0.90" in said


@pytest.mark.parametrize("matrix", [None, [], ["1 0"], ["x"], ["nan"], 3, [3], "ab"])
def test_a_matrix_that_is_none_is_not_drawn(run, matrix):
    changed = [
        Record(**{**_fields(r), "how": {**r.how, "matrix": matrix}}) if "matrix" in r.how else r
        for r in run.records
    ]
    found = by_key(type(run)(run.folder, run.info, tuple(changed)))
    assert set(found) == set(ALIGNED) - {"unit-pairs"}


def _fields(record):
    return {name: getattr(record, name) for name in Record.__dataclass_fields__}


def test_layers_before_and_after(run):
    found = by_key(run)
    rows = [row for row in points(first(found["aligned-units"]).chart(700)) if "text" in row]
    assert {row["series"] for row in rows} == {"as they were", "aligned"}
    assert [row["value"] for row in rows if row["series"] == "aligned"] == pytest.approx(
        [0.7, 0.6, 0.5]
    )
    rows = [row for row in points(first(found["aligned-variance"]).chart(700)) if "text" in row]
    assert list(dict.fromkeys(row["series"] for row in rows)) == list(WAYS)
    rows = points(first(found["aligned-depth"]).chart(340))
    assert {row["series"] for row in rows if "text" in row} == {"as they were", "aligned"}


def test_the_page_has_the_section(run):
    page = write_report([run.folder]).read_text(encoding="utf-8")
    document = Document(page)
    assert not document.errors
    assert "Aligned" in [entry[2] for entry in document.all("h2")]
    levels = [int(entry[0][1]) for entry in document.all("h1", "h2", "h3", "h4")]
    assert all(b <= a + 1 for a, b in pairwise(levels))
    section = page[page.index('<section id="aligned"') :]
    section = section[: section.index("</section>")]
    assert re.findall(r'<figure id="([^"]+)"', section) == list(ALIGNED)
    others = page.replace(section, "")
    assert not any(f'<figure id="{key}"' in others for key in ALIGNED)
    rows = [Document(row) for row in re.findall(r"<tr>(.*?)</tr>", section)]
    cells = {d.all("th")[0][2]: [e[2] for e in d.all("td")] for d in rows if d.all("td")}
    assert cells["stage 0"] == ["8", "95 %", "90 %", "0.02", "0.70"]
    assert cells["stage 3"] == ["32", "95 %", "", "", ""]  # no layer reads it
    text = document.all("body")[0][2]
    for finding in findings(run):
        if finding.figure in ALIGNED:
            assert finding.text in text


def test_sentences_have_the_numbers(run):
    units, barriers = (f.text for f in findings(run) if f.figure in ALIGNED)
    assert "correlate by 0.60 instead of 0.02 on test data (mean over 3 groups" in units
    assert "80 % are each other's best match" in units  # of those three
    assert "24.0 points aligned and 8.0 points aligned and repaired" in barriers
    naive = [
        r.value
        for r in run.view("barrier")
        if r.how["group"] == "different" and r.seed == 0 and r.metric == "accuracy barrier"
        and not r.how["reestimated"]
    ]  # fmt: skip
    assert f"{np.mean(naive):.1f} points as they are" in barriers


def test_several_groups_have_a_table_and_a_sentence_each(make):
    run = make(aligned=2, groups=2, seeds=1, tasks=1, unseen=False)
    keys = list(run.groups)[1:]
    assert [len(units_of(run, key)) for key in keys] == [4, 4]
    sentences = [f.text for f in findings(run) if f.figure == "aligned-units"]
    assert len(sentences) == 2
    assert all(s.startswith("In “networks number") for s in sentences)
    page = write_report([run.folder]).read_text(encoding="utf-8")
    labels = [e[1].get("aria-label", "") for e in Document(page).all("div")]
    assert len([label for label in labels if label.startswith("Matched units")]) == 2
    for figure in by_key(run).values():
        assert "networks" in [switch.name for switch in figure.switches]


def test_regression_and_networks_without_batchnorm(make):
    run = make(regression=True, tasks=1, batchnorm=False)
    found = by_key(run)
    assert set(found) == set(ALIGNED)
    rows = points(first(found["aligned-interpolation"]).chart(340))
    assert {row["series"] for row in rows if "text" in row} == {"naive", "aligned"}
    assert "accuracy" not in found["aligned-interpolation"].alt
    (text,) = (f.text for f in findings(run) if f.figure == "aligned-interpolation")
    assert "loss rises above the straight line" in text


def test_drawings(hostile):
    for number, figure in enumerate(by_key(hostile).values()):
        for variant in figure.variants.values():
            chart = variant.chart(340)
            chart.to_dict(validate=True)
            svg = draw(chart)
            root = ET.fromstring(page_svg(svg, prefix=f"p{number}-", label="x"))
            assert float(root.get("width")) == 340
            assert "#010203" not in print_svg(svg)
            assert not [e for e in root.iter() if e.tag.endswith(("script", "image"))]


def test_files_of_a_paper(make, tmp_path):
    run = make(tasks=1, seeds=1)
    kept = tuple(r for r in run.records if r.how["view"] == "alignment")
    written = save_figures(type(run)(run.folder, run.info, kept), tmp_path)
    names = {path.name for path in written}
    assert {"unit-pairs-early-stage-0.pdf", "aligned-interpolation.svg"} <= names
    assert json.loads((run.folder / "results.json").read_text())["records"]
