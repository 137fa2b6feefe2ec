"""Weights of low precision, mixed precision with skipped steps, compiled and wrapped modules."""

import math

import numpy as np
import pytest
import torch
from coupling_toys import Net, Tensors, adam, adamw, backward, images, joint, made, sgd, values
from torch import nn
from torch.nn import functional as F

from conjoin.coupling import Coupling, elastic_averaging, over_time, papa
from conjoin.errors import InputError, MismatchError

ULP = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}  # relative to the power of 2 below


def _low(dtype, optimizer, count=3):
    torch.manual_seed(0)
    start = Tensors(w=torch.randn(200), m=torch.randn(8, 8)).to(dtype)
    models = made(start, optimizer, count)
    for number, (module, _) in enumerate(models.values()):
        for p in module.parameters():
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(number)).to(dtype)
    return models


def _assert_rounded_once(found, expected, dtype):
    found = found.detach().double().numpy()
    ulp = ULP[dtype] * 2.0 ** np.floor(np.log2(np.abs(expected)))
    # Half a unit in the last place for one rounding, and what float32 is off by before it.
    assert (np.abs(found - expected) <= 0.501 * ulp + 1e-6).all()


@pytest.mark.parametrize("dtype", ULP)
@pytest.mark.parametrize("optimizer", [sgd(0.1), adam(0.05, eps=1e-3)])  # 1e-8 is 0 in float16
def test_low_precision_is_rounded_once(dtype, optimizer):
    models = _low(dtype, optimizer)
    coupling = Coupling(models, 0.7)
    for _, made_by in models.values():
        made_by.step()
    found = {}
    for name in ("w", "m"):
        parameters = [module.get_parameter(name) for module, _ in models.values()]
        before = [p.detach().double().numpy() for p in parameters]
        steps = [0.1] * 3
        if isinstance(models["a"][1], torch.optim.Adam):
            seconds = [
                made_by.state[p]["exp_avg_sq"].double().numpy() / (1 - 0.999)
                for p, (_, made_by) in zip(parameters, models.values(), strict=True)
            ]
            steps = [0.05 / (np.sqrt(v) + 1e-3) for v in seconds]
        found[name] = joint(before, steps, 0.7)
    coupling.pull()
    for name in ("w", "m"):
        for (module, _), expected in zip(models.values(), found[name], strict=True):
            _assert_rounded_once(module.get_parameter(name), expected, dtype)


@pytest.mark.parametrize("dtype", ULP)
def test_other_rules_round_once_too(dtype):
    models = _low(dtype, sgd(0.1))
    start = models["a"][0].w.detach().double().numpy()
    coupling = elastic_averaging(models, 0.2)
    for _, made_by in models.values():
        made_by.step()
    before = [module.w.detach().double().numpy() for module, _ in models.values()]
    coupling.pull()
    for (module, _), w in zip(models.values(), before, strict=True):
        _assert_rounded_once(module.w, w - 0.2 * (w - start), dtype)
    center = start + 0.2 * sum(w - start for w in before)
    _assert_rounded_once(coupling.state_dict()["center"]["w"], center, dtype)
    models = _low(dtype, sgd(0.1))
    coupling = papa(models, 0.6, every=1)
    for _, made_by in models.values():
        made_by.step()
    before = [module.w.detach().double().numpy() for module, _ in models.values()]
    coupling.pull()
    for (module, _), w in zip(models.values(), before, strict=True):
        _assert_rounded_once(module.w, 0.6 * w + 0.4 * sum(before) / 3, dtype)


@pytest.mark.parametrize("dtype", ULP)
def test_shared_gradients_are_averaged_in_float32(dtype):
    models = _low(dtype, sgd(0.1))
    mean = sum(module.w.grad.double() for module, _ in models.values()).numpy() / 3
    Coupling(models, math.inf).share_gradients()
    for module, _ in models.values():
        _assert_rounded_once(module.w.grad, mean, dtype)


def _scaled_loop(models, coupling, losses, steps, scaler, how):
    """Train as torch's documentation of mixed precision does; give the weights after each step."""
    history = []
    for step in range(steps):
        for (_name, (module, optimizer)), loss in zip(models.items(), losses, strict=True):
            optimizer.zero_grad()
            scaler.scale(loss(step, module)).backward()
        if how == "unscaled":
            for _, optimizer in models.values():
                scaler.unscale_(optimizer)
        if how == "one call":
            coupling.step(scaler)
        else:
            coupling.share_gradients(scaler if how == "unscaled" else None)
            for _, optimizer in models.values():
                scaler.step(optimizer)
            coupling.pull()
        scaler.update()
        history.append([values(module) for module, _ in models.values()])
    return history


