"""The thread's loss term: its value, its gradient, and what a strength does to a training."""

import math

import numpy as np
import pytest
import torch
from coupling_toys import Net, Tensors, adam, backward, images, joint, made, sgd, train, values
from torch.nn import functional as F

from conjoin.coupling import Coupling, fedprox, over_time, thread_loss
from conjoin.errors import InputError


def _random(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _apart(count, optimizer=None):
    """Give models that lie apart, as after some steps."""
    models = made(Tensors(w=torch.zeros(2, 3), v=[0.0]), optimizer or sgd(1e-6), count)
    with torch.no_grad():
        for number, (module, _) in enumerate(models.values()):
            module.w.copy_(_random((2, 3), number))
            module.v.copy_(_random((1,), 10 + number))
    return models


def test_by_hand():
    models = made(Tensors(w=[0.0, 0.0], v=[0.0], private=[0.0]), sgd(1e-6), 3)
    starts = ([1.0, 2.0, 3.0, 9.0], [0.0, 2.0, 1.0, -9.0], [3.0, 1.0, 3.0, 0.0])
    with torch.no_grad():
        for (module, _), start in zip(models.values(), starts, strict=True):
            for p, part in zip(
                module.parameters(), (start[:2], start[2:3], start[3:]), strict=True
            ):
                p.copy_(torch.tensor(part))
    coupling = thread_loss(models, {"w": 0.5, "v": 2.0}, start="any")
    # a: .5 * ((1 + 0) + (4 + 1)) + 2 * (4 + 0); b: .5 * ((1 + 0) + (9 + 1)) + 2 * (4 + 4); and c.
    assert coupling.penalty("a").item() == 11.0
    assert coupling.penalty("b").item() == 21.5
    assert coupling.penalty("c").item() == 0.5 * (5 + 10) + 2 * (0 + 4)


@pytest.mark.parametrize("count", [2, 3])
def test_the_gradient_against_the_closed_form_and_finite_differences(count):
    models = _apart(count)
    strengths = {"w": 0.7, "v": 3.0}
    coupling = thread_loss(models, strengths, start="any")
    for name, (module, _) in models.items():
        for other, _ in models.values():
            other.zero_grad()
        coupling.penalty(name).backward()
        for tensor, strength in strengths.items():
            own = module.get_parameter(tensor)
            others = [m.get_parameter(tensor).detach() for n, (m, _) in models.items() if n != name]
            expected = 2 * strength * sum(own.detach() - other for other in others)
            torch.testing.assert_close(own.grad, expected, rtol=1e-13, atol=0)
            with torch.no_grad():
                found = []
                for sign in (1, -1):
                    own.view(-1)[0] += sign * 1e-4
                    found.append(coupling.penalty(name).item())
                    own.view(-1)[0] -= sign * 1e-4
            assert own.grad.view(-1)[0] == pytest.approx((found[0] - found[1]) / 2e-4, rel=1e-6)
        for other, (held, _) in models.items():  # the other models are held fixed
            assert other == name or all(p.grad is None for p in held.parameters())


@pytest.mark.parametrize("strength", [0.0, 0.3, 2.0])
def test_the_strength_changes_a_step_by_the_amount_of_the_formula(strength):
    """It catches an anchor that moves along, a missing square, and a term without a gradient."""
    models = _apart(2, sgd(0.01))
    before = [module.w.detach().clone() for module, _ in models.values()]
    coupling = thread_loss(models, strength, start="any")
    losses = [
        (module.w - 1.0).square().sum() / 2 + coupling.penalty(name)
        for name, (module, _) in models.items()
    ]
    for loss in losses:
        loss.backward()
    coupling.step()
    for own, other, (module, _) in zip(before, reversed(before), models.values(), strict=True):
        expected = own - 0.01 * ((own - 1.0) + 2 * strength * (own - other))
        torch.testing.assert_close(module.w.detach(), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("strength", [0.0, 0.3, 2.0, 1e6])
def test_the_strength_changes_a_joint_step_by_the_amount_of_the_formula(strength):
    models = _apart(3, [sgd(0.1), sgd(0.2, momentum=0.9), sgd(0.05)])
    before = [module.w.detach().clone() for module, _ in models.values()]
    train(models, Coupling(models, strength, start="any"), 1, [1.0, -1.0, 0.0])
    moved = [
        w - lr * (w - t)
        for w, lr, t in zip(before, (0.1, 0.2, 0.05), (1.0, -1.0, 0.0), strict=True)
    ]
    expected = joint([w.numpy() for w in moved], [0.1, 2.0, 0.05], strength)
    for (module, _), w in zip(models.values(), expected, strict=True):
        np.testing.assert_allclose(module.w.detach().numpy(), w, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mu", [0.0, 0.3, 2.0, 1e6])
def test_mu_changes_fedprox_by_the_amount_of_the_formula(mu):
    models = made(Tensors(w=[0.5, -0.5]), sgd(0.1))
    coupling = fedprox(models, mu, round_steps=100)
    train(models, coupling, 3, [1.0, -1.0])
    for (module, _), optimum in zip(models.values(), (1.0, -1.0), strict=True):
        w = center = np.array([0.5, -0.5])
        for _ in range(3):
            w = w - 0.1 * (w - optimum)
            w = (w + mu * 0.1 * center) / (1 + mu * 0.1)
        np.testing.assert_allclose(module.w.detach().numpy(), w, rtol=1e-12)


def test_of_a_network_it_is_the_sum_over_its_parameters():
    torch.manual_seed(0)
    models = made(Net(), sgd(1e-6))
    with torch.no_grad():
        for p in models["b"][0].parameters():
            p.add_(torch.randn_like(p))
        models["b"][0].block_1[1].running_mean.add_(100.0)  # statistics are no part of it
    coupling = thread_loss(models, 0.5, start="any")
    one, other = (values(module) for module, _ in models.values())
    expected = 0.5 * sum((one[n].double() - other[n].double()).square().sum() for n in one)
    assert coupling.penalty("a").dtype == torch.float32
    assert coupling.penalty("a").item() == pytest.approx(expected.item(), rel=1e-5)
    x, y = images(8, dtype=torch.float32)
    (F.cross_entropy(models["a"][0](x), y) + coupling.penalty("a")).backward()
    assert all(p.grad is not None for p in models["a"][0].parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_summed_in_float32(dtype):
    models = {
        name: (module.to(dtype), torch.optim.SGD(module.parameters(), 1e-6))
        for name, (module, _) in _apart(2).items()
    }
    with torch.no_grad():
        one, other = (module.w for module, _ in models.values())
        one.fill_(300.0)  # whose square is more than a float16 holds
        other.zero_()
    coupling = thread_loss(models, {"w": 1.0}, start="any")
    assert coupling.penalty("a").item() == pytest.approx(6 * 300.0**2, rel=0.01)
    assert coupling.penalty("a").dtype == torch.float32


def test_the_pull_of_the_loss_form_leaves_weights():
    models = _apart(2, adam(0.1))
    coupling = thread_loss(models, over_time({0: 0.0, 2: 1.0}), start="any")
    for number in range(3):
        for module, optimizer in models.values():
            backward(module, 0.0)
            optimizer.step()
        before = [values(module) for module, _ in models.values()]
        coupling.pull()
        for old, (module, _) in zip(before, models.values(), strict=True):
            assert all(torch.equal(old[n], p) for n, p in module.named_parameters())
        assert coupling.strengths()["w"] == min(1.0, (number + 1) / 2)  # but it counts steps


def test_what_has_no_penalty():
    models = _apart(2)
    with pytest.raises(InputError, match="no model 'c'.*'a', 'b'"):
        thread_loss(models, 1.0, start="any").penalty("c")
    with pytest.raises(InputError, match="joint proximal step.*twice as strong.*thread_loss"):
        Coupling(models, 1.0, start="any").penalty("a")
    with pytest.raises(InputError, match="infinite penalty has no gradient"):
        thread_loss(models, {"w": math.inf}, start="any").penalty("a")
