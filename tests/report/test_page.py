"""The page as a document: structure, escaping, policy, numbers."""

import base64
import hashlib
import io
import json
import re
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from page_document import Document
from PIL import Image
from safetensors.torch import save_file

from conjoin.errors import DataError, InputError
from conjoin.report import read_run, write_report
from conjoin.report.page.html import Markup, element, render
from conjoin.report.page.pictures import filter_sheet, png_uri, read_filters, read_samples
from conjoin.report.table import cells_of
from conjoin.report.words import findings, headline


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    from synthetic_run import write_synthetic_run

    def make(**options):
        return write_synthetic_run(tmp_path_factory.mktemp("run"), **options)

    return make


@pytest.fixture(scope="module")
def full(make):
    folder = make(seeds=2, groups=1)
    return read_run(folder), write_report([folder]).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def hostile(make):
    folder = make(seeds=1, groups=1, hostile=True)
    return read_run(folder), write_report([folder]).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def small(make):
    """A folder whose page is quickly made."""
    return make(views=False, seeds=2)


@given(st.text())
def test_text_and_attributes_come_out_as_they_went_in(text):
    page = render(element("p", {"title": text}, text, element("b", {}, [text, None])))
    document = Document(page)
    assert [entry[0] for entry in document.elements] == ["p", "b"]
    assert not document.errors
    kept = "".join(c if c.isprintable() or c in "\n\t\xa0" else ascii(c)[1:-1] for c in text)
    assert document.elements[0][1]["title"] == kept
    assert document.elements[1][2] == kept


@pytest.mark.parametrize("name", ["a b", "p>", "", "SCRIPT", "on click", 'x="'])
def test_names_are_never_taken_from_outside(name):
    with pytest.raises(ValueError, match="expected the name"):
        element(name, {}, "x")
    with pytest.raises(ValueError, match="expected the name"):
        element("p", {name: "x"})


def test_void_elements_and_flags():
    made = element("input", {"checked": True, "hidden": False, "name": None, "value": "<"})
    assert made == Markup('<input checked value="&lt;">')


def test_a_run_by_path_by_text_or_itself_alone_or_in_a_list(small, tmp_path):
    folder, run, page = small, read_run(small), write_report([small]).read_text(encoding="utf-8")
    for form in (str(folder), folder, run, [str(folder)], [run]):
        out = write_report(form, str(tmp_path / "r.html"))
        assert out == tmp_path / "r.html"
        assert out.read_text(encoding="utf-8") == page


@pytest.mark.parametrize("which", ["full", "hostile"])
def test_structure(which, request):
    _, page = request.getfixturevalue(which)
    document = Document(page)
    assert not document.errors
    ids = [entry[1]["id"] for entry in document.elements if "id" in entry[1]]
    assert len(ids) == len(set(ids))
    levels = [int(entry[0][1]) for entry in document.all("h1", "h2", "h3", "h4")]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert all(entry[2].strip() for entry in document.all("h1", "h2", "h3", "h4", "legend", "a"))
    assert len(document.all("main")) == len(document.all("nav")) == 1
    assert document.all("html")[0][1]["lang"] == "en"
    for link in document.all("a"):
        assert link[1]["href"][0] == "#"
        assert link[1]["href"][1:] in ids
    for picture in document.all("img"):
        assert picture[1]["alt"].strip()
        assert picture[1]["src"].startswith("data:image/png;base64,")
    for drawing in document.all("svg"):
        assert drawing[1]["role"] == "img"
        assert drawing[1]["aria-label"].strip()
    for box in document.all("input"):
        assert box[1]["type"] == "radio"
    for box in document.all("select"):
        assert box[1]["aria-label"].strip()
    assert all(entry[1].get("scope") for entry in document.all("th"))


