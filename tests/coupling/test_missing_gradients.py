"""Steps in which a model, or one of its parameters, has no gradient."""

import math

import numpy as np
import pytest
import torch
from coupling_toys import (
    Tensors,
    adam,
    adamw,
    assert_weights,
    backward,
    consensus,
    joint,
    made,
    sgd,
    weights_of,
)

from conjoin.coupling import Coupling, copies_of, fedprox

OPTIMIZERS = {
    "SGD": sgd(0.02),
    "momentum": sgd(0.005, momentum=0.8),
    "Adam": adam(0.005),
    "AMSGrad": adam(0.005, amsgrad=True),
    "AdamW without eps": adamw(0.005, weight_decay=0.0, eps=0.0),
}


def _clear(models):
    for module, _ in models.values():
        module.zero_grad()


@pytest.mark.parametrize(("count", "every"), [(2, 1), (3, 1), (2, 3)])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_models_that_take_turns_have_the_balance_of_the_objective(name, count, every):
    """Each has a batch only when it is its turn, and all optimizers step at every one."""
    optima = [1.0, -1.0, 0.5][:count]
    models = made(Tensors(w=[0.0]), OPTIMIZERS[name], count)
    coupling = Coupling(models, 1.0, every=every)
    for step in range(1998):
        _clear(models)
        backward(list(models.values())[step % count][0], optima[step % count])
        coupling.step()
    for found, expected in zip(weights_of(models), consensus(1.0, optima), strict=True):
        assert found.item() == pytest.approx(expected, abs=0.01)
    assert coupling.time == 1998


@pytest.mark.parametrize("optimizer", [sgd, adam])
def test_a_model_without_a_batch_is_an_anchor(optimizer):
    models = made(Tensors(w=[0.5, -1.0], v=[2.0]), optimizer(0.1))
    coupling = Coupling(models, 2.0)
    for module, _ in models.values():
        backward(module, 3.0)
    coupling.step()
    _clear(models)
    a, made_by = models["a"]
    backward(a, 1.0)
    for _, either in models.values():
        either.step()
    before = weights_of(models)
    moments = made_by.state[a.w].get("exp_avg_sq")
    step = 0.1 if moments is None else 0.1 / ((moments / (1 - 0.999**2)).sqrt() + 1e-8).numpy()
    coupling.pull()
    assert_weights(models, joint(before, [step, 0.0], 2.0), rtol=1e-6)
    np.testing.assert_array_equal(weights_of(models)[1], before[1])


@pytest.mark.parametrize("way", ["none", "zeros"])
@pytest.mark.parametrize("name", list(OPTIMIZERS)[:4])
def test_what_a_loss_does_not_depend_on_follows_the_others(name, way):
    """The minimum of (w_a - 1)^2 / 2 + (w_a - w_b)^2 has w_b = w_a = 1."""
    models = made(Tensors(w=[0.0], v=[0.0]), OPTIMIZERS[name])
    coupling = Coupling(models, 1.0)
    (a, _), (b, _) = models.values()
    for _ in range(1500):
        backward(a, 1.0)
        backward(b, -1.0)
        b.w.grad = None if way == "none" else torch.zeros_like(b.w)
        coupling.step()
    for found, expected in zip(weights_of(models), [1.0, 1.0], strict=True):
        assert found.item() == pytest.approx(expected, abs=1e-3)
    for found, expected in zip(weights_of(models, "v"), [0.2, -0.2], strict=True):
        assert found.item() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", list(OPTIMIZERS)[:4])
def test_no_gradient_is_a_gradient_of_zero_to_a_pull(name):
    ends = []
    for way in ("none", "zeros"):
        models = made(Tensors(w=[0.5, 1.0], v=[1.0]), OPTIMIZERS[name], 3)
        coupling = Coupling(models, 2.0, start="any")
        for number, (module, _) in enumerate(models.values()):
            with torch.no_grad():
                module.w.add_(number)
            backward(module, number)
            if number != 1:
                module.w.grad = None if way == "none" else torch.zeros_like(module.w)
        coupling.step()
        ends.append(weights_of(models))
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-6)
    assert abs(ends[0][0] - [0.5, 1.0]).max() > 0.01


