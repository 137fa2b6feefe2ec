"""Tensors of every layout and size, and how far models are apart."""

import numpy as np
import pytest
import torch
from coupling_toys import (
    Net,
    Tensors,
    adam,
    adam_steps,
    adamw,
    assert_weights,
    joint,
    made,
    sgd,
    step_all,
    train,
    values,
    weights_of,
)
from torch import nn

import conjoin.coupling.pulling as module_of_coupling
from conjoin.coupling import Coupling


@pytest.mark.parametrize("optimizer", [sgd(0.1, momentum=0.9), adamw(0.1)])
@pytest.mark.parametrize("count", [2, 3])
def test_large_tensors_are_pulled_in_parts_with_the_same_bits(monkeypatch, optimizer, count):
    torch.manual_seed(0)
    start = Tensors(
        matrix=torch.randn(7, 5),
        vector=torch.randn(40),
        image=torch.randn(6, 3, 3, 3).contiguous(memory_format=torch.channels_last),
        wide=torch.randn(1, 50),
        scalar=torch.tensor(2.0),
        empty=torch.zeros(0, 3),
    )
    ends = []
    for rows in (1 << 18, 11, 1):
        monkeypatch.setattr(module_of_coupling, "ROWS", (rows, rows))
        models = made(start, optimizer, count)
        train(models, Coupling(models, 0.5), 4, [1.0, -1.0, 0.5][:count])
        ends.append([values(module) for module, _ in models.values()])
    for end in ends[1:]:
        for one, other in zip(ends[0], end, strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one)


def _random(*shape):
    return torch.randn(shape, dtype=torch.float64)


LAYOUTS = {
    "channels last": lambda: _random(4, 3, 2, 2).contiguous(memory_format=torch.channels_last),
    "transposed": lambda: _random(5, 4).t(),
    "every second": lambda: _random(6, 8)[:, ::2],
    "0-d": lambda: _random(),
    "one element": lambda: _random(1),
    "empty": lambda: _random(3, 0),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("optimizer", [sgd(0.1), adam(0.1)])
def test_tensors_of_every_layout(layout, optimizer):
    torch.manual_seed(0)
    start = LAYOUTS[layout]()
    nets = [nn.Module(), nn.Module(), nn.Module()]
    for net in nets:  # deepcopy, which `made` uses, would make some of them contiguous
        net.w = nn.Parameter(LAYOUTS[layout]())
        with torch.no_grad():
            net.w.copy_(start)
        assert net.w.stride() == LAYOUTS[layout]().stride()
    models = {n: (net, optimizer(net.parameters())) for n, net in zip("abc", nets, strict=True)}
    coupling = Coupling(models, 0.5)
    step_all(models)
    before = weights_of(models)
    is_sgd = isinstance(models["a"][1], torch.optim.SGD)
    steps = [0.1] * 3 if is_sgd else adam_steps(models, [0.1] * 3)
    coupling.pull()
    assert_weights(models, joint(before, steps, 0.5))
    assert all(np.isfinite(gap) for gap in coupling.gap().values())


def test_gap_by_hand():
    models = made(Tensors(w=[0.0, 0.0], v=[0.0]), sgd(0.1), 2)
    with torch.no_grad():
        models["a"][0].w.copy_(torch.tensor([1.0, 0.0]))
        models["b"][0].w.copy_(torch.tensor([0.0, 1.0]))
    coupling = Coupling(models, 1.0, start="any")
    assert coupling.gap() == pytest.approx({"w": np.sqrt(2)})  # unrelated ones of one size
    with torch.no_grad():
        models["a"][0].v.fill_(3.0)
        models["b"][0].v.fill_(1.0)
    assert coupling.gap() == pytest.approx({"w": np.sqrt((1 + 1 + 4) / ((1 + 9 + 1 + 1) / 2))})


def test_gap_of_three_by_hand():
    models = made(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)), sgd(0.1), 3)
    for number, (module, _) in enumerate(models.values()):
        with torch.no_grad():
            for p in module[0].parameters():
                p.fill_(2.0)
            module[1].weight.fill_(number)
            module[1].bias.zero_()
    # Pairs 0-1, 1-2, 0-2: a mean square of (1 + 1 + 4) / 3; sizes (0 + 1 + 4) / 3.
    expected = {"0": 0.0, "1": np.sqrt(2 / (5 / 3))}
    assert Coupling(models, 1.0, start="any").gap() == pytest.approx(expected)


def test_gap_of_nothing_is_zero():
    models = made(Tensors(w=[0.0], empty=torch.zeros(0)), sgd(0.1))
    assert Coupling(models, 1.0).gap() == {"w": 0.0}


@pytest.mark.parametrize("count", [2, 3, 4])
def test_equal_models_have_no_gap(count):
    torch.manual_seed(0)
    models = made(Net(), sgd(0.1), count)
    assert set(Coupling(models, 1.0).gap().values()) == {0.0}


def test_a_tiny_gap_of_float64_is_seen():
    models = made(Tensors(w=[1.0]), sgd(0.1))
    with torch.no_grad():
        models["b"][0].w.add_(1e-10)
    assert Coupling(models, 1.0, start="any").gap()["w"] == pytest.approx(1e-10, rel=1e-5)
