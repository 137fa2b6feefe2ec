"""What is drawn against the records, and drawings that are fit to stand in a page or on paper."""

import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conjoin.records import Record
from conjoin.report import figures, read_run, save_figures
from conjoin.report.charts.drawing import INK, draw, page_svg, print_svg
from conjoin.report.charts.files import file_names
from conjoin.report.charts.marks import series
from conjoin.report.charts.plane import squares_of
from conjoin.report.charts.points import Mean, means, shown, unique
from conjoin.report.charts.variants import pair_labels

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def make_run(tmp_path_factory):
    from synthetic_run import write_synthetic_run

    def make(**options):
        return read_run(write_synthetic_run(tmp_path_factory.mktemp("run"), **options))

    return make


@pytest.fixture(scope="module")
def full(make_run):
    return make_run()


@pytest.fixture(scope="module")
def hostile(make_run):
    return make_run(hostile=True)


def by_key(run):
    return {figure.key: figure for figure in figures(run)}


def points(chart):
    """All rows that a chart holds."""
    return [row for rows in chart.to_dict()["datasets"].values() for row in rows]


def test_every_view_has_its_figure(full, make_run):
    assert list(by_key(full)) == [
        "rows",
        "interpolation",
        "plane",
        "depth",
        "activations",
        "distances",
        "transfer",
    ]
    assert list(by_key(make_run(views=False))) == ["rows"]


def test_regression_has_losses_only(make_run):
    for figure in figures(make_run(regression=True, tasks=1)):
        options = [option for switch in figure.switches for option in switch.options]
        assert "accuracy" not in options
        assert "accuracy" not in figure.alt
        for variant in figure.variants.values():
            assert "accuracy (percent)" not in json.dumps(variant.chart(700).to_dict())


def test_settings_are_options_of_the_switches(full):
    for figure in figures(full):
        assert all(len(switch.options) > 1 for switch in figure.switches)
        for setting in figure.variants:
            assert len(setting) == len(figure.switches)
            for option, switch in zip(setting, figure.switches, strict=True):
                assert option in switch.options
        first = tuple(switch.options[0] for switch in figure.switches)
        assert next(iter(figure.variants)) == first


def test_descriptions_follow_the_schema_and_say_each_mark(full, hostile):
    """`draw` leaves the check out."""
    for run, width in ((full, 700), (hostile, 340)):
        for figure in figures(run):
            for variant in list(figure.variants.values())[::3]:
                chart = variant.chart(width)
                chart.to_dict(validate=True)
                assert any(row.get("text") for row in points(chart))


def test_rows_are_means_of_the_test_part(full):
    chart = by_key(full)["rows"].variants[("loss",)].chart(700)
    drawn = [row for row in points(chart) if "text" in row]
    expected = {}
    for record in full.view("row"):
        if record.split == "test" and record.metric == "loss":
            expected.setdefault((record.model, record.task), []).append(record.value)
    assert len(drawn) == len(expected)
    for mine, theirs in zip(
        sorted((row["value"], row["low"], row["high"]) for row in drawn),
        sorted((np.mean(v), min(v), max(v)) for v in expected.values()),
        strict=True,
    ):
        assert mine == pytest.approx(theirs)


def test_specialists_are_rules(full):
    chart = by_key(full)["rows"].variants[("accuracy",)].chart(700)
    rules = {
        row["series"]: row["value"] for row in points(chart) if set(row) == {"series", "value"}
    }
    for task, key in full.info.specialists.items():
        values = [
            r.value
            for r in full.view("row")
            if (r.model, r.task, r.metric, r.split) == (key, task, "accuracy", "test")
        ]
        assert rules[task] == pytest.approx(np.mean(values))


