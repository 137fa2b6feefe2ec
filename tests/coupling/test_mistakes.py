"""What coupling says of arguments that are none, and what it takes in another form."""

import math

import numpy as np
import pytest
import torch
from coupling_toys import Tensors, made, sgd
from torch import nn

from conjoin.coupling import (
    Coupling,
    by_depth,
    copies_of,
    cycle,
    elastic_averaging,
    fedprox,
    hard_sharing,
    over_time,
    papa,
    pooled_normalization,
    scaled,
    stable_strength,
    target_gap,
)
from conjoin.errors import InputError


def _models():
    return made(Tensors(w=[0.5], v=[1.0]), sgd(0.1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: Coupling(m, 1.0, every=1.5), "every has to be a whole number from 1 on"),
        (lambda m: Coupling(m, 1.0, every="2"), "every has to be"),
        (lambda m: fedprox(m, 1.0, round_steps="3"), "rounds has to be"),
        (lambda m: Coupling(m, 1.0, rule="joint"), "rule is one of .* not 'joint'"),
        (lambda m: Coupling(m, 1.0, other_optimizers=True), "'refuse' or 'learning rate', not"),
        (lambda m: Coupling(m, "0.1"), "^a strength is a number .* not '0.1'$"),
        (lambda m: Coupling(m, 1e45), r"^a strength is a number up to 1e\+20, .* not 1e\+45$"),
        (lambda m: Coupling(m, {"w": 1.7e308}), "^a strength of 'w' is a number up to"),
        (lambda _: over_time({0: 1.0, 3: 1e21}), "up to .*, or math.inf"),
        (lambda _: target_gap(0.1, highest=1e21), r"highest <= 1e\+20"),
        (lambda m: Coupling(m, {"w": "1"}), "^a strength of 'w' is a number .* not '1'$"),
        (lambda m: Coupling(m, 1.0).step(3), "GradScaler.* not 3"),
        (lambda m: papa(m, "x"), "rate is .* not 'x'"),
        (lambda _: target_gap("x"), "a positive number, .* not 'x'"),
        (lambda _: target_gap(0.1, rate="x"), "rate > 0"),
        (lambda _: target_gap(0.1, every=1.5), "every has to be"),
        (lambda _: scaled(None, 2), "a strength is a number .* not None"),
        (lambda _: scaled(1.0, "x"), "as a factor is a number .* not 'x'"),
        (lambda _: stable_strength(0.1), "learning_rates has to be a list of numbers, not 0.1"),
        (lambda _: stable_strength([-1, 1]), "0 or more, not"),
        (lambda _: stable_strength([0.1, 0.1], momentum=1), "less than 1, not 1"),
        (lambda _: copies_of(nn.Linear, ["a", "b"]), "not type Linear; pass an instance"),
        (lambda _: copies_of(nn.Linear(1, 1), 2), "a list of names .* not 2"),
        (lambda _: copies_of(nn.Linear(1, 1), "ab"), "a list of names .* not 'ab'"),
        (lambda _: cycle({"a": [1]}, -3), "steps has to be a whole number from 0 on"),
        (lambda _: cycle({"a": [1]}, 1.5), "steps has to be"),
        (lambda _: cycle([[1]]), "loaders has to be a mapping"),
        (lambda _: pooled_normalization(nn.Sequential()).__enter__(), "two models or more, not 1"),
        (lambda m: pooled_normalization(m).__enter__(), "torch.nn.Module, not tuple"),
    ],
)
def test_what_is_no_argument(make, message):
    with pytest.raises(InputError, match=message):
        make(_models())


def _of_the_original():
    net = nn.Linear(1, 1)
    optimizer = sgd(0.1)(net.parameters())
    return {name: (copy, optimizer) for name, copy in copies_of(net, ["a", "b"]).items()}


def _swapped():
    (a, (net_a, opt_a)), (b, (net_b, opt_b)) = _models().items()
    return {a: (net_a, opt_b), b: (net_b, opt_a)}


@pytest.mark.parametrize("models", [_of_the_original, _swapped])
def test_an_optimizer_without_any_of_the_models_parameters_is_refused(models):
    with pytest.raises(InputError, match="the optimizer of 'a' has none of its parameters"):
        Coupling(models(), 1.0)


def test_an_optimizer_may_leave_some_parameters_out():
    nets = copies_of(Tensors(w=[0.5], v=[1.0]), ["a", "b"])
    coupling = Coupling({name: (net, sgd(0.1)([net.w])) for name, net in nets.items()}, 1.0)
    assert coupling.strengths() == {"w": 1.0, "v": 1.0}


def test_models_without_data_are_refused():
    with torch.device("meta"):
        models = made(nn.Linear(1, 1), sgd(0.1))
    with pytest.raises(InputError, match="'weight' of 'a' is on the meta device"):
        Coupling(models, 1.0)


@pytest.mark.parametrize("state", [{}, None, Tensors(w=[0.5]).state_dict(), [1]], ids=repr)
def test_what_is_no_state_of_a_coupling(state):
    with pytest.raises(InputError, match="expected the state of a coupling.* found"):
        Coupling(_models(), 1.0).load_state_dict(state)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda m: Coupling(m, np.float32(0.5)), {"w": 0.5, "v": 0.5}),
        (lambda m: Coupling(m, {"w": np.int64(2)}), {"w": 2.0, "v": 0.0}),
        (lambda m: elastic_averaging(m, np.float32(0.5), every=np.int64(2)), {"w": 0.5, "v": 0.5}),
        (lambda m: hard_sharing(m, "w*"), {"w": math.inf, "v": 0.0}),
        (lambda m: Coupling(m, by_depth(1, 1, private="w*")), {"w": 0.0, "v": 1.0}),
    ],
)
def test_what_is_taken_in_another_form(make, expected):
    assert make(_models()).strengths() == expected
