"""Coupled models -> one network, one trunk with heads, or networks with parameters in common."""

import math

import pytest
import torch
from coupling_toys import Net, images, made, sgd, values
from torch import nn

import conjoin
from conjoin.checkpoints import open_checkpoint
from conjoin.coupling import Coupling
from conjoin.errors import InputError
from conjoin.modules import MultiHead, TaskNetworks
from conjoin.repairing import reestimate_batchnorm

HEADS = {"classifier.*": 0.0, "*": 1.0}


def _trained(classes=(3, 3), norm=True):
    """Give networks that lie a little apart, as after a training, with data of their own."""
    torch.manual_seed(0)
    nets = []
    for number, count in enumerate(classes):
        torch.manual_seed(1)
        net = Net(count)
        if not norm:
            net.block_1[1] = net.block_2[1] = nn.Identity()
        torch.manual_seed(10 + number)
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.1 * torch.randn_like(p))
        for name, buffer in net.named_buffers():
            if name.endswith("running_mean"):
                buffer.fill_(float(number + 1))
        nets.append(net)
    return {n: (net, sgd(0.1)(net.parameters())) for n, net in zip("ab", nets, strict=True)}


def _data(classes=(3, 3)):
    return [
        (images(40, count, seed=number, dtype=torch.float32)[0] * (number + 1), torch.zeros(40))
        for number, count in enumerate(classes)
    ]


def _coupling(models, strength):
    return Coupling(models, strength, start="any")


def _states(models):
    return [{n: v.clone() for n, v in net.state_dict().items()} for net, _ in models.values()]


X = images(16, seed=5, dtype=torch.float32)[0]


def _out(net, **task):
    was_training = net.training
    net.eval()
    with torch.no_grad():
        found = net(X, **task)
    net.train(was_training)
    return found


@pytest.mark.parametrize("strength", [1.0, math.inf])
def test_all_coupled_are_one_network(strength):
    models, data = _trained(), _data()
    before = _states(models)
    merged = _coupling(models, strength).merge(*data)
    expected = reestimate_batchnorm(conjoin.merge([net for net, _ in models.values()]), *data)
    assert type(merged) is Net
    for name, value in merged.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name
    assert torch.equal(merged.classifier.bias, sum(s["classifier.bias"] for s in before) / 2)
    for old, new in zip(before, _states(models), strict=True):  # the models are left as they were
        assert all(torch.equal(old[name], new[name]) for name in old)


def test_without_batchnorm_no_data_are_needed():
    models = _trained(norm=False)
    merged = _coupling(models, 1.0).merge()
    expected = conjoin.merge([net for net, _ in models.values()])
    assert all(
        torch.equal(a, b) for a, b in zip(merged.parameters(), expected.parameters(), strict=True)
    )


def test_private_heads_may_be_averaged_by_choice():
    models, data = _trained(), _data()
    merged = _coupling(models, HEADS).merge(*data, heads=False)
    assert type(merged) is Net
    both = [net.classifier.weight.detach() for net, _ in models.values()]
    torch.testing.assert_close(merged.classifier.weight.detach(), sum(both) / 2)


@pytest.mark.parametrize("classes", [(3, 3), (3, 5)])
def test_private_heads_are_kept_on_one_trunk(classes):
    models, data = _trained(classes), _data(classes)
    before = _states(models)
    merged = _coupling(models, HEADS).merge(*data)
    assert isinstance(merged, MultiHead)
    assert list(merged.heads) == ["a", "b"]
    # By hand: the mean of the trunks, its statistics from both data sets, and each head.
    trunks = []
    for net, _ in models.values():
        trunk = Net()
        trunk.load_state_dict(net.state_dict() | Net().classifier.state_dict(prefix="classifier."))
        trunk.classifier = nn.Identity()
        trunks.append(trunk)
    trunk = reestimate_batchnorm(conjoin.merge(trunks), *data)
    for (name, (net, _)), count in zip(models.items(), classes, strict=True):
        expected = net.classifier(_out(trunk))
        assert expected.shape == (16, count)
        torch.testing.assert_close(_out(merged, task=name), expected)
        torch.testing.assert_close(_out(merged.for_task(name)), expected)
    for old, new in zip(before, _states(models), strict=True):
        assert all(torch.equal(old[name], new[name]) for name in old)
    with torch.no_grad():
        merged.heads["a"].weight.zero_()
    assert models["a"][0].classifier.weight.any()  # nothing is shared with the models


