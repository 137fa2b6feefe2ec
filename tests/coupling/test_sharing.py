"""Infinite strength: one tensor for all, as in a network with several heads."""

import math

import pytest
import torch
from coupling_toys import Net, Tensors, adam, adamw, backward, images, made, sgd, train, values
from torch.func import functional_call
from torch.nn import functional as F

from conjoin.coupling import Coupling, hard_sharing, over_time
from conjoin.errors import InputError

HEADS = {"classifier.*": 0.0, "*": math.inf}
TASKS = (3, 5)
STEPS = 200


def _batch(step, task):
    # A dozen batches of each task, in turns; which dropout is drawn depends on step and task.
    return images(8, TASKS[task], seed=100 * task + step % 12)


def _coupled_nets(optimizer):
    """Train a network for each task, its trunk shared and its head private."""
    nets, heads = [], _heads()
    for head in heads:
        torch.manual_seed(0)
        net = Net().double()
        net.classifier = head
        nets.append(net)
    models = {
        name: (net, optimizer(net.parameters())) for name, net in zip("ab", nets, strict=True)
    }
    coupling = Coupling(models, HEADS)
    for step in range(STEPS):
        for task, net in enumerate(nets):
            net.zero_grad()
            x, y = _batch(step, task)
            torch.manual_seed(10 * step + task)
            F.cross_entropy(net(x), y).backward()
        coupling.step()
    return nets


def _heads():
    torch.manual_seed(1)
    return [torch.nn.Linear(16, classes).double() for classes in TASKS]


def _two_headed(trunk_optimizer, head_optimizer, gradient="mean"):
    """Train one trunk with two heads, the reference: written without conjoin.

    Each task's batch goes through the trunk by itself, with running statistics of its own.
    """
    torch.manual_seed(0)
    net = Net().double()
    heads = _heads()
    trunk = {n: p for n, p in net.named_parameters() if not n.startswith("classifier")}
    buffers = [{n: b.clone() for n, b in net.named_buffers()} for _ in TASKS]
    optimizers = [
        trunk_optimizer(list(trunk.values())),
        *(head_optimizer(head.parameters()) for head in heads),
    ]
    for step in range(STEPS):
        gradients = []
        for task, head in enumerate(heads):
            x, y = _batch(step, task)
            torch.manual_seed(10 * step + task)
            own = {f"classifier.{n}": p for n, p in head.named_parameters()}
            loss = F.cross_entropy(functional_call(net, {**trunk, **own, **buffers[task]}, x), y)
            found = torch.autograd.grad(loss, [*trunk.values(), *head.parameters()])
            gradients.append(found[: len(trunk)])
            for p, g in zip(head.parameters(), found[len(trunk) :], strict=True):
                p.grad = g
        for p, *both in zip(trunk.values(), *gradients, strict=True):
            p.grad = sum(both) / (len(TASKS) if gradient == "mean" else 1)
        for optimizer in optimizers:
            optimizer.step()
    return {n: p.detach() for n, p in trunk.items()}, heads, buffers


def _difference(nets, reference):
    trunk, heads, buffers = reference
    found = []
    for task, net in enumerate(nets):
        state = net.state_dict()
        others = {**trunk, **buffers[task]}
        others |= {f"classifier.{n}": p for n, p in heads[task].state_dict().items()}
        assert set(others) == set(state)
        found += [float((state[n].double() - others[n].double()).abs().max()) for n in state]
    return max(found)