def test_interpolation_is_the_mean_over_seeds(full):
    figure = by_key(full)["interpolation"]
    key = ("street numbers", "loss", "statistics re-estimated")
    drawn = points(figure.variants[key].chart(700))
    labels = pair_labels(full, full.view("interpolation"))
    assert len(drawn) == 2 * 11
    for row in drawn:
        values = [
            r.value
            for r in full.view("interpolation")
            if (r.task, r.metric, r.how["reestimated"]) == ("street numbers", "loss", True)
            and r.how["t"] == row["at"]
            and labels[r.model] == row["series"]
        ]
        assert len(values) == 3
        assert row["value"] == pytest.approx(np.mean(values))
        assert (row["low"], row["high"]) == (min(values), max(values))


def test_plane_squares_lie_around_their_points(full):
    figure = by_key(full)["plane"]
    drawn = points(figure.variants[("accuracy", *_rest(figure))].chart(340))
    squares = [row for row in drawn if "shade" in row]
    names = {row["name"] for row in drawn if "name" in row}
    first = full.view("plane")[0]
    assert names == set(first.how["corners"])
    at = {
        (r.how["x"], r.how["y"]): r.value
        for r in full.view("plane")
        if r.metric == "accuracy" and (r.task, r.how["group"]) == (first.task, first.how["group"])
    }
    assert len(squares) == len(at)
    for (x, y), value in at.items():
        inside = [s for s in squares if s["x"] <= x <= s["x2"] and s["y"] <= y <= s["y2"]]
        assert [s["shade"] for s in inside] == [value]


def test_networks_between_the_points_of_the_grid_do_not_narrow_its_squares():
    corners = {(0.0, 0.0), (1.0, 0.0), (0.37, 0.81)}
    mean = Mean(1.0, 1.0, 1.0, seeds=1)
    grid = {(x / 2, y / 2): mean for x in range(3) for y in range(3)}
    cells = dict.fromkeys(corners, mean) | grid
    # Two corners are points of the grid; the third lies between.
    assert set(squares_of(cells, corners)) == set(grid)
    assert set(squares_of(dict.fromkeys(corners, mean), corners)) == corners


def test_transfer_has_a_line_for_each_start_however_many(full):
    starts = {record.how["start"] for record in full.view("transfer")}
    drawn = points(next(iter(by_key(full)["transfer"].variants.values())).chart(700))
    assert {row["series"] for row in drawn} == starts
    names = [f"start {number}" for number in range(30)]
    parts = [part.to_dict()["scale"]["range"] for part in series(names, 700, 60)]
    looks = list(zip(*parts, strict=True))
    assert len({str(look) for look in looks}) == len(names)
    # What shares a colour with another differs in the other two.
    for number, look in enumerate(looks[:14]):
        for other in looks[:number]:
            if look[0] == other[0]:
                assert look[1] != other[1]
                assert look[2] != other[2]


def _rest(figure):
    return next(iter(figure.variants))[1:]


def test_loss_far_from_every_network_is_cut(make_run):
    from conjoin.report.charts.plane import CEILING, _shading

    shade, scale, _ = _shading("loss", [0.01, 0.1, 50.0])
    assert shade(50.0) == shade(CEILING * 0.01) == pytest.approx(np.log10(0.2))
    assert scale.to_dict()["domain"] == pytest.approx([-2, np.log10(0.2)])
    shade, scale, _ = _shading("loss", [0.5, 0.5])
    assert scale.to_dict()["domain"] == [0.5, 1.5]  # not empty
    assert shade(0.5) == 0.5
    assert _shading("loss", [0.0, 9.0])[0](0.0) == 0.0  # no logarithm of 0


def test_depth_refers_to_the_network_as_it_was(full):
    figure = by_key(full)["depth"]
    key = ("digits", "accuracy", "this layer alone")
    drawn = points(figure.variants[key].chart(700))
    start = [
        r.value
        for r in full.view("depth")
        if (r.task, r.metric, r.how["mode"], r.how["index"]) == ("digits", "accuracy", "first", 0)
    ]
    rule = [row["value"] for row in drawn if set(row) == {"value"}]
    assert rule == [pytest.approx(np.mean(start))]
    assert len([row for row in drawn if "text" in row]) == 5 * 2