def _overflowing(at, optimum):
    def loss(step, module):
        total = sum((p - optimum).square().sum() / 2 for p in module.parameters())
        return total * float("inf") if step in at else total

    return loss


OPTIMIZERS = {
    "SGD": sgd(0.1, momentum=0.5),
    "fused SGD": sgd(0.1, momentum=0.5, fused=True),
    "AdamW": adamw(0.05),
    "fused AdamW": adamw(0.05, fused=True),
    "fused Adam": adam(0.05, fused=True),
}


def _small():
    return Tensors(w=[0.5, -2.0], v=[[1.0, 0.3]]).float()


def _is_equal(one, other):
    return all(torch.equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("how", ["one call", "three calls", "unscaled"])
@pytest.mark.parametrize("strength", [2.0, math.inf])
def test_a_skipped_step_pulls_nothing(name, how, strength):
    """Where all overflow, it is as if the step had not been there at all."""
    models = made(_small(), OPTIMIZERS[name])
    coupling = Coupling(models, strength)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1000)
    losses = [_overflowing({2}, 1.0), _overflowing({2}, -1.0)]
    history = _scaled_loop(models, coupling, losses, 5, scaler, how)
    assert _is_equal(history[1], history[2])
    assert not _is_equal(history[2], history[3])
    assert coupling.time == 4
    assert scaler.get_scale() == 2.0
    plain = made(_small(), OPTIMIZERS[name])
    without = Coupling(plain, strength)
    for _ in range(4):
        for (module, _), optimum in zip(plain.values(), (1.0, -1.0), strict=True):
            backward(module, optimum)
        without.step()
    for (one, _), (other, _) in zip(models.values(), plain.values(), strict=True):
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_model_that_skips_alone_holds_still(name):
    models = made(_small(), OPTIMIZERS[name])
    coupling = Coupling(models, 2.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    losses = [_overflowing({2}, 1.0), _overflowing(set(), -1.0)]
    history = _scaled_loop(models, coupling, losses, 4, scaler, "one call")
    (a_before, b_before), (a, b) = history[1:3]
    for name in a:
        torch.testing.assert_close(a[name], a_before[name], rtol=1e-6, atol=1e-7)
        assert not torch.equal(b[name], b_before[name])
    assert coupling.time == 4


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("strength", [2.0, math.inf])
@pytest.mark.parametrize("skipped", [1, 2])
def test_skipped_steps_do_not_count_towards_every(name, strength, skipped):
    models = made(_small(), OPTIMIZERS[name])
    coupling = Coupling(models, {"w": strength, "v": 1.0}, every=3)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    losses = [_overflowing({skipped}, 1.0), _overflowing({skipped}, -1.0)]
    times = []
    for step in range(7):
        for (module, optimizer), loss in zip(models.values(), losses, strict=True):
            optimizer.zero_grad()
            scaler.scale(loss(step, module)).backward()
        coupling.step(scaler)
        scaler.update()
        times.append(coupling.time)
    assert times == [0, 0, 0, 3, 3, 3, 6]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("how", ["one call", "unscaled"])
def test_one_overflow_makes_all_skip_what_is_shared(name, how):
    """An infinite gradient of one model is in the mean: the others must not take it."""
    models = made(_small(), OPTIMIZERS[name])
    coupling = Coupling(models, {"w": math.inf})
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    losses = [_overflowing({2}, 1.0), _overflowing(set(), -1.0)]
    history = _scaled_loop(models, coupling, losses, 5, scaler, how)
    for a, b in history:
        assert torch.equal(a["w"], b["w"])
        assert all(w.isfinite().all() for w in (*a.values(), *b.values()))


def test_an_overflow_in_a_private_tensor_makes_all_skip_what_is_shared():
    models = made(_small(), sgd(0.1))
    coupling = Coupling(models, {"w": math.inf})
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)

    def private_overflow(step, module):
        return module.w.sum() + module.v.sum() * (math.inf if step == 1 else 1.0)

    history = _scaled_loop(
        models, coupling, [private_overflow, _overflowing(set(), 0.0)], 3, scaler, "one call"
    )
    assert _is_equal(history[0], history[1])
    for a, b in history:
        assert torch.equal(a["w"], b["w"])
    assert coupling.time == 2


