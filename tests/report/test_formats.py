"""Numbers and names as they are shown."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conjoin.records import Interval
from conjoin.report.formats import (
    amount,
    describe_interval,
    listing,
    number,
    one_line,
    signed,
    verdict,
)

METRICS = ("accuracy", "loss", "calibration error", "accuracy barrier")


@pytest.mark.parametrize(
    ("value", "metric", "shown"),
    [
        (79.25, "accuracy", "79.2"),
        (-0.04, "accuracy", "0.0"),
        (100.0, "accuracy", "100.0"),
        (4.06, "calibration error", "4.1"),
        (12.34, "accuracy barrier", "12.3"),
        (0.0321499, "loss", "0.0321"),
        (9.9996, "loss", "10.0"),
        (0.1, "loss", "0.100"),
        (1234.5, "loss", "1230"),
        (1.5e-9, "loss", "1.50e-09"),
        (2.5e12, "loss", "2.50e+12"),
        (0.0, "loss", "0.00"),
        (-0.0, "loss", "0.00"),
        (math.nan, "accuracy", "NaN"),
        (math.inf, "loss", "inf"),
        (-math.inf, "loss", "-inf"),
    ],
)
def test_by_hand(value, metric, shown):
    assert number(value, metric) == shown


@given(st.floats(), st.sampled_from(METRICS))
def test_no_minus_before_zero_and_always_a_number(value, metric):
    for text in (number(value, metric), signed(value, metric)):
        assert not (text.startswith("-") and float(text) == 0)
        back = float(text)
        assert math.isnan(back) == math.isnan(value)
        if math.isfinite(value):
            allowed = 0.0501 if metric != "loss" else 0.00501 * abs(value) + 1e-300
            assert abs(back - value) <= allowed + 1e-12 * abs(value)
    assert signed(value, metric)[0] in "+-N"


def test_units():
    assert (amount(50.0, "accuracy"), amount(0.5, "loss")) == ("50.0 %", "0.500")


def _interval(metric, value, low, high, level=0.95):
    return Interval("a", "b", "task", metric, value, low, high, level, 2, 100)


@pytest.mark.parametrize(
    ("metric", "low", "high", "seen"),
    [
        ("accuracy", 1, 3, "better"),
        ("accuracy", -3, -1, "worse"),
        ("loss", 1, 3, "worse"),
        ("loss", -3, -1, "better"),
        ("accuracy", -1, 1, "no different"),
        ("accuracy", 0, 0, "no different"),
        ("accuracy", 0, 3, "no different"),
        ("accuracy", -3, 0, "no different"),
        ("loss", 1, math.inf, "worse"),
        ("loss", -math.inf, math.inf, "no different"),
        ("loss", math.nan, 3, "unknown"),
        ("loss", -3, math.nan, "unknown"),
    ],
)
def test_verdict_by_hand(metric, low, high, seen):
    assert verdict(_interval(metric, 0.5 * (low + high) if low != -high else 0, low, high)) == seen


@given(st.sampled_from(["accuracy", "loss"]), *[st.floats(-100, 100)] * 3)
def test_better_and_worse_only_where_the_interval_excludes_zero(metric, value, low, high):
    low, high = sorted((low, high))
    text = describe_interval(_interval(metric, value, low, high))
    assert ("better" in text or "worse" in text) == (low > 0 or high < 0)
    assert "95 % interval" in text


def test_describe_by_hand():
    assert describe_interval(_interval("accuracy", 0.3, -0.2, 0.8, 0.9)) == (
        "no different, within the error (+0.3 points, 90 % interval -0.2 to +0.8)"
    )
    # An end of +0.02 would read as +0.0, and the claim as wrong.
    assert describe_interval(_interval("accuracy", 0.04, 0.02, 0.06)) == (
        "0.04 points better (95 % interval +0.02 to +0.06)"
    )
    assert describe_interval(_interval("loss", 0.04, 0.02, 0.06, 0.999)) == (
        "worse by 0.0400 in loss (99.9 % interval +0.0200 to +0.0600)"
    )


@given(st.text())
def test_one_line_is_printable(text):
    shown = one_line(text)
    assert shown.isprintable()
    assert shown == one_line(shown)


@given(st.lists(st.sampled_from(["a", "b", "c"])))
def test_listing_has_everything_once(parts):
    assert [p for p in listing(parts).replace(" and ", ", ").split(", ") if p] == parts
