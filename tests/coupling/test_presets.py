"""Couplings that have names, against the formula of each paper in plain NumPy."""

import math

import numpy as np
import pytest
import torch
from coupling_toys import Tensors, adam, made, sgd, train

from conjoin.coupling import (
    Coupling,
    elastic_averaging,
    fedprox,
    hard_sharing,
    local_sgd,
    over_time,
    papa,
    thread_loss,
)
from conjoin.errors import InputError, MismatchError

START = np.array([0.5, -2.0, 0.0])
OPTIMA = [1.0, -1.0, 3.0]
LR = 0.1


def _models(count=3, optimizer=None):
    return made(Tensors(w=START), optimizer or sgd(LR), count)


def _assert_weights(models, expected):
    for (module, _), w in zip(models.values(), expected, strict=True):
        np.testing.assert_allclose(module.w.detach().numpy(), w, rtol=1e-11, atol=1e-13)


def _step(weights):
    return [w - LR * (w - t) for w, t in zip(weights, OPTIMA, strict=True)]


@pytest.mark.parametrize("mu", [0.1, 5.0])
@pytest.mark.parametrize("steps", [1, 7, 8, 17])
def test_fedprox(mu, steps):
    """Li et al., algorithm 2: argmin F + mu/2 ||w - w_t||^2 locally, then the mean of all."""
    models = _models()
    train(models, fedprox(models, mu, round_steps=4), steps, OPTIMA)
    weights, center = [START] * 3, START
    for step in range(1, steps + 1):
        weights = [(w + LR * mu * center) / (1 + LR * mu) for w in _step(weights)]
        if step % 4 == 0:
            center = sum(weights) / 3
            weights = [center] * 3
    _assert_weights(models, weights)


def test_fedprox_ends_a_round_at_the_proximal_minimum():
    """With steps enough in a round: (c t + mu w_t) / (c + mu), for a quadratic of curvature c."""
    models = _models(2, sgd(LR, momentum=0.5))
    coupling = fedprox(models, 0.8, round_steps=300)
    train(models, coupling, 299, OPTIMA[:2], [1.0, 0.5])
    _assert_weights(
        models,
        [(c * t + 0.8 * START) / (c + 0.8) for c, t in ((1.0, OPTIMA[0]), (0.5, OPTIMA[1]))],
    )


def test_fedprox_with_adam_ends_at_the_proximal_minimum():
    models = _models(2, adam(0.05))
    train(models, fedprox(models, 0.8, round_steps=10**6), 600, OPTIMA[:2])
    for (module, _), optimum in zip(models.values(), OPTIMA[:2], strict=True):
        expected = (optimum + 0.8 * START) / 1.8
        np.testing.assert_allclose(module.w.detach().numpy(), expected, rtol=1e-8)


def test_fedprox_leaves_private_tensors_and_may_warm_up():
    models = made(Tensors(w=START, head=START), sgd(LR), 2)
    coupling = fedprox(models, over_time({0: {"w": 0.0}, 2: {"w": 1.0}}), round_steps=3)
    train(models, coupling, 3, OPTIMA[:2])
    (a, _), (b, _) = models.values()
    assert torch.equal(a.w, b.w)
    # At mu = 0, 1/2, 1: the anchor is the start.
    ends = []
    for optimum in OPTIMA[:2]:
        w = START
        for mu in (0, 0.5, 1):
            w = (w - LR * (w - optimum) + LR * mu * START) / (1 + LR * mu)
        ends.append(w)
    _assert_weights(models, [sum(ends) / 2] * 2)
    assert not torch.equal(a.head, b.head)


@pytest.mark.parametrize("every", [1, 3])
def test_elastic_averaging(every):
    """Zhang et al., equations 5 and 6, all workers and the center at once."""
    models = _models()
    coupling = elastic_averaging(models, 0.3, every=every)
    train(models, coupling, 7, OPTIMA)
    weights, center = [START] * 3, START
    for step in range(1, 8):
        weights = _step(weights)
        if step % every == 0:
            moved = [0.3 * (w - center) for w in weights]
            weights = [w - m for w, m in zip(weights, moved, strict=True)]
            center = center + sum(moved)
    _assert_weights(models, weights)
    np.testing.assert_allclose(coupling.state_dict()["center"]["w"].numpy(), center, rtol=1e-12)


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("every", [1, 3])
def test_papa(rate, every):
    models = _models()
    train(models, papa(models, rate, every=every), 7, OPTIMA)
    weights = [START] * 3
    for step in range(1, 8):
        weights = _step(weights)
        if step % every == 0:
            mean = sum(weights) / 3
            weights = [rate * w + (1 - rate) * mean for w in weights]
    _assert_weights(models, weights)


