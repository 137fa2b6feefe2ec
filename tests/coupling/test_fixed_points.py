"""Where coupled training ends: the stationary points of the coupled objective, in closed form."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from coupling_toys import Tensors, adam, adamw, consensus, made, sgd, train
from torch import nn
from torch.nn import functional as F

from conjoin.coupling import Coupling, thread_loss

STRENGTHS = {"s_0": 0.0, "s_1": 0.1, "s_2": 1.0, "s_3": 5.0, "s_4": 100.0, "s_5": 1e6}


def _start(value=0.3):
    return Tensors(**{name: [value] for name in STRENGTHS})


def _assert_at(models, expected_of, relative=1e-6):
    for name, strength in STRENGTHS.items():
        expected = expected_of(strength)
        for (module, _), value in zip(models.values(), expected, strict=True):
            found = module.get_parameter(name).item()
            assert found == pytest.approx(value, rel=relative, abs=0), (name, strength)


@pytest.mark.parametrize(
    ("optimizer", "decay", "steps"),
    [
        (sgd(0.1), 0.0, 400),
        (sgd(0.1, weight_decay=0.5), 0.5, 400),
        (sgd(0.1, momentum=0.9), 0.0, 900),
        (sgd(0.1, momentum=0.9, dampening=0.5), 0.0, 1000),
        (sgd(0.1, momentum=0.9, nesterov=True), 0.0, 900),
        (sgd(0.1, momentum=0.9, nesterov=True, weight_decay=0.1), 0.1, 900),
    ],
    ids=["SGD", "SGD, decay", "heavy ball", "dampening", "Nesterov", "Nesterov, decay"],
)
def test_the_toy_with_sgd(optimizer, decay, steps):
    models = made(_start(), optimizer)
    train(models, Coupling(models, STRENGTHS), steps, [1.0, -1.0])

    def expected(strength):
        value = 1 / (1 + decay + 4 * strength)
        return value, -value

    _assert_at(models, expected)


@pytest.mark.parametrize(
    ("optimizer", "decay"),
    [
        (adam(0.05), 0.0),
        (adam(0.05, amsgrad=True), 0.0),
        (adam(0.05, eps=0.05), 0.0),
        (adam(0.05, weight_decay=0.5), 0.5),
        (adamw(0.05, weight_decay=0.0), 0.0),
    ],
    ids=["Adam", "AMSGrad", "large eps", "Adam, decay in the gradient", "AdamW"],
)
def test_the_toy_with_adam(optimizer, decay):
    models = made(_start(), optimizer)
    train(models, Coupling(models, STRENGTHS), 800, [1.0, -1.0])

    def expected(strength):
        value = 1 / (1 + decay + 4 * strength)
        return value, -value

    _assert_at(models, expected)


@pytest.mark.parametrize("count", [3, 4])
def test_three_and_four_models(count):
    optima, curvatures = [1.0, -1.0, 0.5, 2.0][:count], [1.0, 0.5, 2.0, 1.0][:count]
    models = made(_start(), sgd(0.1, momentum=0.8), count)
    train(models, Coupling(models, STRENGTHS), 500, optima, curvatures)
    _assert_at(models, lambda s: consensus(s, optima, curvatures))


@pytest.mark.parametrize(
    "optimizers",
    [
        [sgd(0.1), sgd(0.3)],
        [sgd(0.1), sgd(0.02, momentum=0.9)],
        [sgd(0.1, momentum=0.9, nesterov=True), sgd(0.2, momentum=0.5, dampening=0.3), sgd(0.1)],
        [sgd(0.1), adam(0.05)],
        [sgd(0.05, momentum=0.9, nesterov=True), adamw(0.05, weight_decay=0), adam(0.05, eps=1e-3)],
        [adam(0.05), adam(0.03, betas=(0.8, 0.99))],
    ],
    ids=["rates", "momentum", "three of SGD", "SGD and Adam", "three kinds", "two of Adam"],
)
def test_the_mix_of_optimizers_does_not_matter(optimizers):
    optima, curvatures = [1.0, -1.0, 3.0][: len(optimizers)], [1.0, 0.7, 0.5][: len(optimizers)]
    models = made(_start(), optimizers)
    coupling = Coupling(models, STRENGTHS)
    train(models, coupling, 900, optima, curvatures)
    _assert_at(models, lambda s: consensus(s, optima, curvatures))


def _logistic(seed):
    """Give a strictly convex loss that is no quadratic."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    y = torch.randint(2, (30,), generator=generator).double()

    def loss(weight):
        return F.binary_cross_entropy_with_logits(x @ weight, y) + 0.05 * weight.square().sum()

    return loss


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.9, "nesterov": True}])
def test_the_loss_form_reaches_the_same_stationary_point(settings):
    strength, losses = 0.2, [_logistic(1), _logistic(2)]
    ends = []
    for loss_form in (True, False):
        models = made(Tensors(w=[0.1, -0.2, 0.3]), sgd(0.2, **settings))
        make = thread_loss if loss_form else Coupling
        coupling = make(models, strength)
        for _ in range(600):
            terms = [
                loss(module.w) for (module, _), loss in zip(models.values(), losses, strict=True)
            ]
            if loss_form:
                terms = [t + coupling.penalty(n) for t, n in zip(terms, models, strict=True)]
            for (module, _), term in zip(models.values(), terms, strict=True):
                module.zero_grad()
                term.backward()
            coupling.step()
        ends.append([module.w.detach().clone() for module, _ in models.values()])
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-9, atol=1e-12)
    # And it is one: the gradient of the coupled objective is zero there.
    a, b = (w.clone().requires_grad_() for w in ends[1])
    (losses[0](a) + losses[1](b) + strength * (a - b).square().sum()).backward()
    assert max(a.grad.abs().max(), b.grad.abs().max()) < 1e-10
    assert (a - b).norm() > 0.01  # the test would be empty if the two had one optimum


def test_the_bare_learning_rate_would_be_wrong():
    """A pull of lr instead of lr / (1 - momentum) ends at .714, not .2: the notes' trap."""
    w, v = np.array([0.3, 0.3]), np.zeros(2)
    for _ in range(2000):
        v = 0.9 * v + (w - [1.0, -1.0])
        w = w - 0.1 * v
        w = w.mean() + (w - w.mean()) / (1 + 4 * 0.1)
    assert w[0] == pytest.approx(0.714, abs=5e-4)
    models = made(Tensors(w=[0.3]), sgd(0.1, momentum=0.9))
    train(models, Coupling(models, 1.0), 900, [1.0, -1.0])
    assert models["a"][0].w.item() == pytest.approx(0.2, rel=1e-9)


def test_more_strength_smaller_gap():
    """Over-parametrized networks on different data, trained for as long at every strength."""
    torch.manual_seed(0)
    start = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    x = torch.randn(2, 40, 4)
    y = torch.randint(2, (2, 40))
    gaps = []
    for strength in (0.0, 0.001, 0.01, 0.1, 1.0, 10.0, 1e3, math.inf):
        models = made(start, sgd(0.05, momentum=0.9, nesterov=True))
        coupling = Coupling(models, strength)
        for _ in range(100):
            for number, (module, _) in enumerate(models.values()):
                module.zero_grad()
                F.cross_entropy(module(x[number]), y[number]).backward()
            coupling.step()
        gaps.append(coupling.gap())
    for layer in gaps[0]:
        of_layer = [gap[layer] for gap in gaps]
        assert all(more < less for less, more in pairwise(of_layer)), of_layer
        assert of_layer[0] > 0.1
        assert of_layer[-1] == 0
