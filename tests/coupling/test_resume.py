"""Going on from a stored state gives the bits of a training that was never interrupted."""

import io
import math

import pytest
import torch
from coupling_toys import Net, Tensors, adam, adamw, backward, images, made, sgd, train
from torch.nn import functional as F

from conjoin.coupling import (
    Coupling,
    by_depth,
    elastic_averaging,
    fedprox,
    local_sgd,
    over_time,
    target_gap,
    thread_loss,
)
from conjoin.errors import InputError

STEPS, STOP = 16, 7

NESTEROV = sgd(0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)

CASES = {
    "Nesterov": (NESTEROV, lambda models: Coupling(models, 1.0)),
    "AdamW": (adamw(0.01), lambda models: Coupling(models, 1.0)),
    "AMSGrad": (adam(0.01, amsgrad=True), lambda models: Coupling(models, by_depth(1, 0.1))),
    "fused": (adamw(0.01, fused=True), lambda models: Coupling(models, 1.0)),
    "every 3": (NESTEROV, lambda models: Coupling(models, 1.0, every=3)),
    "every 5, AdamW": (adamw(0.01), lambda models: Coupling(models, 1.0, every=5)),
    "warm-up": (NESTEROV, lambda models: Coupling(models, over_time({0: 0.0, 12: 1.0}))),
    "arriving before": (
        adamw(0.01),
        lambda models: Coupling(models, over_time({0: 1.0, 4: 1.0, 5: math.inf})),
    ),
    "arriving at the stop": (
        adamw(0.01),
        lambda models: Coupling(models, over_time({0: 1.0, STOP - 1: 1.0, STOP: math.inf})),
    ),
    "arriving after": (
        NESTEROV,
        lambda models: Coupling(models, over_time({0: 1.0, 10: 1.0, 11: math.inf})),
    ),
    "leaving": (NESTEROV, lambda models: Coupling(models, over_time({0: math.inf, 9: 0.1}))),
    "target gap": (NESTEROV, lambda models: Coupling(models, target_gap(0.01, every=2))),
    "trunk": (
        adamw(0.01),
        lambda models: Coupling(models, {"classifier.*": 0.0, "*": math.inf}),
    ),
    "FedProx": (NESTEROV, lambda models: fedprox(models, 0.5, round_steps=4)),
    "elastic": (NESTEROV, lambda models: elastic_averaging(models, 0.2, every=3)),
    "local SGD": (NESTEROV, lambda models: local_sgd(models, every=3)),
    "loss form": (NESTEROV, lambda models: thread_loss(models, over_time({0: 0.0, 12: 1.0}))),
}


def _set_up(case):
    optimizer, coupling_of = CASES[case]
    torch.manual_seed(0)
    models = made(Net(), optimizer)
    schedulers = {
        name: torch.optim.lr_scheduler.ExponentialLR(made_by, 0.95)
        for name, (_, made_by) in models.items()
    }
    return models, schedulers, coupling_of(models)


def _train(models, schedulers, coupling, begin, end, case):
    for step in range(begin, end):
        for task, (name, (net, _)) in enumerate(models.items()):
            net.zero_grad()
            x, y = images(8, seed=100 * task + step, dtype=torch.float32)
            torch.manual_seed(10 * step + task)
            loss = F.cross_entropy(net(x), y)
            if case == "loss form":
                loss = loss + coupling.penalty(name)
            loss.backward()
        coupling.step()
        for scheduler in schedulers.values():
            scheduler.step()


def _parts(models, schedulers, coupling):
    for name, (net, optimizer) in models.items():
        yield f"net {name}", net
        yield f"optimizer {name}", optimizer
        yield f"scheduler {name}", schedulers[name]
    yield "coupling", coupling


def _stored(*parts):
    """Give the states as a file gives them back, opened in the safe way."""
    file = io.BytesIO()
    torch.save({key: part.state_dict() for key, part in _parts(*parts)}, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _assert_same(one, other, where=""):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert set(one) == set(other), where
        for key in one:
            _assert_same(one[key], other[key], f"{where} {key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            _assert_same(*pair, f"{where} {number}")
    else:
        assert one == other, where


@pytest.mark.parametrize("case", CASES)
def test_resumed_is_uninterrupted(case):
    whole = _set_up(case)
    _train(*whole, 0, STEPS, case)
    first = _set_up(case)
    _train(*first, 0, STOP, case)
    stored = _stored(*first)
    second = _set_up(case)
    for key, part in _parts(*second):
        part.load_state_dict(stored[key])
    _assert_same(_stored(*second), stored)
    _train(*second, STOP, STEPS, case)
    _assert_same(_stored(*second), _stored(*whole))
    assert second[2].gap() == whole[2].gap()
    assert second[2].strengths() == whole[2].strengths()


def test_a_state_does_not_change_with_the_training():
    models = made(Tensors(w=[0.5]), sgd(0.1))
    coupling = elastic_averaging(models, 0.3)
    train(models, coupling, 2, [1.0, -1.0])
    state = coupling.state_dict()
    before = state["center"]["w"].clone()
    train(models, coupling, 3, [1.0, 3.0])
    assert torch.equal(state["center"]["w"], before)
    assert state["time"] == 2
    coupling.load_state_dict(state)
    train(models, coupling, 3, [1.0, 3.0])
    assert torch.equal(state["center"]["w"], before)  # nor when it was loaded


def test_a_state_in_the_middle_of_an_interval_has_the_rates_of_its_steps():
    models = made(Tensors(w=[0.5]), sgd(0.1, momentum=0.5))
    coupling = Coupling(models, 1.0, every=3)
    train(models, coupling, 5, [1.0, -1.0])
    state = coupling.state_dict()
    assert state["time"] == 3
    assert [counter["steps"] for counter in state["counters"]] == [2, 2]
    assert state["counters"][0]["rates"] == {0: pytest.approx(2 * 0.1 / 0.5)}


def test_going_on_after_sharing_still_needs_it_for_the_next_step():
    models = made(Tensors(w=[0.5]), sgd(0.1))
    coupling = Coupling(models, math.inf)
    train(models, coupling, 2, [1.0, -1.0])
    coupling.load_state_dict(coupling.state_dict())
    for module, optimizer in models.values():
        backward(module, 0.0)
        optimizer.step()
    with pytest.raises(InputError, match="share_gradients"):
        coupling.pull()


@pytest.mark.parametrize(
    "other",
    [
        lambda: Coupling(made(Tensors(w=[0.5]), sgd(0.1), 3), 1.0),
        lambda: fedprox(made(Tensors(w=[0.5]), sgd(0.1)), 1.0, round_steps=3),
        lambda: Coupling(made(Tensors(v=[0.5]), sgd(0.1)), math.inf),
    ],
    ids=["more models", "a center", "other tensors"],
)
def test_a_state_of_another_coupling_is_refused(other):
    coupling = Coupling(made(Tensors(w=[0.5]), sgd(0.1)), 1.0)
    strange = other()
    strange.share_gradients()
    with pytest.raises(InputError, match="of other models or another rule"):
        coupling.load_state_dict(strange.state_dict())
