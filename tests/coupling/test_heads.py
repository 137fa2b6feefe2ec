"""Whether a private part is the end of the network, and heads on trunks of several inputs."""

import math

import pytest
import torch
from coupling_toys import made, sgd
from torch import nn

import conjoin
from conjoin.coupling import Coupling
from conjoin.modules import MultiHead, TaskNetworks

HEADS = {"head.*": 0.0, "*": math.inf}

FOLLOWS = {
    "relu": torch.relu,
    "in place": torch.relu_,
    "abs": torch.abs,
    "leaky": lambda y: nn.functional.leaky_relu(y, 0.5),
    "bound": lambda y: y.clamp(0.0, 100.0),
    "far bound": lambda y: y.clamp(-1e20, 1e20),
    "far cap": lambda y: 1e6 * torch.tanh(y / 1e6),
    "little": lambda y: y + 1e-6,
    "rounded": lambda y: torch.where(y.abs() < 1e-6, 0.0, y),
    "one element": lambda y: torch.cat([y[:, :1], y[:, 1:].relu()], 1),
    "no tensor": lambda y: (y,),
    "other dtype": lambda y: y.double(),
    "other order": lambda y: y.flip(1),
    "mean of the batch": lambda y: y - 0.01 * y.mean(0, keepdim=True),
}

NOTHING = {
    "nothing": lambda y: y,
    "the same": lambda y: y.to(y.dtype),
    "a view": lambda y: y.flatten(1),
    "a copy": lambda y: y.clone(),
}


class Ended(nn.Module):
    """Its head gives numbers between 1 and 2 on the data here."""

    def __init__(self, end):
        super().__init__()
        self.body, self.head, self.end = nn.Linear(4, 3), nn.Linear(3, 2), end
        with torch.no_grad():
            self.head.weight.abs_().mul_(0.1)
            self.head.bias.fill_(1.2)

    def forward(self, x):
        return self.end(self.head(torch.sigmoid(self.body(x))))


def _models(make, ends=(None, None)):
    models = {}
    for name, end in zip("ab", ends, strict=True):
        torch.manual_seed(0)
        net = make() if end is None else make(end)
        models[name] = (net, sgd(0.1)(net.parameters()))
    with torch.no_grad():
        models["b"][0].head.weight.mul_(0.5)
    return models


def _x():
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(1))


def _assert_gives(output, expected):
    if isinstance(expected, tuple):
        ((output,), (expected,)) = output, expected
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("end", FOLLOWS)
def test_what_follows_the_head_is_not_lost(end):
    models, x = _models(Ended, [FOLLOWS[end]] * 2), _x()
    data = (x, torch.zeros(6))
    merged = Coupling(models, HEADS).merge(data, data)
    assert isinstance(merged, TaskNetworks)
    for name, (net, _) in models.items():
        _assert_gives(merged(x, task=name), net(x))
        with torch.no_grad():  # outputs of the other sign
            for one in (net, merged.for_task(name)):
                one.head.bias.neg_()
        _assert_gives(merged(x, task=name), net(x))


@pytest.mark.parametrize("end", NOTHING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_head_that_nothing_follows_is_kept_on_one_trunk(end, dtype):
    torch.manual_seed(0)
    net = Ended(NOTHING[end]).to(dtype)
    x = _x().to(dtype)
    models, data = made(net, sgd(0.1)), (x, torch.zeros(6))
    before = torch.get_rng_state()
    merged = Coupling(models, HEADS).merge(data, data)
    assert isinstance(merged, MultiHead)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(part._forward_hooks for part in merged.modules())
    torch.testing.assert_close(merged(x, task="b"), net(x))


@pytest.mark.parametrize("which", [0, 1])
def test_every_network_is_looked_at(which):
    ends = [nn.Identity(), nn.Identity()]
    ends[which] = nn.ReLU()
    models, data = _models(Ended, ends), (_x(), torch.zeros(6))
    assert isinstance(Coupling(models, HEADS).merge(data, data), TaskNetworks)


def test_a_head_that_runs_twice_is_not_at_the_end():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 4)
            nn.init.eye_(self.head.weight)
            nn.init.zeros_(self.head.bias)

        def forward(self, x):
            return self.head(self.head(self.body(x)))

    models, data = _models(Twice), (_x(), torch.zeros(6))
    assert isinstance(Coupling(models, HEADS).merge(data, data), TaskNetworks)


