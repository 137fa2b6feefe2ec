"""Weights that do not fit, and weights that cancel."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conjoin.errors import MethodError
from conjoin.methods.weights import check_no_part_cancels, checked_weights, shares_of

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
