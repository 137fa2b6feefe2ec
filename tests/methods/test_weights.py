"""Weights that do not fit, and weights that cancel."""

import itertools
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from conjoin.errors import MethodError
from conjoin.methods.weights import (
    check_no_part_cancels,
    checked_weights,
    fractions_of,
    shares_of,
)

small = st.lists(st.integers(-4, 4), min_size=1, max_size=6)


@given(small)
def test_shares_sum_to_one_or_are_refused(weights):
    if sum(weights):
        shares = shares_of(weights, len(weights), "it", normalize=True)
        assert sum(shares) == pytest.approx(1)
        assert shares == pytest.approx([weight / sum(weights) for weight in weights])
    else:
        with pytest.raises(MethodError, match="sum to zero.*normalize"):
            shares_of(weights, len(weights), "it", normalize=True)
    assert shares_of(weights, len(weights), "it", normalize=False) == weights


decimals = st.lists(st.integers(-999, 999).map(lambda n: n / 100), min_size=1, max_size=4)


@given(decimals, st.booleans(), st.sampled_from([1, 0.3, -0.7, 2.5]))
def test_short_decimals_are_fractions_exactly(weights, normalize, scale):
    assume(abs(sum(weights)) > 1e-3 or not normalize)
    numerators, denominator = fractions_of(
        weights, len(weights), "it", normalize=normalize, scale=scale
    )
    exact = [Fraction(str(scale)) * Fraction(str(weight)) for weight in weights]
    if normalize:
        exact = [share / sum(Fraction(str(weight)) for weight in weights) for share in exact]
    found = [Fraction(numerator) / Fraction(denominator) for numerator in numerators]
    if denominator == 1:  # floats, or no short fractions
        assert [float(share) for share in found] == pytest.approx([float(one) for one in exact])
    else:
        assert found == exact
        assert sum(map(abs, numerators)) <= 1  # nothing overflows on the way
        # A product with a number of bfloat16 or float16 fits into float32.
        for number in (*numerators, denominator):
            assert abs(number.as_integer_ratio()[0]) < 1 << 20
        assert all(abs(number.as_integer_ratio()[0]) <= 1 << 13 for number in numerators)


@pytest.mark.parametrize(
    ("weights", "normalize", "scale", "expected"),
    [
        ([0.5, 0.3, 0.4], True, 1, ([5 / 16, 3 / 16, 4 / 16], 12 / 16)),
        ([0.5, 0.3, 0.4], False, 0.5, ([5 / 16, 3 / 16, 4 / 16], 20 / 16)),
        ([1, 1, 1], True, 1, ([1 / 4] * 3, 3 / 4)),
        ([1, 1], True, 1, ([0.5, 0.5], 1)),
        ([49, 49], True, 1, ([0.5, 0.5], 1)),
        ([0.3, -0.3], False, 1, ([3 / 8, -3 / 8], 10 / 8)),
        ([2, -3], False, 0.5, ([1, -1.5], 1)),
        ([0, 0], False, 1, ([0, 0], 1)),
        ([0.3, 1e-30], False, 1, ([0.3, 1e-30], 1)),
        ([1e30, 2e30], False, 1, ([1e30, 2e30], 1)),
        ([1e30, 2e30], True, 1, ([1 / 4, 2 / 4], 3 / 4)),
        ([1 / 3, 1], False, 1, ([1 / 3, 1], 1)),
        ([1], False, float("inf"), ([float("inf")], 1)),
    ],
)
def test_fractions_by_hand(weights, normalize, scale, expected):
    assert fractions_of(weights, len(weights), "it", normalize=normalize, scale=scale) == expected


def test_fractions_check_weights():
    with pytest.raises(MethodError, match="it needs one weight per model: 3, not 2"):
        fractions_of([0.3, 0.7], 3, "it", normalize=False)
    with pytest.raises(MethodError, match="sum to zero"):
        fractions_of([0.3, -0.3], 2, "it", normalize=True)


@given(small)
def test_parts_that_cancel_are_found(weights):
    used = [weight for weight in weights if weight]
    parts = itertools.chain.from_iterable(
        itertools.combinations(used, size) for size in range(1, len(used) + 1)
    )
    if any(sum(part) == 0 for part in parts):
        with pytest.raises(MethodError, match="some of them sum to zero; use merge="):
            check_no_part_cancels(weights, "it")
    else:
        check_no_part_cancels(weights, "it")


def test_parts_that_nearly_cancel_in_float32():
    with pytest.raises(MethodError, match="some of them"):
        check_no_part_cancels([0.1, 0.2, -0.3], "it")


def test_many_weights():
    check_no_part_cancels([1.0] * 1000, "it")
    check_no_part_cancels([-1.0] * 1000 + [0.0], "it")
    with pytest.raises(MethodError, match="too many of both signs"):
        check_no_part_cancels([1.0] * 16 + [-0.5], "it")


def test_weights_that_do_not_fit():
    with pytest.raises(MethodError, match="it needs one weight per model: 2, not 3"):
        checked_weights([1, 2, 3], 2, "it")
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(MethodError, match="finite"):
            checked_weights([1, wrong], 2, "it")