@pytest.mark.parametrize(
    "strength",
    [
        {"block_1.*": 0.0, "*": 1.0},
        {"block_2.*": 0.0, "*": 1.0},
        {"block_?.1.*": 0.0, "*": 1.0},
        {"block_1.1.*": 0.0, "classifier.*": 0.0, "*": math.inf},
        {"classifier.weight": 0.0, "*": 1.0},
    ],
    ids=["the first", "the middle", "norms", "norms and heads", "half of the head"],
)
def test_other_private_parts_are_networks_with_parameters_in_common(strength):
    models, data = _trained(), _data()
    before = _states(models)
    coupling = _coupling(models, strength)
    merged = coupling.merge(*data)
    assert isinstance(merged, TaskNetworks)
    a, b = (dict(merged.for_task(name).named_parameters()) for name in "ab")
    for name, value in coupling.strengths().items():
        own = [net.get_parameter(name).detach() for net, _ in models.values()]
        if value == 0:
            assert a[name] is not b[name]
            assert torch.equal(a[name], own[0])
            assert torch.equal(b[name], own[1])
        else:
            assert a[name] is b[name]
            torch.testing.assert_close(a[name].detach(), sum(own) / 2)
    for name, (x, _), (net, _) in zip("ab", data, models.values(), strict=True):
        # Each has statistics of its own data.
        expected = Net()
        expected.load_state_dict(merged.for_task(name).state_dict())
        expected = reestimate_batchnorm(expected, (x, torch.zeros(len(x))))
        torch.testing.assert_close(_out(merged, task=name), _out(expected))
        assert not any(p is q for p in merged.parameters() for q in net.parameters())
    assert not torch.equal(
        merged.for_task("a").block_1[1].running_var, merged.for_task("b").block_1[1].running_var
    )
    for old, new in zip(before, _states(models), strict=True):
        assert all(torch.equal(old[name], new[name]) for name in old)


def test_parameters_in_common_are_trained_together():
    models = _trained()
    merged = _coupling(models, {"block_1.*": 0.0, "*": 1.0}).merge(*_data())
    merged(X, task="a").square().sum().backward()
    merged(X, task="b").square().sum().backward()
    torch.optim.SGD(merged.parameters(), 0.1).step()
    a, b = (values(merged.for_task(name)) for name in "ab")
    assert torch.equal(a["classifier.weight"], b["classifier.weight"])
    assert not torch.equal(a["block_1.0.weight"], b["block_1.0.weight"])


@pytest.mark.parametrize("strength", [1.0, HEADS, {"block_1.*": 0.0, "*": 1.0}])
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_saved_and_loaded(strength, suffix, tmp_path):
    models, data = _trained(), _data()
    merged = _coupling(models, strength).merge(*data)
    path = conjoin.save(merged, tmp_path / f"merged.{suffix}")
    stored = open_checkpoint(path)
    assert list(stored) == list(merged.state_dict())
    other = _coupling(_trained(), strength).merge(*_data())
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    other.load_state_dict(dict(stored))
    for task in [{}] if strength == 1.0 else [{"task": "a"}, {"task": "b"}]:
        assert torch.equal(_out(other, **task), _out(merged, **task))
    if isinstance(merged, TaskNetworks):  # what is in common is stored once
        name = "networks.b.classifier.weight"
        assert stored.specs[name].alias_of == "networks.a.classifier.weight"
        assert other.networks["a"].classifier.weight is other.networks["b"].classifier.weight


@pytest.mark.parametrize("strength", [HEADS, {"block_1.*": 0.0, "*": 1.0}], ids=["head", "first"])
def test_the_network_of_a_task_is_exported(strength):
    merged = _coupling(_trained(), strength).merge(*_data()).eval()
    for task in "ab":
        program = torch.export.export(merged.for_task(task), (X,))
        torch.testing.assert_close(program.module()(X), _out(merged, task=task))


