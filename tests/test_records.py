"""Records survive a round trip, and files that are none are said to be none."""

import csv
import json
import math
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conjoin.errors import DataError, InputError
from conjoin.records import (
    Interval,
    Record,
    Results,
    read_records,
    read_results,
    write_csv,
    write_json,
)

ROW = {
    "model": "m", "task": "t", "split": "test", "seed": 0, "metric": "loss", "value": 1.0,
    "count": 9,
}  # fmt: skip

on_disk = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


def records(names):
    return st.lists(
        st.builds(
            Record,
            model=names,
            task=names,
            split=st.sampled_from(["train", "validation", "test"]),
            seed=st.integers(0, 2**63),
            metric=names,
            value=st.floats(),
            count=st.integers(0, 2**40),
            how=st.dictionaries(text, plain, max_size=3),
        ),
        max_size=4,
    )


def _same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.model, one.task, one.split, one.metric) == (
            other.model,
            other.task,
            other.split,
            other.metric,
        )
        assert (one.seed, one.count, one.how) == (other.seed, other.count, other.how)
        assert one.value == other.value or (math.isnan(one.value) and math.isnan(other.value))
        assert math.isnan(one.value) or math.copysign(1, one.value) == math.copysign(1, other.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"count": "3"}, "count of a record is a whole number, not '3'"),
        ({"count": 1.5}, "count of a record is a whole number, not 1.5"),
        ({"value": "x"}, "value of a record is a number, not 'x'"),
        ({"value": torch.ones(2)}, "value of a record is a number, not tensor"),
        ({"value": None}, "value of a record is a number, not None"),
        ({"seed": None}, "seed of a record is a whole number, not None"),
    ],
)
def test_what_is_no_record(changed, message):
    with pytest.raises(InputError, match=message):
        Record(**{**ROW, **changed})


def test_numbers_of_numpy_and_torch_and_paths_become_pythons(tmp_path):
    how = {"path": Path("a"), "rate": np.float32(0.5), "at": (np.int64(1), torch.tensor([2.0]))}
    made = {**ROW, "value": torch.tensor(0.5), "count": np.int64(3), "seed": torch.tensor(1)}
    for name, write in (("r.json", write_json), ("r.csv", write_csv)):
        write(str(tmp_path / name), [Record(**{**made, "how": how})])
        (found,) = read_records(str(tmp_path / name))
        assert (found.value, found.count, found.seed) == (0.5, 3, 1)
        assert found.how == {"path": "a", "rate": 0.5, "at": [1, [2.0]]}
    assert read_results(str(tmp_path / "r.json")).records == (found,)


def test_what_json_has_not_is_named(tmp_path):
    with pytest.raises(InputError, match="JSON, which has no object: <object"):
        write_json(tmp_path / "r.json", [Record(**{**ROW, "how": {"a": [object()]}})])
    assert not (tmp_path / "r.json").exists()


@on_disk
@given(records(text))
def test_json_round_trip(tmp_path, rows):
    write_json(tmp_path / "r.json", rows, run={"preset": "tiny"})
    _same(read_records(tmp_path / "r.json"), rows)


@on_disk
@given(
    records(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r"), max_size=8))
)
def test_csv_round_trip(tmp_path, rows):
    write_csv(tmp_path / "r.csv", rows)
    _same(read_records(tmp_path / "r.csv"), rows)


def _record(**changes):
    given = {"model": "m", "task": "t", "split": "test", "seed": 0, "metric": "loss"}
    return Record(**{**given, "value": 1.0, "count": 2, **changes})


WRITERS = pytest.mark.parametrize(
    ("write", "suffix"), [(write_json, ".json"), (write_csv, ".csv")], ids=["json", "csv"]
)


@WRITERS
@pytest.mark.parametrize(
    "name", ["a,b", 'a"b', "a\nb", " a ", "=1", "'", "\N{SNOWMAN}", "", "a\0b"]
)
def test_hard_names(tmp_path, write, suffix, name):
    rows = [_record(model=name, how={name: [name, {"x": name}]})]
    write(tmp_path / f"r{suffix}", rows)
    _same(read_records(tmp_path / f"r{suffix}"), rows)


@pytest.mark.parametrize(
    ("write", "suffix"),
    [
        pytest.param(write_json, ".json", id="json"),
        pytest.param(
            write_csv,
            ".csv",
            id="csv",
        ),
    ],
)
def test_carriage_returns_survive(tmp_path, write, suffix):
    rows = [_record(model="a\rb\r\nc")]
    write(tmp_path / f"r{suffix}", rows)
    _same(read_records(tmp_path / f"r{suffix}"), rows)


@WRITERS
def test_a_read_only_mapping_says_how(tmp_path, write, suffix):
    write(tmp_path / f"r{suffix}", [_record(how=MappingProxyType({"method": "mean"}))])
    assert read_records(tmp_path / f"r{suffix}")[0].how == {"method": "mean"}


@WRITERS
def test_a_setting_that_is_not_json_is_refused_and_writes_nothing(tmp_path, write, suffix):
    with pytest.raises((InputError, TypeError)):
        write(tmp_path / f"r{suffix}", [_record(how={"a": {1, 2}})])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("write", "suffix"),
    [
        pytest.param(
            write_json,
            ".json",
            id="json",
        ),
        pytest.param(write_csv, ".csv", id="csv"),
    ],
)
def test_both_formats_treat_an_infinite_setting_alike(tmp_path, write, suffix):
    """An infinite strength is an ordinary setting of a run."""
    rows = [_record(how={"strength": math.inf})]
    write(tmp_path / f"r{suffix}", rows)
    _same(read_records(tmp_path / f"r{suffix}"), rows)


