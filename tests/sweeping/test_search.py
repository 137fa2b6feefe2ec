import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conjoin.errors import InputError
from conjoin.sweeping import find_strength


@given(peak=st.floats(-2.9, 2.9), trainings=st.integers(3, 12))
def test_a_single_peak_is_found_within_the_trainings(peak, trainings):
    found = find_strength(lambda s: -abs(math.log10(s) - peak), trainings=trainings)
    assert len(found.tried) == trainings
    assert len({s for s, _ in found.tried}) == trainings  # none is trained twice
    assert found.strength == max(found.tried, key=lambda pair: pair[1])[0]
    if trainings >= 9:
        assert abs(math.log10(found.strength) - peak) <= 0.5


def test_five_trainings_come_within_half_a_decade_of_a_peak_near_the_start():
    for peak in [-1.0, -0.5, 0.0, 0.3, 0.8, 1.0]:
        found = find_strength(lambda s, peak=peak: -((math.log10(s) - peak) ** 2))
        assert abs(math.log10(found.strength) - peak) <= 0.5


def test_a_score_that_is_no_number_is_never_the_best():
    found = find_strength(lambda s: math.nan if s >= 1 else 50.0 - s)
    assert found.strength < 1


def test_it_stays_within_its_bounds():
    for sign in (1, -1):
        tried = find_strength(
            lambda s, sign=sign: sign * s, trainings=8, lowest=0.01, highest=100
        ).tried
        assert all(0.0099 <= s <= 101 for s, _ in tried)
        assert len({s for s, _ in tried}) == 8


@pytest.mark.parametrize("wrong", [{"trainings": 2}, {"lowest": 0.5}, {"highest": 5.0}])
def test_a_search_without_room_is_refused(wrong):
    with pytest.raises(InputError, match="search"):
        find_strength(lambda s: s, **wrong)