def test_data_that_are_lacking_are_asked_for():
    with pytest.raises(InputError, match="BatchNorm: give data of each"):
        _coupling(_trained(), 1.0).merge()
    with pytest.raises(InputError, match="BatchNorm: give data of each"):
        _coupling(_trained(), HEADS).merge()
    plain = _trained(norm=False)
    with pytest.raises(InputError, match="whether 'classifier' is the end of the network"):
        _coupling(plain, HEADS).merge()
    with pytest.raises(InputError, match="no batch"):
        _coupling(plain, HEADS).merge([], [])
    merged = _coupling(plain, HEADS).merge(*_data())
    assert isinstance(merged, MultiHead)


def test_a_part_at_the_end_by_name_only_is_no_head():
    """What comes last in the list of parameters need not come last when it is run."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(4, 4)
            self.classifier = nn.Linear(4, 4)

        def forward(self, x):
            x = self.stem(x)
            return x + self.classifier(x)

    models = made(Residual(), sgd(0.1))
    data = [(torch.randn(6, 4), torch.zeros(6))] * 2
    merged = Coupling(models, {"classifier.*": 0.0, "*": 1.0}).merge(*data)
    assert isinstance(merged, TaskNetworks)
    torch.testing.assert_close(merged(data[0][0], task="b"), models["b"][0](data[0][0]))


def test_a_head_of_several_layers_with_a_norm_keeps_its_statistics():
    def net():
        torch.manual_seed(0)
        head = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), head)

    nets = {"a": net(), "b": net()}
    nets["b"][2][1].running_mean.fill_(2.0)
    models = {name: (each, sgd(0.1)(each.parameters())) for name, each in nets.items()}
    data = [(torch.randn(20, 3) + shift, torch.zeros(20)) for shift in (0.0, 3.0)]
    merged = Coupling(models, {"2.*": 0.0, "*": 1.0}).merge(*data)
    assert isinstance(merged, MultiHead)
    assert torch.equal(merged.heads["b"][1].running_mean, torch.full((4,), 2.0))
    linear = nets["a"][0](torch.cat([x for x, _ in data])).detach()
    torch.testing.assert_close(merged.trunk[1].running_mean, linear.mean(0), rtol=1e-5, atol=1e-6)


def test_a_private_part_that_only_one_model_has():
    class Adapted(nn.Module):
        def __init__(self, has_adapter):
            super().__init__()
            torch.manual_seed(0)
            self.stem = nn.Linear(4, 4)
            if has_adapter:
                self.adapter = nn.Linear(4, 4)
            torch.manual_seed(1)
            self.classifier = nn.Linear(4, 2)

        def forward(self, x):
            x = self.stem(x)
            return self.classifier(self.adapter(x) if hasattr(self, "adapter") else x)

    x = torch.randn(6, 4)
    for order in ((False, True), (True, False)):
        nets = dict(zip("ab", (Adapted(has) for has in order), strict=True))
        models = {name: (net, sgd(0.1)(net.parameters())) for name, net in nets.items()}
        strength = {"adapter.*": 0.0, "*": 1.0}
        merged = Coupling(models, strength).merge((x, torch.zeros(6)), (x, torch.zeros(6)))
        assert isinstance(merged, TaskNetworks)
        for name, net in nets.items():
            torch.testing.assert_close(merged(x, task=name), net(x))
        one, other = (merged.for_task(name).classifier for name in "ab")
        assert one.weight is other.weight


def test_ties_within_a_network_are_kept():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 3)
            self.mix = nn.Linear(3, 3)
            self.out = nn.Linear(3, 5, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, x):
            return self.out(self.mix(self.embed(x)))

    models = made(Tied(), sgd(0.1))
    data = (torch.tensor([0, 1, 4]), torch.zeros(3))
    merged = Coupling(models, {"mix.*": 0.0, "*": 1.0}).merge(data, data)
    a, b = (merged.for_task(name) for name in "ab")
    assert a.out.weight is a.embed.weight is b.embed.weight is b.out.weight
    torch.testing.assert_close(merged(data[0], task="a"), models["a"][0](data[0]))
    assert len(list(merged.parameters())) == 5
