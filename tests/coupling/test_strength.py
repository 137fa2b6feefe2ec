"""Which tensor is coupled how strongly, and when."""

import math

import pytest
import torch
from coupling_toys import Net, Tensors, made, sgd, train
from torch import nn

from conjoin.coupling import Coupling, by_depth, over_time, scaled, target_gap
from conjoin.errors import InputError, MismatchError


def _net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(8, 3)
    )


LAYERS = {
    "first": ["0.weight", "0.bias", "1.weight", "1.bias"],
    "second": ["2.weight", "2.bias"],
    "third": ["4.weight", "4.bias"],
}


def _strengths(strength, module=None, count=2):
    return Coupling(made(module or _net(), sgd(0.1), count), strength).strengths()


def _of_layers(first, second, third):
    pairs = zip(LAYERS.values(), (first, second, third), strict=True)
    return {name: value for names, value in pairs for name in names}


@pytest.mark.parametrize("strength", [0, 0.0, 2, 0.5, math.inf])
def test_a_number_is_for_all_parameters_and_nothing_else(strength):
    assert _strengths(strength) == _of_layers(*[float(strength)] * 3)


def test_in_a_table_the_first_match_counts_and_the_rest_is_private():
    table = {"0.bias": 3.0, "0.*": math.inf, "*.bias": 1, "2.*": 0.0}
    assert _strengths(table) == {
        "0.weight": math.inf,
        "0.bias": 3.0,
        "1.weight": 0.0,
        "1.bias": 1.0,
        "2.weight": 0.0,
        "2.bias": 1.0,
        "4.weight": 0.0,
        "4.bias": 1.0,
    }


@pytest.mark.parametrize(
    "strength",
    [
        {"block_1.*": 1.0, "clasifier.*": 0.0},
        by_depth(1, 0.1, private=["clasifier.*"]),
        over_time({0: 1.0, 100: {"clasifier.*": 1.0}}),
        target_gap(0.1, initial={"clasifier.*": 1.0}),
    ],
    ids=["table", "by_depth", "over_time", "target_gap"],
)
def test_a_pattern_that_matches_nothing_is_an_error_with_close_names(strength):
    with pytest.raises(InputError, match="'clasifier.*' matches none.*classifier.weight"):
        _strengths(strength, Net())


def test_by_depth_by_hand():
    assert _strengths(by_depth(4, 0.01)) == pytest.approx(_of_layers(4.0, 0.2, 0.01), rel=1e-12)
    assert _strengths(by_depth(4, 1, "linear")) == pytest.approx(_of_layers(4.0, 2.5, 1.0))
    assert _strengths(by_depth(0, 1, "linear")) == pytest.approx(_of_layers(0.0, 0.5, 1.0))
    assert _strengths(by_depth(0.1, 0.1)) == _of_layers(0.1, 0.1, 0.1)
    assert _strengths(by_depth(math.inf, math.inf)) == _of_layers(*[math.inf] * 3)


def test_private_tensors_are_no_layers():
    found = _strengths(by_depth(9, 1, private=["4.*"]))
    assert found == pytest.approx(_of_layers(9.0, 1.0, 0.0))
    found = _strengths(by_depth(9, 1, private=["*.bias"]))
    assert {found[name] for name in found if name.endswith("bias")} == {0.0}
    assert [found[f"{n}.weight"] for n in (0, 1, 2, 4)] == pytest.approx([9, 9, 3, 1])
    assert _strengths(by_depth(9, 1, private=["0.*", "1.*", "2.*"]))["4.weight"] == 9


def test_one_layer_has_the_strength_of_the_first():
    assert set(_strengths(by_depth(9, 1), nn.Linear(2, 2)).values()) == {9.0}


def _at_steps(strength, steps, module=None):
    """Give the strength of a first tensor at steps of a training."""
    models = made(module or Tensors(w=[1.0]), sgd(0.1))
    coupling = Coupling(models, strength)
    found = []
    for step in range(max(steps) + 1):
        assert coupling.time == step
        if step in steps:
            found.append(next(iter(coupling.strengths().values())))
        train(models, coupling, 1, [1.0, -1.0])
    return found


