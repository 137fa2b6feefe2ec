"""Values by name and by layer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conjoin.errors import RecipeError
from conjoin.recipes import Gradient, Place, Rule, Value, find_layers

few = settings(deadline=None, max_examples=60)

NUMBERS = st.floats(-10, 10)
NAMES = [f"h.{i}.{part}.weight" for i in range(5) for part in ("a", "b")]
NAMES += [f"layers.{i}.a.weight" for i in range(3)]
LAYERS = find_layers(["wte.weight", *NAMES, "ln_f.bias", "scale"])


@few
@given(st.lists(NUMBERS, min_size=2, max_size=6), st.integers(2, 40))
def test_a_gradient_starts_and_ends_at_its_ends(values: list[float], count: int):
    gradient = Gradient(tuple(values))
    assert gradient.of_layer(0, count) == values[0]
    assert gradient.of_layer(count - 1, count) == values[-1]
    inside = [gradient.of_layer(i, count) for i in range(count)]
    assert all(min(values) - 1e-9 <= float(v) <= max(values) + 1e-9 for v in inside)


@few
@given(st.lists(NUMBERS, min_size=2, max_size=6), st.integers(2, 40))
def test_a_gradient_is_the_linear_interpolation(values: list[float], count: int):
    for i in range(count):
        t = i / (count - 1) * (len(values) - 1)
        low = min(int(t), len(values) - 2)
        expected = values[low] + (t - low) * (values[low + 1] - values[low])
        assert Gradient(tuple(values)).of_layer(i, count) == pytest.approx(expected, abs=1e-9)


@few
@given(NUMBERS, st.integers(2, 30), st.integers(2, 5))
def test_a_gradient_of_one_number_is_that_number(value: float, count: int, length: int):
    gradient = Gradient((value,) * length)
    inside = [gradient.of_layer(i, count) for i in range(count)]
    assert inside == pytest.approx([value] * count)


def test_a_layer_on_a_value_gets_it_exactly():
    # 2 / 3 * 3 is not 2 in floating point for every such fraction; in integers it is.
    for steps in range(2, 50):
        gradient = Gradient(tuple(float(k) for k in range(steps + 1)))
        assert [gradient.of_layer(i, steps + 1) for i in range(steps + 1)] == list(range(steps + 1))


def test_words_and_booleans_go_in_steps():
    gradient = Gradient((True, False))
    assert [gradient.of_layer(i, 4) for i in range(4)] == [True, True, True, False]


def test_the_only_layer_is_the_last():
    assert Gradient((0.25, 0.75)).of_layer(0, 1) == 0.75


def test_outside_of_the_layers():
    ramp = Value.of(Gradient((0.0, 1.0)))
    assert ramp.at("wte.weight", LAYERS) == 0.0
    assert ramp.at("ln_f.bias", LAYERS) == 1.0  # mergekit gives the first value here
    long = Value.of(Gradient((0.0, 1.0), before=0.3, after=0.6))
    assert (long.at("wte.weight", LAYERS), long.at("ln_f.bias", LAYERS)) == (0.3, 0.6)


def test_each_stack_has_the_whole_gradient():
    ramp = Value.of(Gradient((0.0, 1.0)))
    assert [ramp.at(f"h.{i}.a.weight", LAYERS) for i in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert [ramp.at(f"layers.{i}.a.weight", LAYERS) for i in range(3)] == [0, 0.5, 1]


def test_unknown_outside_is_an_error_that_says_how():
    ramp = Value.of(Gradient((0.0, 1.0)), Place("recipe.yml", 7))
    with pytest.raises(RecipeError, match=r"recipe.yml:7: the gradient \[0.0, 1.0\].*'scale'.*VAL"):
        ramp.at("scale", LAYERS)
    by_name = Value((Rule("scale", 0.5), Rule("*", Gradient((0.0, 1.0)))))
    assert by_name.at("scale", LAYERS) == 0.5
    level = Value.of(Gradient((0.0, 1.0), before=0.5, after=0.5))
    assert level.at("scale", LAYERS) == 0.5


def test_the_first_rule_wins_and_none_may():
    value = Value((Rule("h.0.*", 1), Rule("h.*.a.*", 2), Rule("h.0.a.weight", 3)))
    assert value.at("h.0.a.weight", LAYERS) == 1
    assert value.at("h.1.a.weight", LAYERS) == 2
    assert value.at("h.1.b.weight", LAYERS) is None


def test_canonical_drops_what_cannot_be_reached():
    first = Value((Rule("a", 1), Rule("*", 2), Rule("b", 3)))
    second = Value((Rule("a", 1.0), Rule("a", 9.0), Rule("*", 2.0)))
    assert first.canonical() == second.canonical()
    assert Value((Rule("*", 2), Rule("a", 1))).canonical() == Value.of(2.0).canonical()
    assert Value.of(Gradient((0, 1))).canonical() == Value.of(Gradient((0.0, 1), 0, 1)).canonical()
    assert Value.of(Gradient((0, 1))).canonical() != Value.of(Gradient((0.0, 1), 1)).canonical()
