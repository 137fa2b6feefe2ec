"""Problems are told all at once, in the order of the lines."""

import pytest

from conjoin.errors import InputError, RecipeError
from conjoin.recipes.problems import Place, Problems


def test_all_at_once_in_order_and_each_once():
    problems = Problems("r.yml")
    problems.raise_if_any()
    for line, text in ((7, "seven"), (2, "two"), (7, "seven"), (7, "seven again")):
        problems.add(Place("r.yml", line), text)
    assert len(problems) == 3
    with pytest.raises(RecipeError) as caught:
        problems.raise_if_any()
    assert str(caught.value).splitlines() == [
        "r.yml has 3 problems:",
        "r.yml:2: two",
        "r.yml:7: seven",
        "r.yml:7: seven again",
    ]
    assert isinstance(caught.value, InputError)


def test_stop_tells_what_was_noted_before():
    problems = Problems("r.yml")
    problems.add(Place("r.yml", 1), "first")
    with pytest.raises(RecipeError, match=r"r.yml:1: first\nr.yml:2: last"):
        problems.stop(Place("r.yml", 2), "last")
