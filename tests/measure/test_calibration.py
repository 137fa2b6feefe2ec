"""Calibration error by hand and against a loop in NumPy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conjoin.errors import InputError
from conjoin.measure.calibration import Bin, calibration_error, reliability

few = settings(deadline=None, max_examples=50)


def _loop(confidence, correct, bins):
    """Guo et al.'s loop: the examples above one edge and not above the next."""
    total = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if inside.any():
            gap = abs(confidence[inside].mean() - correct[inside].mean())
            total += inside.mean() * gap
    return 100 * total


@few
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 200))
def test_against_a_loop(seed, bins, count):
    rng = np.random.default_rng(seed)
    confidence = 1 - rng.random(count)  # in (0, 1]
    correct = rng.random(count) < confidence**2
    expected = _loop(confidence, correct, bins)
    assert calibration_error(confidence, correct, bins=bins) == pytest.approx(expected, abs=1e-9)


def test_by_hand():
    # Bins (0, .5] and (.5, 1]: 1 of 4 with a gap of .4, 3 of 4 with a gap of |2/3 - .8|.
    confidence = [0.4, 0.7, 0.8, 0.9]
    correct = [False, True, False, True]
    expected = 100 * (1 / 4 * 0.4 + 3 / 4 * (0.8 - 2 / 3))
    assert calibration_error(confidence, correct, bins=2) == pytest.approx(expected)
    assert calibration_error(confidence, correct, bins=1) == pytest.approx(100 * (0.7 - 0.5))
    assert reliability(confidence, correct, bins=2) == [
        Bin(0.0, 0.5, 1, 0.4, 0.0),
        Bin(0.5, 1.0, 3, pytest.approx(0.8), pytest.approx(2 / 3)),
    ]


def test_gaps_of_one_bin_cancel_and_of_two_do_not():
    confidence, correct = [0.45, 0.55], [1, 0]
    assert calibration_error(confidence, correct, bins=1) == pytest.approx(0)
    assert calibration_error(confidence, correct, bins=2) == pytest.approx(55)


def test_an_edge_belongs_to_the_bin_below_and_zero_to_the_first():
    found = reliability([0.0, 0.25, 0.5, 0.75, 1.0], [1] * 5, bins=4)
    assert [one.count for one in found] == [2, 1, 1, 1]
    found = reliability([math.nextafter(0.25, 1)], [1], bins=4)
    assert [one.count for one in found] == [0, 1, 0, 0]


@pytest.mark.parametrize("bins", [3, 10, 15])
def test_edges_are_edges_in_float32_too(bins):
    edges = np.linspace(0, 1, bins + 1)[1:].astype(np.float32)
    for confidence in (edges, torch.from_numpy(edges)):
        found = reliability(confidence, [1] * bins, bins=bins)
        assert [one.count for one in found] == [1] * bins


def test_empty_bins_are_nan_and_count_nothing():
    found = reliability([0.9], [True], bins=2)
    assert found[0].count == 0
    assert math.isnan(found[0].confidence)
    assert math.isnan(found[0].accuracy)
    assert (found[1].confidence, found[1].accuracy) == (pytest.approx(0.9), 1.0)


def test_bins_cover_zero_to_one_without_gaps():
    found = reliability([0.3], [True])
    assert len(found) == 15
    assert (found[0].low, found[-1].high) == (0.0, 1.0)
    assert [one.high for one in found[:-1]] == [one.low for one in found[1:]]


def test_calibrated_by_construction():
    rng = np.random.default_rng(0)
    confidence = rng.random(200_000)
    assert calibration_error(confidence, rng.random(200_000) < confidence) < 0.5
    assert calibration_error(np.ones(10), np.zeros(10)) == 100


@few
@given(st.integers(0, 2**32))
def test_the_order_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    confidence, correct = rng.random(50), rng.random(50) < 0.5
    order = rng.permutation(50)
    mixed = calibration_error(confidence[order], correct[order])
    assert mixed == pytest.approx(calibration_error(confidence, correct), abs=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_tensors_of_every_precision(dtype):
    confidence = torch.tensor([0.5, 0.75, 1.0], dtype=dtype, requires_grad=True)
    correct = torch.tensor([True, False, True])
    assert calibration_error(confidence, correct) == pytest.approx(100 * 1.25 / 3)
    assert calibration_error(confidence, correct.long()) == pytest.approx(100 * 1.25 / 3)


def test_rounding_beyond_one_is_one():
    confidence = np.array([1.0000001, -1e-8])
    found = reliability(confidence, [True, False], bins=2)
    assert [(one.count, one.confidence) for one in found] == [(1, 0.0), (1, 1.0)]
    assert confidence[0] == 1.0000001
    assert calibration_error(torch.tensor([1.0000001]), [True]) == 0


def test_nan_is_nan_and_in_no_bin():
    assert math.isnan(calibration_error([0.5, math.nan], [True, False]))
    with pytest.raises(InputError, match="1 of 2 confidences are NaN"):
        reliability([0.5, math.nan], [True, False])


@pytest.mark.parametrize(
    ("confidence", "correct", "bins", "message"),
    [
        ([], [], 15, "at least one example"),
        ([0.5], [True, False], 15, r"found \[1\] and \[2\]"),
        ([[0.5]], [[True]], 15, r"found \[1, 1\] and \[1, 1\]"),
        ([0.5, 97.0], [1, 1], 15, "from 0 to 1, not 97.0; give 0.5 rather than 50 percent"),
        ([-0.1], [1], 15, "from 0 to 1, not -0.1"),
        ([math.inf], [1], 15, "not inf"),
        ([0.5], [2], 15, "must be true or false"),
        ([0.5], [math.nan], 15, "must be true or false"),
        ([0.5], [True], 0, "at least 1; got 0"),
    ],
)
def test_what_cannot_be_used(confidence, correct, bins, message):
    for function in (calibration_error, reliability):
        with pytest.raises(InputError, match=message):
            function(confidence, correct, bins=bins)