def test_groups_of_one_title_stay_apart(make_run):
    run = make_run(seeds=1)
    titled = [group.model_copy(update={"title": "both"}) for group in run.info.groups]
    info = run.info.model_copy(update={"groups": titled})
    before, after = by_key(run), by_key(type(run)(run.folder, info, run.records))
    for key in ("interpolation", "depth", "activations", "distances"):
        drawn = [
            sorted(row["value"] for row in points(next(iter(f.variants.values())).chart(700)))
            for f in (before[key], after[key])
        ]
        assert drawn[0] == drawn[1]
    assert after["plane"].switches[2].options == ("both (2)", "both (3)")


def test_many_lines_get_a_switch_among_groups(make_run):
    found = by_key(make_run(seeds=1, tasks=3, groups=3, unseen=False))  # 3 groups of 3 pairs
    for key in ("interpolation", "distances"):
        (switch,) = [switch for switch in found[key].switches if switch.name == "networks"]
        assert len(switch.options) == 3
        for variant in found[key].variants.values():
            assert len({row["series"] for row in points(variant.chart(340)) if "text" in row}) == 3


def test_what_is_not_finite_has_no_place_on_an_axis(make_run):
    run = make_run(views=False, seeds=1)
    first = next(r for r in run.view("row") if r.metric == "loss" and r.split == "test")
    for value in (float("nan"), float("inf"), -float("inf")):
        broken = Record(first.model, first.task, "test", 0, "loss", value, 1, first.how)
        records = (*(r for r in run.records if r is not first), broken)
        changed = type(run)(run.folder, run.info, records)
        before = points(by_key(run)["rows"].variants[("loss",)].chart(700))
        after = points(by_key(changed)["rows"].variants[("loss",)].chart(700))
        lost = [
            row["text"] for row in before if row.get("text") not in [r.get("text") for r in after]
        ]
        assert len(lost) == 1
        draw(by_key(changed)["rows"].variants[("loss",)].chart(340))


def test_only_values_that_are_not_finite_are_no_figure(make_run):
    run = make_run(views=False, seeds=1)
    nothing = tuple(
        Record(r.model, r.task, r.split, 0, r.metric, float("nan"), 1, r.how) for r in run.records
    )
    assert figures(type(run)(run.folder, run.info, nothing)) == []


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-1e6, 1e6)), max_size=20))
def test_means_against_numpy(pairs):
    records = [Record(str(k), "t", "test", i, "loss", v, 1) for i, (k, v) in enumerate(pairs)]
    found = means(records, lambda record: record.model)
    assert list(found) == list(dict.fromkeys(str(k) for k, _ in pairs))
    for key, mean in found.items():
        values = [v for k, v in pairs if str(k) == key]
        np.testing.assert_allclose(mean.value, np.mean(values), rtol=1e-9, atol=1e-6)
        assert (mean.low, mean.high, mean.seeds) == (min(values), max(values), len(values))


@settings(deadline=None)
@given(st.lists(st.text(max_size=5), max_size=8))
def test_names_stay_apart_and_can_be_seen(names):
    found = unique(names)
    assert len(set(found)) == len(names)
    assert all(name.isprintable() and name.strip() for name in found)
    assert all(there.startswith(shown(name)) for name, there in zip(names, found, strict=True))


@pytest.mark.parametrize("width", [340, 700])
def test_drawings_are_as_wide_as_asked(full, width):
    for figure in figures(full):
        root = ET.fromstring(draw(next(iter(figure.variants.values())).chart(width)))
        assert float(root.get("width")) == min(width, 540 if figure.key == "plane" else width)


