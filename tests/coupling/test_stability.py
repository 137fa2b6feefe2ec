"""Where the penalty in the loss diverges, and that the joint pull never does."""

import warnings

import numpy as np
import pytest
import torch
from coupling_toys import Tensors, adam, adamw, backward, consensus, made, sgd

from conjoin.coupling import Coupling, stable_strength, thread_loss
from conjoin.errors import InputError, StabilityWarning

SETTINGS = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.5},
    {"momentum": 0.9, "dampening": 0.5},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.3, "nesterov": True},
]


def _spread(rates, strength, settings, steps=600):
    """Simulate the penalty alone, with torch's SGD; give how far models are apart, start and end.

    Written without conjoin: each model's gradient is ``2 strength sum_j (w_i - w_j)``.
    """
    start = torch.tensor([1.0, -0.7, 0.4][: len(rates)], dtype=torch.float64)
    weights = [value.clone().requires_grad_() for value in start]
    optimizers = [
        torch.optim.SGD([w], lr, **settings) for w, lr in zip(weights, rates, strict=True)
    ]
    for _ in range(steps):
        held = torch.stack([w.detach() for w in weights])
        for w in weights:
            w.grad = 2 * strength * (w.detach() - held).sum()
        for optimizer in optimizers:
            optimizer.step()
    end = torch.stack([w.detach() for w in weights])
    return float(start.max() - start.min()), float(end.max() - end.min())


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("rates", [[0.1, 0.1], [0.1] * 3, [0.1, 0.03], [0.2, 0.01, 0.05]], ids=str)
def test_the_limit_against_a_simulation(rates, settings):
    limit = stable_strength(rates, **settings)
    start, below = _spread(rates, 0.97 * limit, settings)
    assert below < 0.1 * start
    start, above = _spread(rates, 1.03 * limit, settings)
    assert above > 10 * start


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, 0.5), ({"momentum": 0.9}, 0.95), ({"momentum": 0.9, "nesterov": True}, 0.339)],
)
def test_the_limit_of_two_models_by_hand(settings, expected):
    assert 0.01 * stable_strength([0.01, 0.01], **settings) == pytest.approx(expected, abs=5e-4)


def test_the_limit_of_others_by_hand():
    assert stable_strength([0.1] * 4) == pytest.approx(1 / (4 * 0.1))
    assert stable_strength([0.3, 0.1]) == pytest.approx(1 / 0.4)  # one moves, the other too
    assert stable_strength([0.1, 0.0]) == pytest.approx(1 / 0.1)
    assert stable_strength([0.0, 0.0]) == float("inf")
    assert stable_strength([0.1, 0.1], dampening=0.5) == 5  # has no effect without momentum
    with pytest.raises(InputError, match="two models or more"):
        stable_strength([0.1])


def _penalties(models, strength):
    coupling = thread_loss(models, strength)
    for name in models:
        coupling.penalty(name)
    return coupling


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_warning_is_given_from_the_limit_on(settings):
    limit = stable_strength([0.1, 0.05], **settings)
    models = made(Tensors(w=[1.0]), [sgd(0.1, **settings), sgd(0.05, **settings)])
    _penalties(models, 0.999 * limit)
    with pytest.warns(StabilityWarning, match="'w' has strength.*diverges"):
        _penalties(models, 1.001 * limit)


def test_the_warning_is_given_once_when_a_schedule_crosses_the_limit():
    models = made(Tensors(w=[1.0]), sgd(0.01))
    coupling = thread_loss(models, 10.0)
    warned = []
    for step in range(10):
        for module, optimizer in models.values():
            optimizer.param_groups[0]["lr"] = 0.01 * (step + 1)
            backward(module, 0.0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for name in models:
                coupling.penalty(name)
        warned += [step] * len(caught)
        coupling.step()
    assert warned == [4]  # lr * strength is .5 there


def test_no_warning_without_reason():
    _penalties(made(Tensors(w=[1.0]), adam(0.1)), 1e6)  # jitters, but does not diverge
    _penalties(made(Tensors(w=[1.0], v=[1.0]), sgd(0.1)), {"w": 1.0})
    models = made(Tensors(w=[1.0], v=[1.0]), sgd(0.1))
    for name, (module, _) in list(models.items()):
        models[name] = (module, sgd(0.1)([module.v]))
    _penalties(models, {"w": 1e6})  # nobody trains it


KINDS = [
    lambda r: sgd(r),
    lambda r: sgd(r, momentum=0.9),
    lambda r: sgd(r, momentum=0.9, nesterov=True),
    lambda r: sgd(r, momentum=0.7, dampening=0.5),
    lambda r: adam(0.1 * r),
    lambda r: adamw(0.1 * r, weight_decay=0.01),
    lambda r: adam(0.1 * r, betas=(0.5, 0.9), amsgrad=True),
]


@pytest.mark.parametrize("seed", range(15))
def test_the_joint_pull_never_diverges(seed):
    """300 random quadratics: 15 mixes of optimizers and rates, times 20 of all the rest."""
    rng = np.random.default_rng(seed)
    count = 2 + seed % 3
    among = KINDS[:4] if seed % 3 == 0 else KINDS  # a third with SGD only
    kinds = [among[number] for number in rng.integers(len(among), size=count)]
    rates = 10 ** rng.uniform(-2, -0.3, count)
    strengths = {f"s_{k}": float(10 ** rng.uniform(-3, 6)) for k in range(4)}
    models = made(
        Tensors(**{name: rng.uniform(-1, 1, 5) for name in strengths}),
        [kind(rate) for kind, rate in zip(kinds, rates, strict=True)],
    )
    # Curvatures at which each optimizer alone is stable: lr * curvature up to 1.
    shape = (count, len(strengths), 5)
    curvatures = 10 ** rng.uniform(-1.7, 0, shape) / rates[:, None, None]
    optima = rng.uniform(-1, 1, shape)
    coupling = Coupling(models, strengths)
    largest = 0.0
    for _ in range(500):
        for number, (module, _) in enumerate(models.values()):
            for k, p in enumerate(module.parameters()):
                c, t = (torch.from_numpy(x[number, k]) for x in (curvatures, optima))
                p.grad = c * (p.detach() - t)
        coupling.step()
        now = torch.cat([p.detach() for m, _ in models.values() for p in m.parameters()])
        largest = max(largest, float(now.abs().max()))
    # All begins within 1 of zero; a heavy ball by itself swings over by less than that again.
    assert largest < 4
    assert now.abs().max() < 1.1
    if among is not KINDS:  # SGD has settled: where the formula says
        for k, (name, strength) in enumerate(strengths.items()):
            for element in range(5):
                expected = consensus(strength, optima[:, k, element], curvatures[:, k, element])
                found = [m.get_parameter(name)[element].item() for m, _ in models.values()]
                assert found == pytest.approx(list(expected), abs=1e-3)
