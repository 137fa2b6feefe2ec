"""Barriers of lines by hand and against NumPy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conjoin.errors import InputError
from conjoin.measure.interpolation import barriers
from conjoin.records import Record, read_records, write_json

few = settings(deadline=None, max_examples=10)
NAN, INF = math.nan, math.inf


def _line(losses, metric="loss", task="t", **how):
    count = len(losses) - 1
    return [
        Record(
            "a to b",
            task,
            "test",
            0,
            metric,
            loss,
            9,
            {"view": "interpolation", "from": "a", "to": "b", "reestimated": False, **how}
            | {"t": number / count},
        )
        for number, loss in enumerate(losses)
    ]


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        # Over the line 1, 1.5, 2, 2.5, 3: differences 0, 2.5, 1, -0.5, 0.
        ("loss", [1.0, 4.0, 3.0, 2.0, 3.0], 2.5),
        ("loss", [1.0, 0.0, 0.0, 0.0, 1.0], 0.0),
        ("loss", [4.0, 1.0, 2.0], 0.0),
        ("loss", [2.0, INF, 1.0], INF),
        ("loss", [2.0, INF, NAN, 1.0], NAN),
        ("loss", [2.0, NAN, 1.0], NAN),
        ("loss", [NAN, 5.0, 1.0], NAN),
        ("loss", [INF, 5.0, 1.0], NAN),
        ("loss", [1.0, 5.0, INF], NAN),
        # Under the line 100, 95, 90: differences 0, 55, 0.
        ("accuracy", [100.0, 40.0, 90.0], 55.0),
        ("accuracy", [50.0, 99.0, 50.0], 0.0),
    ],
)
def test_barriers_by_hand(metric, values, expected):
    (found,) = barriers(_line(values, metric))
    assert found.value == pytest.approx(expected, nan_ok=True)
    assert found.metric == f"{metric} barrier"
    assert found.how == {"view": "barrier", "from": "a", "to": "b", "reestimated": False}
    assert (found.model, found.task, found.split, found.seed, found.count) == (
        *("a to b", "t", "test"),
        *(0, 9),
    )


@few
@given(st.lists(st.floats(0, 1e6), min_size=3, max_size=9))
def test_a_barrier_is_that_of_numpy_never_negative_and_the_same_backwards(losses):
    t = np.linspace(0, 1, len(losses))
    over = np.array(losses) - ((1 - t) * losses[0] + t * losses[-1])
    (there,), (back,) = barriers(_line(losses)), barriers(_line(losses[::-1]))
    tolerance = 1e-12 * max(losses) + 1e-300
    assert there.value == pytest.approx(max(0, over[1:-1].max()), abs=tolerance)
    assert there.value == pytest.approx(back.value, abs=tolerance)
    assert there.value >= 0


def test_lines_are_kept_apart_whatever_their_order(tmp_path):
    lines = [
        _line([1.0, 3.0, 1.0]),
        _line([1.0, 4.0, 1.0], task="u"),
        _line([1.0, 5.0, 1.0], reestimated=True),
        _line([90.0, 84.0, 90.0], "accuracy"),
        _line([1.0, 8.0, 1.0], group="g"),
    ]
    beyond = Record(**{**_as_dict(lines[0][1]), "how": {**lines[0][1].how, "t": 2.0}})
    plane = Record("p", "t", "test", 0, "loss", 1.0, 9, {"view": "plane"})
    mixed = [r for triple in zip(*lines, strict=True) for r in triple]
    write_json(tmp_path / "r.json", [plane, beyond, *mixed])
    found = barriers(read_records(tmp_path / "r.json"))
    assert [r.value for r in found] == [2, 3, 4, 6, 7]
    assert [r.how["reestimated"] for r in found] == [False, False, True, False, False]
    assert found[4].how["group"] == "g"


def _as_dict(record):
    return {name: getattr(record, name) for name in Record.__dataclass_fields__}


def test_lines_that_have_no_barrier():
    line = _line([1.0, 2.0, 3.0, 4.0])
    for part in (line[1:], line[:-1], [line[0], line[-1]]):
        with pytest.raises(InputError, match="a barrier needs t = 0, t = 1 and a point between"):
            barriers(part)
    beyond = [Record(**{**_as_dict(line[1]), "how": {**line[1].how, "t": 2.0}})]
    with pytest.raises(InputError, match="a barrier needs"):
        barriers([line[0], line[-1], *beyond])
    with pytest.raises(InputError, match="twice"):
        barriers([*line, line[1]])
    assert barriers([]) == []