def test_a_scaler_that_is_switched_off():
    models = made(_small(), sgd(0.1))
    coupling = Coupling(models, math.inf)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    losses = [_overflowing(set(), 1.0), _overflowing(set(), -1.0)]
    ((a, _),) = _scaled_loop(models, coupling, losses, 1, scaler, "one call")
    torch.testing.assert_close(a["w"], torch.tensor([0.45, -1.8]))


def test_a_compiled_module_is_coupled_by_its_own_names():
    torch.manual_seed(0)
    start = Net(dropout=0.0)
    ends = []
    for is_compiled in (False, True):
        models = made(start, sgd(0.05, momentum=0.9))
        if is_compiled:
            models = {
                name: (torch.compile(net, backend="eager"), optimizer)
                for name, (net, optimizer) in models.items()
            }
        coupling = Coupling(models, {"block_*": 1.0, "classifier.*": 0.0})
        for step in range(3):
            for task, (net, optimizer) in enumerate(models.values()):
                optimizer.zero_grad()
                x, y = images(8, seed=10 * task + step, dtype=torch.float32)
                F.cross_entropy(net(x), y).backward()
            coupling.step()
        ends.append([values(getattr(net, "_orig_mod", net)) for net, _ in models.values()])
        assert set(coupling.strengths()) == set(dict(start.named_parameters()))
        data = images(8, dtype=torch.float32)
        assert type(coupling.merge(data, data, heads=False)) is Net
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other)


def test_wrapped_modules_are_unwrapped():
    models = {
        name: (nn.DataParallel(net), optimizer)
        for name, (net, optimizer) in made(Net(), sgd(0.1)).items()
    }
    assert "block_1.0.weight" in Coupling(models, {"block_1.0.*": 1.0}).strengths()


def test_models_of_different_precision_are_pulled_in_the_first_ones():
    models = made(Tensors(w=[0.5, -1.0]), sgd(0.1))
    module, _ = models["b"]
    module.float()
    models["b"] = (module, sgd(0.1)(module.parameters()))
    coupling = Coupling(models, 2.0)
    for (net, optimizer), optimum in zip(models.values(), (1.0, -1.0), strict=True):
        backward(net, optimum)
        optimizer.step()
    before = [net.w.detach().double().numpy().copy() for net, _ in models.values()]
    coupling.pull()
    for (net, _), expected in zip(models.values(), joint(before, [0.1, 0.1], 2.0), strict=True):
        np.testing.assert_allclose(net.w.detach().double().numpy(), expected, rtol=1e-6)
    assert module.w.dtype == torch.float32


@pytest.mark.parametrize("strength", [math.inf, over_time({0: 1.0, 5: {"w": math.inf}})])
def test_models_of_different_precision_hold_no_tensor_of_the_same_bits(strength):
    models = made(Tensors(w=[0.5, -1.0]), sgd(0.1))
    models["b"][0].float()
    message = "'w' is shared .*torch.float64 in 'a', torch.float32 in 'b'.*module.float"
    with pytest.raises(MismatchError, match=message):
        Coupling(models, strength)


def test_integers_cannot_be_coupled():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(1))
            self.n = nn.Parameter(torch.ones(1, dtype=torch.int64), requires_grad=False)

    models = made(Counts(), sgd(0.1))
    with pytest.raises(ValueError, match="'n' of 'a' is torch.int64.*private"):
        Coupling(models, 1.0)
    coupling = Coupling(models, {"w": 1.0})
    assert coupling.gap() == {"w": 0.0}
    with pytest.raises(InputError, match="every has to be"):
        Coupling(models, {"w": 1.0}, every=0)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("optimizer", [sgd(0.05), sgd(1e-6), adam(0.05), adam(0.05, eps=1e-15)])
def test_the_largest_strength_makes_weights_one(optimizer, count):
    models = made(Tensors(w=[0.5, -1.0, 2.0], unused=[0.3]).float(), optimizer, count)
    coupling = Coupling(models, 1e20)
    for number, (module, made_by) in enumerate(models.values()):
        gradient = [number - 0.5, 0.0, 1e4 * number]
        module.w.grad = torch.tensor(gradient)
        made_by.step()
    mean = sum(module.w.detach() for module, _ in models.values()) / count
    coupling.pull()
    (first, _), *others = models.values()
    for module, _ in others:
        torch.testing.assert_close(module.w, first.w, rtol=1e-6, atol=1e-6)
    assert first.unused.item() == pytest.approx(0.3)
    if isinstance(models["a"][1], torch.optim.SGD):
        torch.testing.assert_close(first.w.detach(), mean, rtol=1e-5, atol=1e-5)