@pytest.mark.parametrize("which", ["full", "hostile"])
def test_nothing_comes_from_elsewhere_and_nothing_of_the_run_is_code(which, request):
    _, page = request.getfixturevalue(which)
    document = Document(page)
    (policy,) = [
        e[1]["content"]
        for e in document.all("meta")
        if e[1].get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert len(document.all("script")) == len(document.all("style")) == 1
    for name in ("script", "style"):
        text = re.search(rf"<{name}>(.*?)</{name}>", page, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    for _, attributes, _ in document.elements:
        assert not [key for key in attributes if key.startswith("on") or key == "style"]
        for key in ("src", "href", "xlink:href", "action"):
            assert attributes.get(key, "#").startswith(("#", "data:"))
    assert not re.search(r"url\((?!#)", page)
    assert not document.all("iframe", "object", "embed", "form", "base", "foreignobject", "use")


def test_what_is_said_and_in_which_order(full):
    run, page = full
    document = Document(page)
    assert document.all("h1")[0][2] == run.info.title
    assert [e[2] for e in document.all("h2")] == [
        "Table",
        "Findings",
        "Figures",
        "Layer by layer",
        "Pictures",
        "Left out",
        "How it was made",
    ]
    assert [e[2] for e in document.all("p") if e[1].get("class") == "headline"] == [headline(run)]
    items = [e[2] for e in document.all("li")]
    for finding in findings(run):
        assert any(item.startswith(finding.text) for item in items)
    for name, digest in run.info.hashes.items():
        assert name in page
        assert digest in page
    assert run.info.command in page
    assert "below, the difference from the specialist of that task, in brackets the ends" in page
    assert all(skipped.reason in page for skipped in run.info.skipped)


def test_table_has_every_cell(full):
    run, page = full
    table = page[page.index("<table>") : page.index("</table>")]
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    by_name = {}
    for row in rows:
        document = Document(row)
        if any(e[1].get("scope") == "row" for e in document.all("th")):
            by_name[document.all("th")[0][2]] = [e[2] for e in document.all("td")]
    cells = cells_of(run)
    assert len(by_name) == len(run.rows)
    for key, row in run.rows.items():
        (found,) = [
            v
            for name, v in by_name.items()
            if name.startswith(row.name)
            and name.removeprefix(row.name).startswith(
                (row.about, "* told", f"{row.networks} networks")
            )
        ]
        for task, text in zip(run.tasks, found, strict=False):
            cell = cells.get((key, task))
            if cell is None:
                assert text == ""
                continue
            assert text.startswith(f"{cell.mean:.1f} ± {cell.spread:.1f}")
            if cell.low is not None:
                assert f"[{cell.low:+.1f}, {cell.high:+.1f}]" in text


def test_hostile_names_are_shown_as_text(hostile):
    run, page = hostile
    document = Document(page)
    text = document.all("html")[0][2]
    for task in run.tasks:
        assert task in text
    assert "<script>alert(1)</script>" in document.all("body")[0][2]


def test_the_same_run_gives_the_same_page(small, tmp_path):
    first, second = (write_report([small], tmp_path / name) for name in ("a.html", "b.html"))
    assert first.read_bytes() == second.read_bytes()


def test_where_the_page_goes(small, make, tmp_path):
    assert write_report([small]) == small / "report.html"
    (tmp_path / "old.html").write_text("old")
    assert write_report([small], tmp_path / "old.html") == tmp_path / "old.html"
    assert "<!DOCTYPE html>" in (tmp_path / "old.html").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["old.html"]
    with pytest.raises(InputError, match="there is no folder"):
        write_report([small], tmp_path / "no" / "a.html")
    with pytest.raises(InputError, match="found none"):
        write_report([])
    with pytest.raises(DataError, match="is not the folder of a run"):
        write_report([tmp_path])


def test_runs_beside_each_other(small, make):
    other = make(views=False, seeds=1, groups=1, unseen=False)
    path = write_report([small, other])
    assert path == small / "report-compared.html"
    page = path.read_text(encoding="utf-8")
    document = Document(page)
    assert not document.errors
    runs = [read_run(small), read_run(other)]
    said = [e[2] for e in document.all("p") if e[1].get("class") == "headline"]
    assert said == [headline(run) for run in runs]
    tables = [cells_of(run) for run in runs]
    rows = [Document(row) for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)]
    lines = {r.all("th")[0][2]: [e[2] for e in r.all("td")] for r in rows if r.all("td")}
    shared = list(runs[1].rows.values())  # these rows are in both
    assert len(lines) == len(shared)
    for row in shared:
        a, b = ([t[row.key, task].mean for task in runs[1].tasks] for t in tables)
        found = lines[row.name]
        assert [float(text.split()[0]) for text in found[:4]] == pytest.approx([*a, *b], abs=0.051)
        differences = np.subtract(b, a)
        assert [float(text) for text in found[4:]] == pytest.approx(differences, abs=0.051)


def test_runs_without_a_common_row(small, make):
    other = make(views=False, hostile=True, seeds=1)
    page = write_report([small, other]).read_text(encoding="utf-8")
    assert "no row and no task in common" in page
    three = write_report([small, small, other]).read_text(encoding="utf-8")
    assert not Document(three).errors


def test_a_run_that_measured_nothing_is_a_page(make):
    from synthetic_run import without

    folder = without(make(views=False), lambda record: False)
    (folder / "costs.json").unlink()
    page = write_report([folder]).read_text(encoding="utf-8")
    document = Document(page)
    assert not document.errors
    assert not document.all("svg")
    assert "Time and memory" not in page


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_pictures_keep_their_pixels(height, width, channels, seed):
    shape = (height, width, channels) if channels > 1 else (height, width)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    data = base64.b64decode(png_uri(pixels).removeprefix("data:image/png;base64,"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)


def test_large_pictures_are_means_of_squares():
    pixels = np.zeros((300, 256), np.uint8)
    pixels[::2] = 200
    data = base64.b64decode(png_uri(pixels).removeprefix("data:image/png;base64,"))
    small = np.asarray(Image.open(io.BytesIO(data)))
    assert small.shape == (150, 128)
    assert set(small.ravel().tolist()) == {100}


@given(st.integers(1, 40), st.sampled_from([1, 3]), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_filter_sheet_has_every_weight(count, channels, size, seed):
    weights = np.random.default_rng(seed).normal(size=(count, channels, size, size))
    weights = weights.astype(np.float32)
    sheet = filter_sheet(weights)
    columns = (sheet.shape[1] + 1) // (size + 1)
    top = np.abs(weights).max()
    for number, one in enumerate(weights):
        y, x = number // columns * (size + 1), number % columns * (size + 1)
        there = sheet[y : y + size, x : x + size].astype(float)
        expected = 128 + 127 * np.moveaxis(one, 0, -1) / top
        np.testing.assert_allclose(there[..., :channels], expected, atol=0.51)
        assert (there[..., channels] == 255).all()
    assert (sheet[..., channels] == 255).sum() == count * size**2  # the rest is transparent


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_filters_without_a_scale_are_grey(value):
    sheet = filter_sheet(np.full((2, 1, 2, 2), value, np.float32))
    assert set(sheet[sheet[..., 1] == 255, 0].tolist()) == {128}


def test_samples_say_what_each_row_said(full):
    run, page = full
    samples = read_samples(run.folder)
    document = Document(page)
    pictures = [e for e in document.all("img") if ", label " in e[1]["alt"]]
    assert len(pictures) == len(samples.labels)
    for index, picture in enumerate(pictures):
        task, alt = samples.tasks[index], picture[1]["alt"]
        classes = run.tasks[task].classes
        assert alt.startswith(f"{task}, label {classes[samples.labels[index]]}. ")
        for said, confidence in zip(
            samples.predictions[:, index], samples.confidences[:, index], strict=True
        ):
            if said >= 0:
                assert f": {classes[said]}, {100 * confidence:.0f} %" in alt
        nan = np.isnan(samples.confidences[:, index])
        assert alt.count(": NaN") == nan.sum()
        silent = (samples.predictions[:, index] == -1) & ~nan
        assert alt.count("does not answer") == silent.sum()


def test_files_of_pictures_that_are_malformed(make, tmp_path):
    assert read_samples(tmp_path) is None
    assert read_filters(tmp_path) == []
    (tmp_path / "samples.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"samples\.safetensors cannot be read"):
        read_samples(tmp_path)
    tensors = {
        "images": torch.zeros(2, 4, 4, dtype=torch.uint8),
        "labels": torch.zeros(2, dtype=torch.int64),
        "predictions": torch.zeros(1, 3, dtype=torch.int64),
        "confidences": torch.zeros(1, 3),
    }
    meta = {"conjoin.samples": json.dumps({"tasks": ["a", "a"], "rows": ["r"]})}
    save_file(tensors, tmp_path / "samples.safetensors", meta)
    with pytest.raises(DataError, match="predictions of each"):
        read_samples(tmp_path)
    save_file(tensors, tmp_path / "samples.safetensors", {"conjoin.samples": '{"rows": []}'})
    with pytest.raises(DataError, match="not a file of samples"):
        read_samples(tmp_path)
    for shape, meta in (([2, 2, 3, 3], '[{"model": "a"}]'), ([1, 1, 3, 3], "[1]"), ([1], "{}{")):
        save_file(
            {"0": torch.zeros(shape)}, tmp_path / "filters.safetensors", {"conjoin.filters": meta}
        )
        with pytest.raises(DataError, match=r"filters\.safetensors"):
            read_filters(tmp_path)


@pytest.mark.parametrize("package", ["altair", "vl_convert", "PIL"])
def test_what_is_missing_is_named(small, package):
    code = (
        "import sys\n"
        f"sys.modules[{package!r}] = None\n"
        "from pathlib import Path\n"
        "from conjoin.errors import ConjoinError\n"
        "from conjoin.report import read_run, write_report\n"
        f"folder = Path({str(small)!r})\n"
        "read_run(folder)\n"
        "try:\n"
        "    write_report([folder])\n"
        "except ConjoinError as error:\n"
        "    print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    assert f"the package {package} is missing" in result.stdout
    assert 'pip install "conjoin[report]"' in result.stdout