@pytest.mark.parametrize(
    ("strength", "expected"),
    [
        (over_time({0: 0.0, 4: 1.0}), [0, 0.25, 0.5, 0.75, 1, 1]),
        (over_time({2: 4.0, 4: 1.0}), [4, 4, 4, 2.5, 1, 1]),
        (over_time({0: 16.0, 4: 1.0}, "geometric"), [16, 8, 4, 2, 1, 1]),
        (over_time({0: 0.0, 2: 4.0, 4: 1.0}, "geometric"), [0, 2, 4, 2, 1, 1]),
        (over_time({4: 1.0, 0: 0.0}), [0, 0.25, 0.5, 0.75, 1, 1]),  # in whatever order
        (over_time({0: 1.0, 2: 1.0, 3: math.inf}), [1, 1, 1, math.inf, math.inf, math.inf]),
        (over_time({0: 1.0, 4: math.inf}), [1, 1, 1, 1, math.inf, math.inf]),
        (over_time({0: math.inf, 4: 1.0}), [math.inf] * 4 + [1, 1]),
        (over_time({3: 2.0}), [2] * 6),
        (over_time({0: {"w": 0.0}, 4: {"*": 1.0}}), [0, 0.25, 0.5, 0.75, 1, 1]),
        (over_time({0: by_depth(2, 1), 2: 4.0}), [2, 3, 4, 4, 4, 4]),
    ],
)
def test_over_time_by_hand(strength, expected):
    assert _at_steps(strength, range(6)) == pytest.approx(expected, rel=1e-12)


def test_the_pull_has_the_strength_of_the_step_that_was_made():
    models = made(Tensors(w=[0.0]), sgd(0.1))
    train(models, Coupling(models, over_time({0: 1.0, 1: 0.0})), 1, [1.0, -1.0])
    # After one step of SGD at +-.1, pulled by 1 / (1 + 4 * .1 * 1).
    assert models["a"][0].w.item() == pytest.approx(0.1 / 1.4, rel=1e-12)
    models = made(Tensors(w=[0.0]), sgd(0.1))
    train(models, Coupling(models, over_time({0: 0.0, 1: 1.0})), 1, [1.0, -1.0])
    assert models["a"][0].w.item() == pytest.approx(0.1, rel=1e-12)


def test_models_are_checked_for_all_that_is_coupled_later():
    models = made(Tensors(w=[1.0]), sgd(0.1))
    with torch.no_grad():
        models["b"][0].w.add_(1)
    warm_up = over_time({0: 0.0, 500: 1.0})
    with pytest.raises(MismatchError, match="'w' differs by up to 1"):
        Coupling(models, warm_up)
    Coupling(models, warm_up, start="any")
    other = Tensors(w=[1.0, 2.0])
    models["b"] = (other, sgd(0.1)(other.parameters()))
    with pytest.raises(MismatchError, match="different shapes"):
        Coupling(models, warm_up)


@pytest.mark.parametrize("gap", [0.05, 0.3])
def test_a_target_gap_is_kept(gap):
    models = made(Tensors(w=[2.0, 0.5], v=[1.0]), sgd(0.1, momentum=0.9))
    coupling = Coupling(models, target_gap(gap, initial=0.01, every=5))
    train(models, coupling, 1500, [3.0, 1.0])
    assert coupling.gap() == pytest.approx({"w": gap}, rel=0.02)
    # In closed form: apart by 2 / (1 + 4 s) around a mean of 2.
    half = 1 / (1 + 4 * coupling.strengths()["w"])
    assert 2 * half / math.sqrt(4 + half**2) == pytest.approx(gap, rel=0.02)


def test_a_target_gap_by_hand():
    """From a gap of sqrt(2) to keep .02: each adaptation is bounded by 2."""
    models = made(Tensors(w=[0.0]), sgd(1e-9))
    with torch.no_grad():
        models["a"][0].w.fill_(1.0)
    strength = target_gap(0.02, every=2, highest=50.0)
    coupling = Coupling(models, strength, start="any")
    found = []
    for _ in range(14):
        train(models, coupling, 1, [0.0, 0.0])
        found.append(coupling.strengths()["w"])
    assert found == [1, 2, 2, 4, 4, 8, 8, 16, 16, 32, 32, 50, 50, 50]


def test_a_small_change_of_a_target_gap_by_hand():
    models = made(Tensors(w=[1.0]), sgd(1e-12))
    with torch.no_grad():
        models["b"][0].w.fill_(2.0)
    coupling = Coupling(models, target_gap(0.5, rate=0.5, every=1), start="any")
    train(models, coupling, 1, [0.0, 0.0])
    gap = math.sqrt(1 / 2.5)
    assert coupling.strengths()["w"] == pytest.approx((gap / 0.5) ** 0.5, rel=1e-6)