@pytest.mark.parametrize(
    ("write", "suffix"),
    [
        pytest.param(write_json, ".json", id="json"),
        pytest.param(
            write_csv,
            ".csv",
            id="csv",
        ),
    ],
)
def test_a_long_setting_can_be_read_again(tmp_path, write, suffix):
    rows = [_record(how={"curve": "x" * 200_000})]
    write(tmp_path / f"r{suffix}", rows)
    _same(read_records(tmp_path / f"r{suffix}"), rows)


def test_json_is_strict_and_keeps_how_the_run_was_made(tmp_path):
    write_json(
        tmp_path / "r.json",
        [_record(value=math.nan), _record(value=-math.inf), _record(value=math.inf)],
        run={"seeds": [0, 1]},
    )

    def forbidden(name):
        raise AssertionError(name)

    document = json.loads((tmp_path / "r.json").read_text("utf-8"), parse_constant=forbidden)
    assert document["run"] == {"seeds": [0, 1]}
    assert [row["value"] for row in document["records"]] == ["NaN", "-Infinity", "Infinity"]


def test_csv_has_a_header_and_a_row_for_each_record(tmp_path):
    write_csv(tmp_path / "r.csv", [_record(how={"b": 1, "a": "x,y"})])
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["model", "task", "split", "seed", "metric", "value", "count", "how"],
        ["m", "t", "test", "0", "loss", "1.0", "2", '{"a": "x,y", "b": 1}'],
    ]


def test_records_are_checked():
    with pytest.raises(
        InputError, match="split is one of train, validation, test, none, not 'valid'"
    ):
        _record(split="valid")
    with pytest.raises(InputError, match="count of m on t is negative: -1"):
        _record(count=-1)


ROW = {
    "model": "m", "task": "t", "split": "test", "seed": 0, "metric": "loss", "value": 1, "count": 2,
    "how": {},
}  # fmt: skip


def _document(row=ROW, **changes):
    return json.dumps({"format": 1, "run": {}, "records": [{**row, **changes}]})


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "3",
        '{"format": 2, "records": []}',
        '{"records": []}',
        '{"format": 1}',
        '{"format": 1, "records": 3}',
        '{"format": 1, "records": ["x"]}',
        _document({name: value for name, value in ROW.items() if name != "value"}),
        _document(value="much"),
        _document(value=None),
        _document(value=[1]),
        _document(seed="x"),
        _document(count=-1),
        _document(split="other"),
        _document(how=[1]),
        _document(how=None),
    ],
)
def test_malformed_json(tmp_path, content):
    (tmp_path / "r.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"r\.json is not a results file of conjoin: ."):
        read_records(tmp_path / "r.json")


def test_an_infinite_seed_is_malformed(tmp_path):
    (tmp_path / "r.json").write_text(_document(seed=math.inf), encoding="utf-8")
    with pytest.raises(DataError, match="not a results file"):
        read_records(tmp_path / "r.json")


HEADER = "model,task,split,seed,metric,value,count,how\n"


@pytest.mark.parametrize(
    "content",
    [
        HEADER + "m,t,test,0,loss,1,2,{\n",
        HEADER + "m,t,test,0,loss,1,2\n",
        HEADER + "m,t,test,0,loss,x,2,{}\n",
        HEADER + "m,t,other,0,loss,1,2,{}\n",
        HEADER + "m,t,test,0,loss,1,2,[1]\n",
        "model,task\nm,t\n",
    ],
)
def test_malformed_csv(tmp_path, content):
    (tmp_path / "r.csv").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"r\.csv is not a results file"):
        read_records(tmp_path / "r.csv")


@pytest.mark.parametrize("content", ["", "name,price\n"])
def test_a_csv_file_of_something_else_without_rows(tmp_path, content):
    (tmp_path / "r.csv").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"r\.csv is not a results file"):
        read_records(tmp_path / "r.csv")


def test_files_that_are_missing_or_no_text(tmp_path: Path):
    with pytest.raises(DataError, match="missing.json is not a results file"):
        read_records(tmp_path / "missing.json")
    (tmp_path / "r.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError):
        read_records(tmp_path / "r.json")
    with pytest.raises(DataError):
        read_records(tmp_path)


def test_an_empty_list_of_records_is_a_file_too(tmp_path):
    for write, name in ((write_json, "r.json"), (write_csv, "r.csv")):
        write(tmp_path / name, [])
        assert read_records(tmp_path / name) == []


@on_disk
@given(st.floats(allow_nan=False), text, st.integers(0, 9))
def test_intervals_and_run_come_back(tmp_path_factory, value, name, count):
    path = tmp_path_factory.mktemp("results") / "results.json"
    interval = Interval(name, "b", "t", "accuracy", value, -value, value, 0.95, 3, count)
    record = Record(name, "t", "none", 0, "loss", value, count, {"k": [value]})
    write_json(path, [record], run={"seeds": [0], "top": value}, intervals=[interval])
    assert read_results(path) == Results((record,), (interval,), {"seeds": [0], "top": value})
    assert read_records(path) == [record]


def test_a_results_file_with_a_malformed_interval_is_refused(tmp_path):
    path = tmp_path / "results.json"
    path.write_text('{"format": 1, "records": [], "intervals": [{"model": "a"}]}')
    with pytest.raises(DataError, match="not a results file of conjoin: 'against'"):
        read_results(path)
