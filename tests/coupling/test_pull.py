"""How far a pull goes: effective steps, rates, groups, and steps between pulls."""

import numpy as np
import pytest
import torch
from coupling_toys import (
    Tensors,
    adam,
    adam_steps,
    adamw,
    assert_weights,
    backward,
    joint,
    made,
    sgd,
    step_all,
    train,
    values,
    weights_of,
)
from torch import nn

from conjoin.coupling import Coupling, copies_of
from conjoin.errors import InputError


def test_sgd_pulls_by_its_rate():
    models = made(Tensors(w=[0.5, -1.0]), [sgd(0.1), sgd(0.3)])
    coupling = Coupling(models, 2.0)
    step_all(models)
    before = weights_of(models)
    coupling.pull()
    gap = (before[0] - before[1]) / (1 + 2 * 2.0 * (0.1 + 0.3))
    assert_weights(models, [before[0] - 4 * 0.1 * gap, before[1] + 4 * 0.3 * gap])
    a, b = weights_of(models)
    np.testing.assert_allclose(a - b, gap, rtol=1e-11)


@pytest.mark.parametrize(
    "settings",
    [{}, {"eps": 0.1}, {"amsgrad": True, "betas": (0.9, 0.5)}],  # .5: the maximum is not the last
)
@pytest.mark.parametrize("count", [2, 3])
def test_adam_pulls_each_element_by_its_own_step(settings, count):
    models = made(Tensors(w=[0.5, -1.0, 3.0]), adam(0.1, **settings), count)
    coupling = Coupling(models, 0.5)
    for _ in range(3):
        step_all(models)
        before = weights_of(models)
        expected = joint(before, adam_steps(models, [0.1] * count), 0.5)
        coupling.pull()
        assert_weights(models, expected)


def test_sgd_beside_adam():
    models = made(Tensors(w=[0.5, -1.0, 3.0]), [sgd(0.2, momentum=0.5), adam(0.1)])
    coupling = Coupling(models, 0.5)
    step_all(models)
    second = dict([list(models.items())[1]])
    expected = joint(weights_of(models), [0.4, *adam_steps(second, [0.1])], 0.5)
    coupling.pull()
    assert_weights(models, expected)


@pytest.mark.parametrize("optimizer", [sgd, adamw])
def test_a_pull_every_k_steps_has_the_sum_of_their_rates(optimizer):
    models = made(Tensors(w=[0.5, -1.0]), optimizer(0.1))
    coupling = Coupling(models, 0.7, every=3)
    rates = (0.1, 0.2, 0.05)
    for number, rate in enumerate(rates):
        for _, made_by in models.values():
            made_by.param_groups[0]["lr"] = rate
        step_all(models)
        before = weights_of(models)
        if number < 2:
            coupling.pull()
            assert_weights(models, before, rtol=0)
            assert coupling.time == 0
    steps = [sum(rates)] * 2 if optimizer is sgd else adam_steps(models, [sum(rates)] * 2)
    coupling.pull()
    assert_weights(models, joint(before, steps, 0.7))
    assert coupling.time == 3


def test_pulls_that_come_late_are_as_long():
    """Steps count, not calls: three steps before one call are as every=3."""
    ends = []
    for every in (3, 1):
        models = made(Tensors(w=[0.5, -1.0]), sgd(0.1, momentum=0.9))
        coupling = Coupling(models, 0.7, every=every)
        for _ in range(4):
            for _ in range(3):
                step_all(models)
                if every == 3:
                    coupling.pull()
            coupling.pull()  # once more does nothing
        ends.append(weights_of(models))
    np.testing.assert_array_equal(ends[0], ends[1])


def test_a_constant_rate_every_k_steps_is_k_times_the_step():
    models = made(Tensors(w=[0.5, -1.0]), sgd(0.1))
    coupling = Coupling(models, 0.7, every=4)
    for _ in range(4):
        step_all(models)
    before = weights_of(models)
    coupling.pull()
    assert_weights(models, joint(before, [0.4, 0.4], 0.7))


