"""Values against annotations."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from conjoin.errors import MethodError
from conjoin.methods import METHODS, Method
from conjoin.methods.parameters import (
    Within,
    annotations_of,
    check_value,
    is_per_model,
    one_per_model,
)

Share = Annotated[float | Sequence[float], Within(0, 1)]
Choice = Literal["sum", "count"]
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (True, bool),
        (1, float),
        (0.5, float),
        (-1e300, float),
        (3, int),
        ("x", str),
        ("sum", Choice),
        (0, Share),
        (1.0, Share),
        ([0.5, 1], Share),
        ((0.5, 1), Share),
        (np.float64(0.5), Share),
        ({"anything": 1}, dict[str, int]),
        (object(), Any),
    ],
)
def test_good(value, annotation):
    check_value("it", value, annotation, models=2)


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        (1, bool, "true or false, not 1"),
        ("yes", bool, "true or false, not 'yes'"),
        (True, float, r"a number \(finite\), not True"),
        ("0.5", float, "a number"),
        (None, float, "a number.*not None"),
        (NAN, float, "not nan"),
        (INF, float, "not inf"),
        ([1.0], float, "a number"),
        (1.5, int, "a whole number"),
        (True, int, "a whole number"),
        (1, str, "text"),
        ("cuont", Choice, "'sum', 'count', not 'cuont'; did you mean 'count'?"),
        (1, Choice, "one of"),
        (True, Literal[1], "one of 1, not True"),
        (1.01, Share, "a number from 0 to 1, or one per model, not 1.01"),
        (20, Share, "from 0 to 1"),
        (-1e-9, Share, "from 0 to 1"),
        (NAN, Share, "not nan"),
        (True, Share, "not True"),
        ("0.5", Share, "not '0.5'"),
        ([0.5], Share, "one per model: 2, not 1"),
        ([0.5, 2], Share, "of model 1 must be a number from 0 to 1, not 2"),
        ([0.5, NAN], Share, "of model 1"),
        ([[0.5], [0.5]], Share, "of model 0"),
    ],
)
def test_wrong(value, annotation, message):
    with pytest.raises(MethodError, match="it.*" + message):
        check_value("it", value, annotation, models=2)


def test_a_sequence_of_any_length_where_the_number_of_models_is_not_known():
    check_value("it", [0.1] * 7, Share)


def test_which_parameters_may_be_one_per_model():
    assert is_per_model(Share)
    assert is_per_model(float | Sequence[float])
    for annotation in (float, Sequence[float], float | None, bool, Choice):
        assert not is_per_model(annotation)


def test_one_per_model():
    assert one_per_model(0.5, 3) == [0.5] * 3
    assert one_per_model([0.5], 3) == [0.5] * 3
    assert one_per_model((0.1, 0.2), 2) == [0.1, 0.2]
    with pytest.raises(MethodError, match="one per model: 3, not 2"):
        one_per_model([1, 2], 3)


def test_annotations_as_text_are_read_or_left_alone():
    def good(tensors, *, density: "float" = 0.5):
        raise NotImplementedError

    def strange(tensors, *, density: "Nowhere" = 0.5, rank: int = 1):  # noqa: F821
        raise NotImplementedError

    assert annotations_of(good, ["density"])["density"] is float
    assert "density" not in annotations_of(strange, ["density", "rank"])
    Method("it", strange, "f").check({"density": "x"}, base=False, weights=False)
    with pytest.raises(MethodError, match="it: rank must be a whole number"):
        Method("it", strange, "f").check({"rank": "x"}, base=False, weights=False)


@pytest.mark.parametrize(
    ("method", "parameters", "message"),
    [
        ("ties", {"density": 20}, "ties: density.*0 to 1"),
        ("ties", {"density": [0.1, 0.2, 0.3]}, "one per model: 2"),
        ("ties", {"per": "layer"}, "ties: per must be one of 'model', 'tensor'"),
        ("ties", {"elect": "majority"}, "'sum', 'count'"),
        ("ties", {"densty": 0.2}, "did you mean 'density'"),
        ("dare_ties", {"rescale": True}, "'expectation', 'l1', 'none', not True"),
        ("dare_linear", {"normalize": "no"}, "true or false"),
        ("task_arithmetic", {"scale": NAN}, "scale"),
        ("linear", {"normalize": 1}, "true or false"),
        ("slerp", {"t": 50}, "slerp: t must be a number from 0 to 1, not 50"),
        ("passthrough", {"scale": "2"}, "scale"),
    ],
)
def test_the_table_s_rows(method, parameters, message):
    row = METHODS[method]
    needs = {need.value for need in row.needs}
    with pytest.raises(MethodError, match=message):
        row.check(parameters, base="base" in needs, weights=False, models=2)