OPTIMIZERS = {
    "AdamW": adamw(0.003, weight_decay=0.05),
    "Nesterov and decay": sgd(0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_shared_trunk_is_the_two_headed_network(name):
    nets = _coupled_nets(OPTIMIZERS[name])
    assert _difference(nets, _two_headed(OPTIMIZERS[name], OPTIMIZERS[name])) < 1e-10
    torch.manual_seed(0)
    assert (nets[0].block_1[0].weight - Net().double().block_1[0].weight).abs().max() > 0.01
    for (tensor, one), other in zip(values(nets[0]).items(), values(nets[1]).values(), strict=True):
        if not tensor.startswith("classifier"):
            assert torch.equal(one, other), tensor  # the same bits, not only near
    assert not torch.equal(nets[0].block_1[1].running_mean, nets[1].block_1[1].running_mean)


def test_the_summed_loss_with_adamw_differs_by_its_eps_only():
    nets = _coupled_nets(OPTIMIZERS["AdamW"])
    summed = _two_headed(OPTIMIZERS["AdamW"], OPTIMIZERS["AdamW"], "sum")
    assert 0 < _difference(nets, summed) < 1e-3
    # A gradient N times as large with an eps N times as large: the same steps.
    larger = adamw(0.003, weight_decay=0.05, eps=len(TASKS) * 1e-8)
    assert _difference(nets, _two_headed(larger, OPTIMIZERS["AdamW"], "sum")) < 1e-10


def test_the_summed_loss_with_sgd_takes_n_times_the_step():
    settings = {"momentum": 0.9, "nesterov": True}
    nets = _coupled_nets(sgd(0.05, **settings))
    summed = _two_headed(sgd(0.05, **settings), sgd(0.05, **settings), "sum")
    assert _difference(nets, summed) > 0.01
    slower = _two_headed(sgd(0.05 / len(TASKS), **settings), sgd(0.05, **settings), "sum")
    assert _difference(nets, slower) < 1e-10


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_infinite_everywhere_is_one_network_on_the_mean_loss(name):
    torch.manual_seed(0)
    start = Net().double()
    models = made(start, OPTIMIZERS[name], 3)
    coupling = Coupling(models, math.inf)
    (one, optimizer) = made(start, OPTIMIZERS[name])["a"]
    for step in range(60):
        batches = [images(8, seed=100 * task + step) for task in range(3)]
        for task, ((net, _), (x, y)) in enumerate(zip(models.values(), batches, strict=True)):
            net.zero_grad()
            torch.manual_seed(10 * step + task)
            F.cross_entropy(net(x), y).backward()
        coupling.step()
        one.zero_grad()
        losses = []
        for task, (x, y) in enumerate(batches):
            torch.manual_seed(10 * step + task)
            losses.append(F.cross_entropy(one(x), y))
        (sum(losses) / 3).backward()
        optimizer.step()
    for tensor, expected in values(one).items():
        for net, _ in models.values():
            assert (values(net)[tensor] - expected).abs().max() < 1e-10
    assert set(coupling.gap().values()) == {0.0}


def test_adamw_states_stay_the_same_bits_in_float32():
    torch.manual_seed(0)
    models = made(Net(), adamw(0.01), 3)
    coupling = hard_sharing(models, ["*"])
    for step in range(20):
        for task, (net, _) in enumerate(models.values()):
            net.zero_grad()
            x, y = images(8, seed=100 * task + step, dtype=torch.float32)
            F.cross_entropy(net(x), y).backward()
        coupling.step()
    (first, one), *others = models.values()
    for net, optimizer in others:
        for p, q in zip(first.parameters(), net.parameters(), strict=True):
            assert torch.equal(p, q)
            for key, value in one.state[p].items():
                assert torch.equal(value, optimizer.state[q][key]), key


def test_adam_jumps_at_infinity():
    """At a huge finite strength private second moments make it another optimizer; SGD is not."""
    found = {}
    for kind, optimizer in (("Adam", adam(0.02)), ("SGD", sgd(0.02, momentum=0.9))):
        ends = []
        for strength in (1e8, math.inf):
            models = made(Tensors(w=[0.3]), optimizer)
            train(models, Coupling(models, strength), 30, [1.0, -1.0], [3.0, 0.1])
            ends.append(models["a"][0].w.item())
        found[kind] = abs(ends[0] - ends[1])
    assert found["SGD"] < 1e-6
    assert found["Adam"] > 0.01


def test_gradients_become_their_mean_by_hand():
    models = made(Tensors(w=[0.0, 0.0], private=[0.0]), sgd(0.1), 3)
    for gradient, (module, _) in zip(([3.0, 0.0], None, [0.0, 6.0]), models.values(), strict=True):
        if gradient is not None:
            module.w.grad = torch.tensor(gradient).double()
        module.private.grad = torch.tensor([float(gradient is None)]).double()
    Coupling(models, {"w": math.inf}).share_gradients()
    for number, (module, _) in enumerate(models.values()):
        assert module.w.grad.tolist() == [1.0, 2.0]  # a model without one counts as zero
        assert module.private.grad.item() == (number == 1)


def test_where_no_model_has_a_gradient_none_is_made():
    models = made(Tensors(w=[1.0]), adamw(0.1))
    coupling = Coupling(models, math.inf)
    coupling.step()
    assert all(module.w.grad is None for module, _ in models.values())
    assert models["a"][0].w.item() == 1.0


def test_forgetting_to_share_is_found():
    models = made(Tensors(w=[1.0]), sgd(0.1))
    coupling = Coupling(models, math.inf)
    for module, optimizer in models.values():
        backward(module, 0.0)
        optimizer.step()
    with pytest.raises(InputError, match="share_gradients"):
        coupling.pull()


def test_forgetting_to_share_later_is_found():
    models = made(Tensors(w=[1.0]), sgd(0.1))
    coupling = Coupling(models, math.inf)
    train(models, coupling, 1, [1.0, 1.0])
    for module, optimizer in models.values():
        backward(module, 0.0)
        optimizer.step()
    with pytest.raises(InputError, match="share_gradients"):
        coupling.pull()


def test_clipping_after_sharing_is_found():
    models = made(Tensors(w=[1.0], head=[0.0]), sgd(0.1))
    coupling = Coupling(models, {"w": math.inf})
    for scale, (module, _) in zip((1.0, 10.0), models.values(), strict=True):
        backward(module, 5.0 * scale)
    coupling.share_gradients()
    for module, optimizer in models.values():
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
    with pytest.raises(InputError, match="'w'.*Clip gradients before share_gradients"):
        coupling.pull()


@pytest.mark.parametrize(
    ("optimizers", "setting"),
    [
        ([sgd(0.1), sgd(0.2)], "lr is 0.1 and 0.2"),
        ([sgd(0.1, momentum=0.9), sgd(0.1, momentum=0.8)], "momentum is 0.9 and 0.8"),
        ([sgd(0.1, weight_decay=0.1), sgd(0.1)], "weight_decay is 0.1 and 0"),
        ([adamw(0.1, weight_decay=0), adam(0.1)], "optimizer is 'AdamW' and 'Adam'"),
        ([adam(0.1), adam(0.1, betas=(0.9, 0.99))], "betas is"),
        ([adam(0.1), adam(0.1, eps=1e-6)], "eps is"),
    ],
)
def test_other_settings_are_refused_by_name(optimizers, setting):
    models = made(Tensors(w=[1.0]), optimizers)
    coupling = Coupling(models, math.inf)
    with pytest.raises(InputError, match=f"'w'.*'a' and 'b'.*{setting}"):
        coupling.step()


def test_settings_that_do_not_change_the_step_may_differ():
    models = made(
        Tensors(w=[1.0]), [adam(0.1, foreach=True), adam(torch.tensor(0.1, dtype=torch.float64))]
    )
    for (_, optimizer), name in zip(models.values(), ("trunk of a", "trunk of b"), strict=True):
        optimizer.param_groups[0] |= {"name": name, "max_lr": len(name)}  # of users and schedules
    coupling = Coupling(models, math.inf)
    train(models, coupling, 5, [0.0, 1.0])


@pytest.mark.parametrize("how", ["frozen", "left out"])
def test_a_tensor_that_not_all_train_cannot_be_shared(how):
    models = made(Tensors(w=[1.0], head=[1.0]), sgd(0.1))
    module, _ = models["b"]
    if how == "frozen":
        module.w.requires_grad_(False)
    else:
        models["b"] = (module, sgd(0.1)([module.head]))
    with pytest.raises(InputError, match="'w'.*not every model trains it"):
        Coupling(models, {"w": math.inf}).share_gradients()


def test_a_tensor_that_all_have_frozen_may_be_shared():
    start = Tensors(w=[1.0], head=[1.0])
    start.w.requires_grad_(False)
    models = made(start, sgd(0.1))
    coupling = Coupling(models, {"w": math.inf})
    for module, _ in models.values():
        module.head.sum().backward()
    coupling.step()
    assert models["a"][0].w.item() == 1.0


@pytest.mark.parametrize("optimizer", [sgd(0.1, momentum=0.9, nesterov=True), adamw(0.05)])
def test_arriving_at_infinity_merges_weights_and_states(optimizer):
    models = made(Tensors(w=[0.5, -2.0, 1.0]), optimizer, 3)
    coupling = Coupling(models, over_time({0: 0.01, 9: 0.01, 10: math.inf, 20: math.inf, 21: 0.5}))
    optima = [1.0, -1.0, 0.3]
    train(models, coupling, 10, optima)
    weights = [module.w.detach().clone() for module, _ in models.values()]
    states = [dict(made_by.state[module.w]) for module, made_by in models.values()]
    states = [{k: torch.as_tensor(v).clone() for k, v in state.items()} for state in states]
    assert not torch.equal(weights[0], weights[1])
    for (module, _), optimum in zip(models.values(), optima, strict=True):
        backward(module, optimum)
    coupling.share_gradients()
    for module, made_by in models.values():
        torch.testing.assert_close(module.w.detach(), sum(weights) / 3, rtol=1e-14, atol=0)
        for key, value in made_by.state[module.w].items():
            mean = sum(state[key] for state in states) / 3
            torch.testing.assert_close(torch.as_tensor(value), mean, rtol=1e-14, atol=1e-18)
    for _, made_by in models.values():
        made_by.step()
    coupling.pull()
    train(models, coupling, 10, optima)
    first = models["a"][0].w
    assert all(torch.equal(first, module.w) for module, _ in models.values())
    assert coupling.gap() == {"w": 0.0}
    # Leaving infinity: each goes its own way again, as far as the strength lets it.
    train(models, coupling, 300, optima)
    assert coupling.gap()["w"] > 0.01


@pytest.mark.parametrize("optimizer", [sgd(0.05, momentum=0.9), adamw(0.05, amsgrad=True)])
def test_arriving_at_infinity_merges_the_states_of_a_scalar(optimizer):
    models = made(Tensors(scale=1.0), optimizer)
    coupling = Coupling(models, over_time({0: 0.01, 9: 0.01, 10: math.inf}))
    train(models, coupling, 10, [1.5, -1.0])
    states = [dict(made_by.state[module.scale]) for module, made_by in models.values()]
    states = [{k: torch.as_tensor(v).clone() for k, v in state.items()} for state in states]
    coupling.share_gradients()
    for module, made_by in models.values():
        for key, value in made_by.state[module.scale].items():
            mean = sum(state[key] for state in states) / 2
            torch.testing.assert_close(torch.as_tensor(value), mean, rtol=1e-14, atol=1e-18)
    train(models, coupling, 20, [1.5, -1.0])
    assert len({module.scale.item() for module, _ in models.values()}) == 1


@pytest.mark.parametrize("steps", [0, 1])
def test_arriving_after_different_numbers_of_steps(steps):
    """A model that has made no step counts as zero moments; the count of steps is the largest."""
    models = made(Tensors(w=[1.0, 3.0]), adam(0.1))
    moments = torch.zeros(2).double()
    for (module, optimizer), number in zip(models.values(), (3, steps), strict=True):
        for _ in range(number):
            backward(module, 0.0)
            optimizer.step()
        if number:
            moments += optimizer.state[module.w]["exp_avg"]
        backward(module, 0.0)
    (a, _), (b, _) = models.values()
    Coupling(models, math.inf, start="any").share_gradients()
    assert torch.equal(a.w, b.w)
    for module, optimizer in models.values():
        torch.testing.assert_close(optimizer.state[module.w]["exp_avg"], moments / 2)
        assert float(optimizer.state[module.w]["step"]) == 3


def test_sparse_gradients_become_their_mean():
    models = made(torch.nn.Embedding(4, 1, sparse=True), sgd(0.1))
    coupling = Coupling(models, math.inf)
    for number, (net, _) in enumerate(models.values()):
        net(torch.tensor([number, 2])).sum().backward()
    coupling.share_gradients()
    for net, _ in models.values():
        assert net.weight.grad.flatten().tolist() == [0.5, 0.5, 1.0, 0.0]


def test_infinite_from_another_start_begins_with_the_mean():
    models = made(Tensors(w=[1.0, 2.0]), sgd(0.1))
    with torch.no_grad():
        models["b"][0].w.copy_(torch.tensor([3.0, -2.0]))
    Coupling(models, math.inf, start="any").share_gradients()
    assert [module.w.tolist() for module, _ in models.values()] == [[2.0, 0.0]] * 2
