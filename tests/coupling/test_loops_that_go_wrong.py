"""What is found out of training loops that do something else than they should."""

import copy
import math

import pytest
import torch
from coupling_toys import Tensors, adam, backward, made, sgd, train

from conjoin.coupling import Coupling, over_time
from conjoin.errors import InputError

APART = "'w' is shared .*differs between 'a' and 'b'"

LOOKS = {
    "gap": lambda coupling: coupling.gap(),
    "merge": lambda coupling: coupling.merge(heads=False),
    "state_dict": lambda coupling: coupling.state_dict(),
}


def _shared(optimizer=None, **options):
    models = made(Tensors(w=[1.0], head=[0.0]), optimizer or sgd(0.1))
    return models, Coupling(models, {"w": math.inf}, **options)


def _one_step(models, coupling, clip=False, skip=()):
    for scale, (module, _) in zip((1.0, 10.0), models.values(), strict=True):
        backward(module, 5.0 * scale)
    coupling.share_gradients()
    for name, (module, optimizer) in models.items():
        if clip:
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        if name not in skip:
            optimizer.step()
    coupling.pull()


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("how", [{"clip": True}, {"skip": "a"}], ids=["clipped", "skipped"])
def test_shared_tensors_that_parted_late_are_found(how, look):
    models, coupling = _shared()
    for step in range(40):
        _one_step(models, coupling, **(how if step == 37 else {}))
        if step < 37:
            LOOKS[look](coupling)
    with pytest.raises(InputError, match=APART):
        LOOKS[look](coupling)


@pytest.mark.parametrize("look", LOOKS)
def test_between_the_steps_of_two_optimizers_nothing_is_looked_for(look):
    models, coupling = _shared()
    _one_step(models, coupling)
    for module, _ in models.values():
        backward(module, 3.0)
    coupling.share_gradients()
    for _, optimizer in models.values():
        optimizer.step()
        LOOKS[look](coupling)
    coupling.pull()
    LOOKS[look](coupling)


@pytest.mark.parametrize("look", LOOKS)
def test_what_is_one_tensor_no_longer_may_part(look):
    models = made(Tensors(w=[1.0]), sgd(0.1))
    coupling = Coupling(models, over_time({0: math.inf, 3: 0.1}))
    train(models, coupling, 3, [1.0, -1.0])
    for _ in range(2):  # without share_gradients, which has nothing to do any more
        for (module, optimizer), optimum in zip(models.values(), (1.0, -1.0), strict=True):
            backward(module, optimum)
            optimizer.step()
        coupling.pull()
    LOOKS[look](coupling)
    assert coupling.gap()["w"] > 0


def test_what_is_not_one_tensor_yet_may_be_apart():
    models = made(Tensors(w=[1.0]), sgd(0.1))
    with torch.no_grad():
        models["b"][0].w.add_(1.0)
    coupling = Coupling(models, math.inf, start="any")
    assert coupling.gap()["w"] > 0.1
    coupling.state_dict()


def test_a_state_is_loaded_whatever_the_weights_are():
    """States come in any order: the weights may still be those of another training."""
    models, coupling = _shared()
    _one_step(models, coupling)
    state = coupling.state_dict()
    with torch.no_grad():
        models["a"][0].w.add_(1.0)
    coupling.load_state_dict(state)
    assert coupling.time == 1


def _with_others(make, strength=1.0):
    """Give a coupling, and a step of its models by optimizers that it was not given."""
    models = made(Tensors(w=[0.0]), make)
    coupling = Coupling(models, strength)
    others = {name: make(module.parameters()) for name, (module, _) in models.items()}

    def step():
        for (name, (module, _)), optimum in zip(models.items(), (1.0, -1.0), strict=True):
            backward(module, optimum)
            others[name].step()
        coupling.pull()

    return models, coupling, step


def _repeat(step, times):
    for _ in range(times):
        step()


@pytest.mark.parametrize("strength", [1.0, math.inf])
@pytest.mark.parametrize("make", [sgd(0.1), adam(0.1)])
@pytest.mark.parametrize("before", [0, 4])
def test_optimizers_that_are_not_the_couplings_are_found(before, make, strength):
    models, coupling, step = _with_others(make, strength)
    train(models, coupling, before, [1.0, -1.0])
    with pytest.raises(InputError, match="no optimizer of this coupling has stepped"):
        _repeat(step, 10)


def test_fused_optimizers_that_are_not_the_couplings_are_found_later():
    _, _, step = _with_others(adam(0.001, fused=True))
    with pytest.raises(InputError, match="pull.. was called 1000 times"):
        _repeat(step, 1000)


def test_pulls_while_gradients_are_accumulated_are_fine():
    models = made(Tensors(w=[0.0]), sgd(0.1))
    coupling = Coupling(models, 1.0)
    for step in range(120):
        for module, _ in models.values():
            (module.w - 1.0).square().sum().backward()
        if step % 60 == 59:
            coupling.step()
        coupling.pull()
    assert coupling.time == 2


@pytest.mark.parametrize("fused", [False, True])
def test_pulls_while_mixed_precision_skips_are_fine(fused):
    models = made(Tensors(w=[0.0]), adam(0.1, fused=fused))
    coupling = Coupling(models, 1.0)
    scaler = torch.amp.GradScaler("cpu")
    for _ in range(20):
        for module, _ in models.values():
            module.zero_grad()
            scaler.scale(module.w.sum() * math.inf).backward()
        coupling.step(scaler)
        scaler.update()
    assert coupling.time == 0
    train(models, coupling, 1, [1.0, -1.0])
    assert coupling.time == 1


def test_a_copy_of_a_coupling_does_not_count_the_originals_pulls():
    models, coupling, step = _with_others(sgd(0.1))
    _repeat(step, 5)
    copied, copied_coupling = copy.deepcopy((models, coupling))
    train(copied, copied_coupling, 2, [1.0, -1.0])
    assert copied_coupling.time == 2