def test_iterators_lose_no_batch():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
            self.head = nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.body(x))

    models = _models(Normed)
    batches = [[(_x() + shift, torch.zeros(6)), (_x() - shift, torch.zeros(6))] for shift in (1, 2)]
    coupling = Coupling(models, HEADS)
    expected, merged = coupling.merge(*batches), coupling.merge(*map(iter, batches))
    assert isinstance(merged, MultiHead)
    for name, value in expected.state_dict().items():
        assert torch.equal(merged.state_dict()[name], value), name


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(2, 3)
        self.norm, self.head = nn.BatchNorm1d(6), nn.Linear(6, 5)

    def forward(self, left, right):
        features = torch.cat([self.left(left), self.right(right)], 1)
        return self.head(torch.relu(self.norm(features)))


def _call(net, inputs, **task):
    named = inputs if isinstance(inputs, dict) else {}
    return net(*(() if named else inputs), **named, **task)


@pytest.mark.parametrize("named", [False, True], ids=["in order", "by name"])
def test_heads_on_a_trunk_of_several_inputs(named):
    torch.manual_seed(0)
    left, right, labels = torch.randn(8, 4), torch.randn(8, 2), torch.arange(8) % 5
    inputs = {"left": left, "right": right} if named else (left, right)
    models, data = _models(TwoInputs), [(inputs, labels)]
    merged = Coupling(models, HEADS).merge(data, data).eval()
    assert isinstance(merged, MultiHead)
    for name, (net, _) in models.items():
        # By hand: the trunks are the same, their statistics those of the data.
        expected = conjoin.reestimate_batchnorm(net, data, data).eval()(left, right)
        torch.testing.assert_close(_call(merged, inputs, task=name), expected)
        alone = merged.for_task(name)
        torch.testing.assert_close(_call(alone, inputs), expected)
        args, kwargs = ((), inputs) if named else (inputs, {})
        program = torch.export.export(alone, args, kwargs)
        torch.testing.assert_close(_call(program.module(), inputs), expected)
        found = conjoin.evaluate({"merged": merged, "alone": alone}, {name: data})
        loss = nn.functional.cross_entropy(expected, labels).item()
        assert [r.value for r in found if r.metric == "loss"] == [pytest.approx(loss)] * 2


class Language(nn.Module):
    """Its head and its embedding have one weight; `first` is the one that is registered first."""

    def __init__(self, first):
        super().__init__()
        parts = {"embedding": nn.Embedding(7, 3), "head": nn.Linear(3, 7)}
        parts["head"].weight = parts["embedding"].weight
        for name in sorted(parts, key=lambda name: name != first):
            self.add_module(name, parts[name])
        self.body = nn.Linear(3, 3)

    def forward(self, x):
        return self.head(torch.relu(self.body(self.embedding(x))))


@pytest.mark.parametrize(
    ("first", "private"),
    [("embedding", "head.bias"), ("head", "head.bias"), ("head", "head.*")],
)
def test_a_head_that_is_tied_to_the_embedding_is_no_part_of_its_own(first, private):
    torch.manual_seed(0)
    models, x = made(Language(first), sgd(0.1)), torch.tensor([0, 3, 5])
    coupling = Coupling(models, {private: 0.0, "*": math.inf})
    for number, (net, _) in enumerate(models.values()):
        net(torch.tensor([number, 2])).square().sum().backward()
    coupling.step()
    merged = coupling.merge([x], [x])
    assert isinstance(merged, TaskNetworks)
    for name, (net, _) in models.items():
        torch.testing.assert_close(merged(x, task=name), net(x))
        own = merged.for_task(name)
        assert own.head.weight is own.embedding.weight
    one, other = (merged.for_task(name) for name in models)
    assert one.body.weight is other.body.weight
    assert (one.head.weight is other.head.weight) == (private == "head.bias")
    assert one.head.bias is not other.head.bias


def test_a_head_whose_parts_are_tied_to_each_other_is_kept_on_one_trunk():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(4, 3)
            self.head = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
            self.head[2].weight = self.head[0].weight

        def forward(self, x):
            return self.head(self.body(x))

    torch.manual_seed(0)
    models, data = made(Tied(), sgd(0.1)), (_x(), torch.zeros(6))
    merged = Coupling(models, HEADS).merge(data, data)
    assert isinstance(merged, MultiHead)
    torch.testing.assert_close(merged(_x(), task="b"), models["b"][0](_x()))
