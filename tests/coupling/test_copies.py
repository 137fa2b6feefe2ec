"""Copies of couplings, made together with models and optimizers, and couplings that are gone."""

import copy
import io
import math
import pickle

import pytest
import torch
from coupling_toys import Tensors, adamw, assert_weights, backward, made, sgd, step_all, train

from conjoin.coupling import (
    Coupling,
    elastic_averaging,
    fedprox,
    over_time,
    target_gap,
    thread_loss,
)

OPTIMA = [1.0, -1.0, 0.5]

MOMENTUM = sgd(0.05, momentum=0.9, nesterov=True)

CASES = {
    "SGD": (MOMENTUM, lambda models: Coupling(models, 1.0)),
    "two, AdamW": (adamw(0.01), lambda models: Coupling(dict(list(models.items())[:2]), 1.0)),
    "three, AdamW": (adamw(0.01), lambda models: Coupling(models, 1.0)),
    "every 4": (MOMENTUM, lambda models: Coupling(models, 1.0, every=4)),
    "shared": (adamw(0.01), lambda models: Coupling(models, {"w": math.inf, "v": 0.5})),
    "arriving": (MOMENTUM, lambda models: Coupling(models, over_time({0: 1.0, 9: math.inf}))),
    "target gap": (MOMENTUM, lambda models: Coupling(models, target_gap(0.01, every=2))),
    "FedProx": (MOMENTUM, lambda models: fedprox(models, 0.5, round_steps=4)),
    "elastic": (MOMENTUM, lambda models: elastic_averaging(models, 0.2, every=3)),
}


def _pickled(parts):
    return pickle.loads(pickle.dumps(parts))


def _stored_by_torch(parts):
    file = io.BytesIO()
    torch.save(parts, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {"copied": copy.deepcopy, "pickled": _pickled, "stored": _stored_by_torch}


def _values(models):
    return {(n, k): v.clone() for n, (net, _) in models.items() for k, v in net.named_parameters()}


def _assert_same(one, other):
    one, other = _values(one), _values(other)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_a_copy_goes_on_as_the_original_does(case, way):
    optimizer, coupling_of = CASES[case]
    models = made(Tensors(w=[0.5, 2.0], v=[[1.0], [-1.0]]), optimizer, 3)
    coupling = coupling_of(models)
    train(models, coupling, 6, OPTIMA)
    copied, copied_coupling = WAYS[way]((models, coupling))
    _assert_same(copied, models)
    train(models, coupling, 7, OPTIMA)
    train(copied, copied_coupling, 7, OPTIMA)
    _assert_same(copied, models)
    assert copied_coupling.time == coupling.time > 6
    assert copied_coupling.gap() == coupling.gap()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("first", [True, False], ids=["before its models", "after its models"])
def test_a_copy_pulls_its_models_and_no_others(way, first):
    models = made(Tensors(w=[0.0]), sgd(0.1))
    coupling = Coupling(models, 1.0)
    if first:
        copied_coupling, copied = WAYS[way]((coupling, models))
    else:
        copied, copied_coupling = WAYS[way]((models, coupling))
    train(copied, copied_coupling, 1, OPTIMA[:2])
    # The steps give .1 and -.1; the difference is divided by 1 + 2 * strength * (.1 + .1).
    assert_weights(copied, [[0.1 / 1.4], [-0.1 / 1.4]])
    assert_weights(models, [[0.0], [0.0]])
    assert coupling.time == 0


def test_a_copied_penalty_is_the_same():
    models = made(Tensors(w=[0.5]), sgd(0.1))
    coupling = thread_loss(models, 2.0)
    step_all(models)
    assert_weights(models, [[0.55], [0.35]])
    for way in WAYS.values():
        _, copied = way((models, coupling))
        assert copied.penalty("a").item() == pytest.approx(2.0 * 0.2**2)


def test_steps_since_the_last_pull_are_copied():
    models = made(Tensors(w=[0.0]), sgd(0.1))
    coupling = Coupling(models, 1.0, every=3)
    train(models, coupling, 2, OPTIMA[:2])
    copied, copied_coupling = copy.deepcopy((models, coupling))
    train(copied, copied_coupling, 1, OPTIMA[:2])
    train(models, coupling, 1, OPTIMA[:2])
    assert (copied_coupling.time, coupling.time) == (3, 3)
    _assert_same(copied, models)


def test_a_shallow_copy_counts_for_itself():
    models = made(Tensors(w=[0.0]), sgd(0.1))
    coupling = Coupling(models, 1.0)
    other = copy.copy(coupling)
    step_all(models)
    coupling.pull()
    assert (coupling.time, other.time) == (1, 0)
    assert_weights(models, [[0.1 / 1.4], [-0.1 / 1.4]])


def _hooks(models):
    return [len(optimizer._optimizer_step_post_hooks) for _, optimizer in models.values()]


def test_a_coupling_that_is_gone_leaves_nothing_in_the_optimizers():
    models = made(Tensors(w=[0.5]), sgd(0.1))
    for _ in range(3):
        coupling = Coupling(models, 1.0)
    assert _hooks(models) == [1, 1]
    del coupling
    assert _hooks(models) == [0, 0]
    for (net, optimizer), optimum in zip(models.values(), OPTIMA, strict=False):
        before = net.w.item()
        backward(net, optimum)
        optimizer.step()
        assert net.w.item() == pytest.approx(before - 0.1 * (before - optimum))