@pytest.mark.parametrize("optimizer", [sgd(0.1, momentum=0.9), adamw(0.1)])
def test_the_scheduler_may_step_before_or_after_the_pull(optimizer):
    ends = []
    for before in (True, False):
        models = made(Tensors(w=[0.5, -1.0]), optimizer)
        schedulers = [
            torch.optim.lr_scheduler.ExponentialLR(made_by, 0.7) for _, made_by in models.values()
        ]
        coupling = Coupling(models, 0.7)
        for _ in range(10):
            step_all(models)
            if not before:
                coupling.pull()
            for scheduler in schedulers:
                scheduler.step()
            if before:
                coupling.pull()
        ends.append(weights_of(models))
    np.testing.assert_array_equal(ends[0], ends[1])


def test_one_model_may_step_more_often():
    models = made(Tensors(w=[0.5, -1.0]), [sgd(0.1), sgd(0.3)])
    coupling = Coupling(models, 0.7)
    (a, opt_a), _ = models.values()
    backward(a, 1.0)
    opt_a.step()
    step_all(models)
    before = weights_of(models)
    coupling.pull()
    assert_weights(models, joint(before, [0.2, 0.3], 0.7))
    assert coupling.time == 2


def test_accumulated_gradients_are_one_step():
    torch.manual_seed(0)
    x, y = torch.randn(2, 8, 3).double(), torch.randn(2, 8, 1).double()
    ends = []
    for parts in (1, 4):
        models = made(nn.Linear(3, 1).double(), sgd(0.1, momentum=0.9))
        with torch.no_grad():
            for module, _ in models.values():
                module.weight.fill_(0.1)
                module.bias.zero_()
        coupling = Coupling(models, 0.5)
        for _ in range(5):
            for task, (module, _) in enumerate(models.values()):
                module.zero_grad()
                for xs, ys in zip(x[task].chunk(parts), y[task].chunk(parts), strict=True):
                    ((module(xs) - ys).square().mean() / parts).backward()
            coupling.step()
        assert coupling.time == 5
        ends.append([values(module) for module, _ in models.values()])
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-12, atol=1e-14)


def _grouped(rates):
    def make(parameters):
        w, v = parameters
        groups = [{"params": [w], "lr": rates[0]}, {"params": [v], "lr": rates[1]}]
        return torch.optim.SGD(groups, lr=1.0, momentum=0.5)

    return make


def test_each_group_has_its_own_rate():
    models = made(Tensors(w=[0.5], v=[0.5, 2.0]), [_grouped((0.1, 0.2)), _grouped((0.3, 0.05))])
    coupling = Coupling(models, 0.7)
    step_all(models)
    w, v = weights_of(models), weights_of(models, "v")
    coupling.pull()
    assert_weights(models, joint(w, [0.2, 0.6], 0.7))
    assert_weights(models, joint(v, [0.4, 0.1], 0.7), "v")


def test_loading_an_optimizers_state_replaces_its_groups():
    models = made(Tensors(w=[0.5], v=[0.5, 2.0]), _grouped((0.1, 0.2)))
    coupling = Coupling(models, 0.7)
    step_all(models)
    coupling.pull()
    for _, optimizer in models.values():
        state = optimizer.state_dict()
        state["param_groups"][0]["lr"] = 0.4
        optimizer.load_state_dict(state)
    step_all(models)
    w, v = weights_of(models), weights_of(models, "v")
    coupling.pull()
    assert_weights(models, joint(w, [0.8, 0.8], 0.7))
    assert_weights(models, joint(v, [0.4, 0.4], 0.7), "v")


def test_a_group_that_is_added_later_is_pulled():
    start = Tensors(w=[0.5], v=[0.5])
    models = made(start, lambda parameters: torch.optim.SGD([next(parameters)], 0.1))
    coupling = Coupling(models, 0.7)
    step_all(models)
    coupling.pull()
    for module, optimizer in models.values():
        optimizer.add_param_group({"params": [module.v], "lr": 0.3})
    step_all(models)
    before = weights_of(models, "v")
    coupling.pull()
    assert_weights(models, joint(before, [0.3, 0.3], 0.7), "v")