def test_a_target_gap_leaves_private_and_shared_tensors():
    models = made(_net(), sgd(0.1))
    coupling = Coupling(models, target_gap(0.1, initial={"0.*": math.inf, "2.*": 1.0}, every=1))
    x = torch.randn(4, 1, 6, 6)
    for _ in range(3):
        for number, (net, _) in enumerate(models.values()):
            net.zero_grad()
            net(x + number).square().sum().backward()
        coupling.step()
    found = coupling.strengths()
    assert found["0.weight"] == math.inf
    assert found["4.weight"] == 0
    assert found["2.weight"] not in (0.0, 1.0, math.inf)


def test_equal_models_with_a_target_gap_fall_to_the_lowest_strength():
    models = made(Tensors(w=[1.0]), sgd(0.1))
    coupling = Coupling(models, target_gap(0.1, every=1, lowest=0.1))
    train(models, coupling, 10, [0.0, 0.0])
    assert coupling.strengths() == {"w": 0.1}


@pytest.mark.parametrize(
    "strength",
    [-1, -1e-9, math.nan, -math.inf, True, None, "1", "strong", [1.0], {}, {"w": -1}, {"w": "1"},
     {"w": None}, {"w": True}, {"w": math.nan}, {0: 1.0}, {"w": {"w": 1.0}}, torch.tensor(1.0)],
    ids=repr,
)  # fmt: skip
def test_what_is_no_strength_is_refused(strength):
    models = made(Tensors(w=[1.0]), sgd(0.1))
    with pytest.raises(InputError):
        Coupling(models, strength)


def test_a_name_for_a_strength_is_answered_with_the_function():
    with pytest.raises(InputError, match=r"did you mean conjoin.coupling.by_depth\(...\)"):
        Coupling(made(Tensors(w=[1.0]), sgd(0.1)), "by depth")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: by_depth(1, 0), "geometric decay from 1 to 0 needs positive numbers"),
        (lambda: by_depth(math.inf, 1), "infinity at one end only"),
        (lambda: by_depth(math.inf, 1, "linear"), "infinity at one end only"),
        (lambda: by_depth(-1, 1, "linear"), "from 0"),
        (lambda: by_depth(math.nan, 1), "from 0"),
        (lambda: by_depth(1, 2, "cosine"), "geometric or linear"),
        (lambda: over_time({}), "one step or more"),
        (lambda: over_time(1.0), "one step or more"),
        (lambda: over_time({-1: 1.0}), "-1 is none"),
        (lambda: over_time({0.5: 1.0}), "0.5 is none"),
        (lambda: over_time({True: 1.0}), "True is none"),
        (lambda: over_time({0: -1.0}), "from 0"),
        (lambda: over_time({0: over_time({0: 1.0})}), "a point of over_time is"),
        (lambda: over_time({0: target_gap(0.1)}), "a point of over_time is"),
        (lambda: over_time({0: 1.0}, "cosine"), "geometric or linear"),
        (lambda: target_gap(0), "a positive number"),
        (lambda: target_gap(math.inf), "a positive number"),
        (lambda: target_gap(math.nan), "a positive number"),
        (lambda: target_gap(0.1, rate=0), "rate > 0"),
        (lambda: target_gap(0.1, every=0), "every has to be"),
        (lambda: target_gap(0.1, lowest=2, highest=1), "lowest <= highest"),
        (lambda: target_gap(0.1, initial=over_time({0: 1.0})), "starts from"),
        (lambda: target_gap(0.1, initial=-1), "from 0"),
        (lambda: scaled(over_time({0: 1.0}), 2), "cannot be multiplied"),
        (lambda: scaled(1.0, -2), "from 0"),
    ],
)
def test_what_cannot_be_made(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_scaled_by_hand():
    assert scaled(2.0, 3) == 6
    assert scaled(0.0, math.inf) == 0
    assert scaled(math.inf, 0) == 0
    assert scaled({"a": 2, "b": 0}, 0.5) == {"a": 1.0, "b": 0.0}
    found = scaled(by_depth(4, 1, private=["x"]), 2)
    assert (found.first, found.last, found.decay, found.private) == (8, 2, "geometric", ("x",))
    assert _strengths(scaled(by_depth(4, 1), 0)) == _of_layers(0, 0, 0)
    assert _strengths(scaled(by_depth(4, 1), math.inf)) == _of_layers(*[math.inf] * 3)


def test_what_a_coupling_says_of_itself():
    models = made(_net(), sgd(0.1))
    coupling = Coupling(models, {"0.*": math.inf, "2.*": 1.0})
    assert repr(coupling) == "Coupling(a, b: 2 tensors pulled, 4 private, 2 shared)"
    assert coupling.names == ("a", "b")
    assert coupling.time == 0