def test_drawings_of_hostile_names_are_inert_svg(hostile):
    for number, figure in enumerate(figures(hostile)):
        variant = next(iter(figure.variants.values()))
        svg = page_svg(draw(variant.chart(340)), prefix=f"p{number}-", label="x")
        root = ET.fromstring(svg)  # well-formed
        kinds = {element.tag.removeprefix(SVG) for element in root.iter()}
        assert kinds <= {"svg", "g", "path", "line", "rect", "text", "defs", "clipPath",
                         "linearGradient", "stop"}  # fmt: skip
        for element in root.iter():
            assert not [name for name in element.attrib if name.startswith("on")]
            assert not {"style", "href", "{http://www.w3.org/1999/xlink}href"} & set(element.attrib)


def test_a_drawing_in_the_page_follows_its_theme(full):
    seen = set()
    for number, figure in enumerate(figures(full)):
        svg = draw(next(iter(figure.variants.values())).chart(700))
        assert INK in svg
        inside = page_svg(svg, prefix=f"p{number}-", label="said &amp; done")
        assert INK not in inside
        assert "currentColor" in inside
        root = ET.fromstring(inside)
        assert (root.get("role"), root.get("aria-label")) == ("img", "said & done")
        ids = {element.get("id") for element in root.iter()} - {None}
        assert all(name.startswith(f"p{number}-") for name in ids)
        assert not ids & seen
        seen |= ids
        assert set(re.findall(r"url\(#([^)]*)\)", inside)) <= ids
        texts = {e.text for e in ET.fromstring(svg).iter() if e.tag.endswith("text")}
        assert texts == {e.text for e in root.iter() if e.tag.endswith("text")}
    assert seen  # the gradient of the plane


def test_what_marks_say_is_not_changed_by_thinning(hostile):
    figure = by_key(hostile)["distances"]
    chart = next(iter(figure.variants.values())).chart(700)
    expected = {row["text"] for row in points(chart) if "text" in row}
    root = ET.fromstring(page_svg(draw(chart), prefix="a-", label=""))
    said = {element.get("aria-label") for element in root.iter()}
    assert expected <= said


def test_print_is_black_on_white(full):
    for figure in figures(full):
        svg = print_svg(draw(next(iter(figure.variants.values())).chart(600)))
        assert INK not in svg
        first = ET.fromstring(svg)[0]
        assert (first.tag, first.get("fill")) == (f"{SVG}rect", "#ffffff")
        assert "#000000" in svg


def test_the_same_run_gives_the_same_bytes(full, tmp_path):
    from synthetic_run import without

    with_few = read_run(_few(tmp_path / "run", without))
    first = save_figures(with_few, str(tmp_path / "a"))
    second = save_figures(read_run(with_few.folder), tmp_path / "b")
    assert [path.name for path in first] == [path.name for path in second]
    for one, other in zip(first, second, strict=True):
        if one.suffix != ".pdf":  # its writer orders entries by chance
            assert one.read_bytes() == other.read_bytes()
    starts = {".svg": b"<svg", ".pdf": b"%PDF", ".png": b"\x89PNG"}
    for path in first:
        assert path.read_bytes().startswith(starts[path.suffix])
        assert re.fullmatch(r"[a-z0-9-]+\.(svg|pdf|png)", path.name)
    assert len({path.name.lower() for path in first}) == len(first)
    assert {path.name for path in (tmp_path / "a").iterdir()} == {path.name for path in first}
    assert "distances-relative-distance.pdf" in {path.name for path in first}


def _few(folder, without):
    from synthetic_run import write_synthetic_run

    write_synthetic_run(folder, hostile=True, groups=1, seeds=2)
    return without(folder, lambda record: record.how["view"] in ("row", "distances"))


@settings(deadline=None)
@given(st.lists(st.lists(st.text(max_size=100), max_size=3), max_size=8))
def test_file_names_are_safe_and_different(parts):
    found = file_names([("rows", *part) for part in parts])
    assert len(set(found)) == len(parts)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9-]{0,99}", name) for name in found)