def test_papa_at_rate_0_is_local_sgd():
    ends = []
    for preset in (lambda models: papa(models, 0.0, every=3), lambda m: local_sgd(m, every=3)):
        models = _models()
        train(models, preset(models), 6, OPTIMA)
        ends.append([module.w.detach().clone() for module, _ in models.values()])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))
    assert torch.equal(ends[0][0], ends[0][1])  # the same bits just after averaging


def test_local_sgd():
    models = _models()
    train(models, local_sgd(models, every=3), 8, OPTIMA)
    weights = [START] * 3
    for step in range(1, 9):
        weights = _step(weights)
        if step % 3 == 0:
            weights = [sum(weights) / 3] * 3
    _assert_weights(models, weights)


def test_hard_sharing():
    models = made(Tensors(trunk=START, head=START), sgd(LR), 3)
    coupling = hard_sharing(models, ["trunk"])
    assert coupling.strengths() == {"trunk": math.inf, "head": 0.0}
    train(models, coupling, 5, OPTIMA)
    trunk, heads = START, [START] * 3
    for _ in range(5):
        trunk = trunk - LR * np.mean([trunk - t for t in OPTIMA], axis=0)
        heads = _step(heads)
    for (module, _), head in zip(models.values(), heads, strict=True):
        np.testing.assert_allclose(module.trunk.detach().numpy(), trunk, rtol=1e-12)
        np.testing.assert_allclose(module.head.detach().numpy(), head, rtol=1e-12)


def test_thread_loss_adds_the_penalty_once():
    models = _models(2)
    coupling = thread_loss(models, 0.5)
    weights = [START, START]
    for _ in range(5):
        losses = [
            (module.w - optimum).square().sum() / 2 + coupling.penalty(name)
            for (name, (module, _)), optimum in zip(models.items(), OPTIMA[:2], strict=True)
        ]
        for (module, _), loss in zip(models.values(), losses, strict=True):
            module.zero_grad()
            loss.backward()
        coupling.step()
        a, b = weights
        weights = [
            a - LR * (a - OPTIMA[0] + 2 * 0.5 * (a - b)),
            b - LR * (b - OPTIMA[1] + 2 * 0.5 * (b - a)),
        ]
    _assert_weights(models, weights)


def test_the_weak_end_of_papa_is_a_small_strength():
    """A share of the mean every step is the joint step with 1 / (1 + 2 N lr strength) = rate."""
    rate = 0.99
    strength = (1 / rate - 1) / (2 * 2 * LR)
    ends = []
    for coupling_of in (
        lambda models: papa(models, rate, every=1),
        lambda models: Coupling(models, strength),
    ):
        models = _models(2)
        train(models, coupling_of(models), 20, OPTIMA[:2])
        ends.append([module.w.detach().numpy() for module, _ in models.values()])
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-10)
    assert strength == pytest.approx(0.0253, abs=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda models: papa(models, 1.5), "from 0 to 1, not 1.5"),
        (lambda models: papa(models, -0.1), "from 0 to 1, not -0.1"),
        (lambda models: papa(models, every=0), "every has to be a whole number from 1 on"),
        (lambda models: local_sgd(models, every=0), "every has to be a whole number from 1 on"),
        (lambda models: elastic_averaging(models, 1.5), "from 0 to 1, not 1.5"),
        (lambda models: elastic_averaging(models, -0.5), "from 0 to 1, not -0.5"),
        (lambda models: fedprox(models, -1.0, round_steps=3), "a strength is a number"),
        (lambda models: fedprox(models, 1.0, round_steps=0), "rounds has to be"),
        (lambda models: hard_sharing(models, ["nothing"]), "matches none"),
        (lambda models: hard_sharing(models, []), "at least one pattern"),
        (lambda models: Coupling(models, 1.0, rounds=3), "rounds are for rules with a center"),
        (lambda models: Coupling(models, 1.0, start="same"), "'shared' or 'any', not 'same'"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make(_models())


@pytest.mark.parametrize(
    "preset",
    [
        lambda models: fedprox(models, 1.0, round_steps=3),
        lambda models: elastic_averaging(models, 0.5),
        lambda models: papa(models),
        lambda models: local_sgd(models, every=3),
        lambda models: hard_sharing(models, ["*"]),
        lambda models: thread_loss(models, 1.0),
    ],
)
def test_all_begin_from_one_start(preset):
    models = _models()
    with torch.no_grad():
        models["c"][0].w[1] += 0.25
    with pytest.raises(MismatchError, match="'a' and 'c'.*'w' differs by up to 0.25"):
        preset(models)
