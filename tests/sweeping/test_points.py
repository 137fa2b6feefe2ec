import math

import pytest

from conjoin.coupling import by_depth, over_time, target_gap
from conjoin.errors import InputError
from conjoin.sweeping import Point, find_profile, points_of, profile_info, profiles_for
from conjoin.sweeping.points import described

HEADS = ["classifier.*"]


def test_every_training_is_there_once():
    profiles = profiles_for(HEADS)
    names = ["uniform", "upstream", "trunk"]
    found = points_of([profiles[n] for n in names], [math.inf, 0, 0.0, 1, 1.0])
    assert [point.name for point in found] == [
        "uniform 0", "uniform 1", "uniform inf",
        "upstream 1",  # at 0 and infinity it is uniform
        "trunk 1", "trunk inf",
    ]  # fmt: skip


def test_a_profile_with_strengths_of_its_own():
    known = profiles_for(HEADS)
    profiles = [find_profile(text, known) for text in ("uniform", "pooled norm:3,0.1,0.1,inf")]
    found = points_of(profiles, [0, 1])
    names = ["uniform 0", "uniform 1", "pooled norm 0.1", "pooled norm 3", "pooled norm inf"]
    assert [point.name for point in found] == names
    assert [point.pooled for point in found] == [False, False, True, True, True]
    assert find_profile("uniform", known) is known["uniform"]
    assert points_of(profiles[1:], []) == tuple(found[2:])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flat", "no profile 'flat'; there are uniform, upstream"),
        ("flat:1", "no profile 'flat'"),
        ("uniform:", "not 'uniform:'"),
        ("uniform:1;2", "commas between.*not 'uniform:1;2'"),
    ],
)
def test_what_is_no_profile_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        find_profile(text, profiles_for(HEADS))
    with pytest.raises(InputError, match=r"without heads="):
        find_profile("trunk", profiles_for([]))


def test_a_strength_of_a_profile_is_checked_too():
    with pytest.raises(InputError, match="a strength is a number from 0 to inf, not -1"):
        points_of([find_profile("uniform:-1", profiles_for([]))], [1.0])


def test_profiles_are_what_they_say():
    profiles = profiles_for(HEADS)
    assert Point(profiles["uniform"], 2.0).at(100) == 2.0
    assert Point(profiles["upstream"], 2.0).at(100) == by_depth(2.0, 0.02)
    assert Point(profiles["trunk"], math.inf).at(100) == {"classifier.*": 0.0, "*": math.inf}
    finish = Point(profiles["tied finish"], 2.0).at(100)
    assert finish == over_time({0: 2.0, 79: 2.0, 80: math.inf})
    pooled = Point(profiles["pooled norm"], 2.0)
    assert (pooled.at(100), pooled.pooled) == (2.0, True)
    # Nothing is coupled at 0, whatever the profile.
    assert all(Point(p, 0.0).at(100) == 0.0 for p in profiles.values())
    assert not any(Point(p, 0.0).pooled for p in profiles.values())
    assert "trunk" not in profiles_for([])


def test_profiles_that_are_one_at_infinity_are_named():
    info = profile_info(list(profiles_for(HEADS).values()))
    assert {p["name"]: p["same_at_infinity"] for p in info} == {
        "uniform": None, "upstream": "uniform", "trunk": None, "tied finish": "uniform",
        "pooled norm": None,
    }  # fmt: skip


@pytest.mark.parametrize("strengths", [[-1], [math.nan], [True], ["x"], []])
def test_what_is_no_strength_is_refused(strengths):
    with pytest.raises(InputError, match="strength"):
        points_of(list(profiles_for([]).values()), strengths)


def test_descriptions_differ_where_trainings_do():
    specs = [
        0.0, 1.0, math.inf, {"a": 1.0, "*": 0.0}, {"*": 0.0, "a": 1.0}, by_depth(1, 0.1),
        by_depth(1, 0.1, "linear"), by_depth(1, 0.1, private=["a"]), over_time({0: 1.0}),
        over_time({0: 1.0, 5: math.inf}), over_time({0: 1.0, 6: math.inf}), target_gap(0.1),
        target_gap(0.1, rate=0.2), target_gap(0.1, initial=2.0),
    ]  # fmt: skip
    found = [str(described(spec)) for spec in specs]
    assert len(set(found)) == len(found)