def step_without_v(models, coupling):
    """Let `v`, that of "b" one more, have no gradient."""
    with torch.no_grad():
        models["b"][0].v.add_(1.0)
    for number, (module, _) in enumerate(models.values()):
        backward(module, number)
        module.v.grad = None
    coupling.step()


@pytest.mark.parametrize("optimizer", [sgd(0.1), adam(0.1), adam(0.1, eps=0.0)])
def test_what_no_loss_depends_on_goes_to_its_mean(optimizer):
    models = made(Tensors(w=[0.5], v=[1.0]), optimizer)
    step_without_v(models, Coupling(models, 1e6))
    assert_weights(models, [[1.5], [1.5]], "v", rtol=1e-5)


def test_fedprox_pulls_what_a_loss_does_not_depend_on_to_the_center():
    models = made(Tensors(w=[0.5], v=[1.0]), adam(0.1))
    step_without_v(models, fedprox(models, 1e6, round_steps=100))
    assert_weights(models, [[1.0], [1.0]], "v", rtol=1e-5)


@pytest.mark.parametrize("optimizer", [sgd(0.02), adam(0.005)])
@pytest.mark.parametrize("calls", ["one", "three"])
def test_a_gradient_that_was_shared_is_no_batch(optimizer, calls):
    """The infinite trunk gets the mean at each step; the pulled head of the other does not move."""
    models = made(Tensors(trunk=[0.0], head=[0.0]), optimizer)
    coupling = Coupling(models, {"trunk": math.inf, "head": 1.0})
    for step in range(2000):
        _clear(models)
        backward(models["ab"[step % 2]][0], (1.0, -1.0)[step % 2])
        if calls == "one":
            coupling.step()
            continue
        coupling.share_gradients()
        for _, made_by in models.values():
            made_by.step()
        coupling.pull()
    for found, expected in zip(weights_of(models, "head"), [0.2, -0.2], strict=True):
        assert found.item() == pytest.approx(expected, abs=0.01)


def test_models_that_take_turns_at_one_optimizer():
    nets = copies_of(Tensors(w=[0.0]), ["a", "b"])
    optimizer = torch.optim.SGD([net.w for net in nets.values()], 0.02)
    models = {name: (net, optimizer) for name, net in nets.items()}
    coupling = Coupling(models, 1.0)
    for step in range(2000):
        _clear(models)
        backward(nets["ab"[step % 2]], (1.0, -1.0)[step % 2])
        coupling.step()
    for found, expected in zip(weights_of(models), [0.2, -0.2], strict=True):
        assert found.item() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("optimizer", [sgd(0.002, momentum=0.5), adam(0.002)])
def test_a_parameter_that_some_batches_reach_has_the_mean_loss(optimizer):
    """Every second batch of b depends on w: its loss is half of (w + 1)^2 / 2 in the mean."""
    models = made(Tensors(w=[0.0], v=[0.0]), optimizer)
    coupling = Coupling(models, 1.0)
    (a, _), (b, _) = models.values()
    for step in range(2500):
        backward(a, 1.0)
        backward(b, -1.0)
        if step % 2:
            b.w.grad = None
        coupling.step()
    expected = consensus(1.0, [1.0, -1.0], [1.0, 0.5])
    for found, value in zip(weights_of(models), expected, strict=True):
        assert found.item() == pytest.approx(value, abs=0.01)


def test_gradients_of_what_the_optimizer_does_not_move_are_no_batch():
    models = made(Tensors(w=[0.5], other=[1.0]), sgd(0.1))
    net, _ = models["b"]
    models["b"] = (net, torch.optim.SGD([net.w], 0.1))
    coupling = Coupling(models, {"w": 1.0})
    backward(models["a"][0], 1.0)
    net.other.grad = torch.ones_like(net.other)
    coupling.step()
    assert net.w.item() == 0.5