def test_one_optimizer_may_train_all_models():
    nets = copies_of(Tensors(w=[0.5, -1.0]), ["a", "b"])
    optimizer = torch.optim.SGD([net.w for net in nets.values()], 0.1, momentum=0.9)
    coupling = Coupling({name: (net, optimizer) for name, net in nets.items()}, 2.0)
    models = made(Tensors(w=[0.5, -1.0]), sgd(0.1, momentum=0.9))
    train(models, Coupling(models, 2.0), 5, [1.0, -1.0])
    for _ in range(5):
        for net, optimum in zip(nets.values(), (1.0, -1.0), strict=True):
            backward(net, optimum)
        coupling.step()
    assert coupling.time == 5
    for net, found in zip(nets.values(), weights_of(models), strict=True):
        np.testing.assert_array_equal(net.w.detach().numpy(), found)


@pytest.mark.parametrize("how", ["requires no gradient", "left out", "rate 0"])
@pytest.mark.parametrize("optimizer", [sgd, adam])
def test_what_one_model_does_not_move_is_an_anchor_to_the_others(how, optimizer):
    models = made(Tensors(w=[0.5, -1.0], v=[1.0]), optimizer(0.1))
    module, _ = models["b"]
    if how == "requires no gradient":
        module.w.requires_grad_(False)
    elif how == "left out":
        models["b"] = (module, optimizer(0.1)([module.v]))
    else:
        models["b"] = (module, optimizer(0.0)(module.parameters()))
    coupling = Coupling(models, 2.0)
    step_all(models)
    before = weights_of(models)
    first = dict([next(iter(models.items()))])
    step = [0.1] if optimizer is sgd else adam_steps(first, [0.1])
    coupling.pull()
    assert_weights(models, joint(before, [*step, 0.0], 2.0))
    np.testing.assert_array_equal(weights_of(models)[1], [0.5, -1.0])
    assert abs(weights_of(models)[0] - before[0]).max() > 1e-3


def test_private_tensors_may_differ_in_shape_or_be_in_some_models_only():
    nets = {"a": Tensors(w=[1.0], head=[1.0, 2.0]), "b": Tensors(w=[1.0], head=[1.0], more=[5.0])}
    models = {name: (net, torch.optim.SGD(net.parameters(), 0.1)) for name, net in nets.items()}
    coupling = Coupling(models, {"w": 1.0})
    train(models, coupling, 200, [1.0, -1.0])
    assert nets["a"].w.item() == pytest.approx(0.2)
    assert nets["b"].more.item() == pytest.approx(-1.0)
    assert set(coupling.strengths()) == {"w", "head", "more"}
    assert list(coupling.gap().values()) == [pytest.approx(2.0)]  # of w alone: .4 / .2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_optimizers_by_choice(dtype):
    start = Tensors(w=[0.5, -1.0]).to(dtype)
    models = made(start, lambda parameters: torch.optim.RMSprop(parameters, 0.01))
    with pytest.raises(InputError, match="'a' is trained by RMSprop.*SGD, Adam and AdamW"):
        Coupling(models, 1.0)
    coupling = Coupling(models, 1.0, other_optimizers="learning rate")
    step_all(models)
    before = weights_of(models)
    coupling.pull()
    assert_weights(models, joint(before, [0.01] * 2, 1.0), rtol=1e-6)


def test_a_pull_before_any_step_does_nothing():
    models = made(Tensors(w=[0.5]), sgd(0.1))
    coupling = Coupling(models, 1.0)
    with torch.no_grad():
        models["b"][0].w.add_(1.0)
    coupling.pull()
    assert [w.item() for w in weights_of(models)] == [0.5, 1.5]
    assert coupling.time == 0


def test_a_momentum_that_never_settles_is_refused():
    models = made(Tensors(w=[0.5]), sgd(0.1, momentum=1.0))
    coupling = Coupling(models, 1.0)
    with pytest.raises(InputError, match="momentum 1.0 never settles"):
        train(models, coupling, 1, [1.0, -1.0])
