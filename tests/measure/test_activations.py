"""Statistics of activations against NumPy in float64 on all activations, stored."""

import copy
import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from conjoin.errors import DataError, InputError, MismatchError
from conjoin.measure.activations import activation_statistics


class Net(nn.Module):
    """Convolution with a norm behind it, one without, and linear layers; ReLUs work in place."""

    def __init__(self, seed=0, width=6):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Conv2d(2, width, 3, padding=1)
            self.norm = nn.BatchNorm2d(width)
            self.second = nn.Conv2d(width, width, 3)
            self.hidden = nn.Linear(width, 5)
            self.head = nn.Linear(5, 3)
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2)
            self.norm.weight.data.uniform_(0.5, 2)

    def forward(self, x):
        x = self.norm(self.first(x)).relu_()
        x = self.second(x).relu_().mean((2, 3))
        return self.head(self.hidden(x).relu_())

    def preactivations(self, x):
        """What the statistics are of, by hand: [n, units] of each layer, in float64."""
        with torch.no_grad():
            first = self.norm(self.first(x))
            second = self.second(first.relu())
            hidden = self.hidden(second.relu().mean((2, 3)))
            head = self.head(hidden.relu())
        arrays = {"first": first, "second": second, "hidden": hidden, "head": head}
        return {
            name: np.moveaxis(a.double().numpy(), 1, -1).reshape(-1, a.shape[1])
            for name, a in arrays.items()
        }


def _x(count=17, seed=0):
    return torch.randn(count, 2, 6, 6, generator=torch.Generator().manual_seed(seed)) + 1


def _values(records):
    return {(r.how["layer"], r.metric.removeprefix("activation ")): r.value for r in records}


def _measure(parents, merged, inputs, **arguments):
    named = {f"parent {i}": parent for i, parent in enumerate(parents)}
    return _values(activation_statistics(named, merged, inputs, task="t", **arguments))


@pytest.mark.parametrize("sizes", [(17,), (5, 12), (1,) * 17, (8, 0, 9)])
def test_against_numpy_on_all_activations_for_any_batches(sizes):
    parents, merged = [Net(0).eval(), Net(1).eval()], Net(2).eval()
    x = _x()
    expected = {}
    stored = [net.preactivations(x) for net in (merged, *parents)]
    for layer in stored[0]:
        m, a, b = (one[layer] for one in stored)
        expected[layer, "variance"] = m.var(0).mean() / ((a.var(0) + b.var(0)) / 2).mean()
        pairs = zip(a.T, b.T, strict=True)
        expected[layer, "correlation"] = np.mean([np.corrcoef(u, v)[0, 1] for u, v in pairs])
    found = _measure(parents, merged, list(x.split(sizes)))
    assert list(found) == list(expected)  # the order of calls, variance first
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-5, abs=1e-6), key


def test_records_say_what_they_are():
    net, seen = Net(), []
    records = activation_statistics(
        {"a": net, "b": net},
        net,
        list(_x().split(9)),
        task="digits",
        seed=3,
        split="validation",
        name="A: activations",
        how={"group": "A", "reestimated": True},
        on_done=seen.append,
    )
    assert seen == [9, 8]
    assert {(r.model, r.task, r.split, r.seed, r.count) for r in records} == {
        ("A: activations", "digits", "validation", 3, 17)
    }
    variance, correlation = records[:2]
    common = {"view": "activations", "group": "A", "layer": "first", "index": 0}
    assert variance.how == {**common, "reestimated": True}
    assert correlation.how == common
    assert [r.how["index"] for r in records] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_identical_parents_keep_everything():
    net = Net()
    for value in _measure([net, copy.deepcopy(net)], copy.deepcopy(net), [_x()]).values():
        assert value == pytest.approx(1, abs=1e-9)


def test_shuffled_units_are_the_same_function_and_agree_less():
    net = Net().eval()
    shuffled = copy.deepcopy(net)
    order = torch.tensor([1, 2, 3, 4, 0])
    with torch.no_grad():
        for parameter in (shuffled.hidden.weight, shuffled.hidden.bias):
            parameter.copy_(parameter[order])
        shuffled.head.weight.copy_(shuffled.head.weight[:, order])
        torch.testing.assert_close(shuffled(_x()), net(_x()))
    found = _measure([net, shuffled], net, [_x()])
    assert found["second", "correlation"] == pytest.approx(1)
    assert found["hidden", "correlation"] < 0.8
    assert found["head", "correlation"] == pytest.approx(1, abs=1e-6)
    for layer in ("first", "second", "hidden", "head"):
        assert found[layer, "variance"] == pytest.approx(1, abs=1e-6)


def test_the_mean_of_uncorrelated_units_has_half_their_variance():
    """The reason to look: Jordan et al.'s variance collapse, by hand."""
    x = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0))
    a, b, mean = (nn.Linear(2, 1, bias=False) for _ in range(3))
    with torch.no_grad():
        for net, row in ((a, [1.0, 0.0]), (b, [0.0, 1.0]), (mean, [0.5, 0.5])):
            net.weight.copy_(torch.tensor([row]))
    found = _measure([a, b], mean, [x])
    assert found["(root)", "variance"] == pytest.approx(0.5, abs=0.02)
    assert found["(root)", "correlation"] == pytest.approx(0, abs=0.02)


def test_units_that_are_constant_are_left_out():
    a, b = nn.Linear(2, 3), nn.Linear(2, 3)
    with torch.no_grad():
        b.weight.copy_(a.weight)
        b.weight[0] *= -1
        a.weight[1] = 0  # constant in one of them is enough
        a.bias[1] = 0.1
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    found = _measure([a, b], a, list(x.split(7)))
    assert found["(root)", "correlation"] == pytest.approx((-1 + 1) / 2, abs=1e-6)
    with torch.no_grad():
        a.weight.zero_()
    found = _measure([a, b], a, list(x.split(7)))
    assert math.isnan(found["(root)", "correlation"])
    assert found["(root)", "variance"] == 0
    found = _measure([a, a], b, list(x.split(7)))
    assert math.isnan(found["(root)", "variance"])


def test_constant_units_are_constant_whatever_their_mean_rounds_to():
    a, b = nn.Linear(2, 64).double(), nn.Linear(2, 64).double()
    with torch.no_grad():
        a.weight.zero_()
        a.bias.copy_(torch.arange(64, dtype=torch.float64) / 3)
    x = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert math.isnan(_measure([a, b], b, list(x.split(7)))["(root)", "correlation"])


def test_a_large_mean_does_not_swallow_the_variance():
    net = nn.Linear(1, 1).double()
    with torch.no_grad():
        net.weight.fill_(1)
        net.bias.fill_(1e8)
    half = copy.deepcopy(net)
    with torch.no_grad():
        half.weight.fill_(0.5)
    x = torch.randn(40, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = _measure([net, net], half, list(x.split(3)))
    assert found["(root)", "variance"] == pytest.approx(0.25, rel=1e-4)
    assert found["(root)", "correlation"] == pytest.approx(1, rel=1e-4)


def test_nan_stays_in_its_place():
    good, bad = Net(), Net()
    with torch.no_grad():
        bad.hidden.weight[0, 0] = math.nan
    found = _measure([good, good], bad, [_x()])
    assert found["second", "variance"] == pytest.approx(1)
    assert math.isnan(found["hidden", "variance"])
    assert found["hidden", "correlation"] == pytest.approx(1)
    assert math.isnan(_measure([good, bad], good, [_x()])["hidden", "correlation"])


@pytest.mark.parametrize("count", [1, 3])
def test_only_two_parents_have_a_correlation(count):
    nets = [Net(seed) for seed in range(count)]
    found = _measure(nets, nets[0], [_x()])
    assert {metric for _, metric in found} == {"variance"}
    stored = [net.eval().preactivations(_x())["second"].var(0).mean() for net in nets]
    assert found["second", "variance"] == pytest.approx(stored[0] / np.mean(stored), rel=1e-5)


def test_correlations_can_be_left_out():
    nets = [Net(0), Net(1)]
    with_them = _measure(nets, nets[0], [_x()])
    without = _measure(nets, nets[0], [_x()], correlation=False)
    assert without == {key: v for key, v in with_them.items() if key[1] == "variance"}


class Sequences(nn.Module):
    """[B, T] of token numbers -> [B, T, 4]: units are last, and one layer is called twice."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.shared = nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.inner = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.unused = nn.Linear(4, 4)
        self.seen = []
        with torch.no_grad():
            self.inner.weight.mul_(torch.rand(()) * 5)

    def forward(self, tokens):
        x = self.embed(tokens)
        self.seen = [self.shared(x)]
        self.seen.append(self.shared(self.seen[0].tanh()))
        x = self.seen[1] + self.attention(*[self.seen[1]] * 3)[0]
        self.inside = self.inner(x)
        return self.norm(x + self.inside)  # behind a sum, not behind the layer


def test_sequences_shared_layers_attention_and_norms_that_are_not_right_behind():
    torch.manual_seed(0)
    nets = [Sequences().eval() for _ in range(3)]
    tokens = torch.randint(9, (7, 5), generator=torch.Generator().manual_seed(0))
    found = _measure(nets[:2], nets[2], list(tokens.split(4)))
    assert [layer for layer, metric in found if metric == "variance"] == [
        "embed",
        "shared",
        "attention",
        "inner",
    ]
    variances, stored, inside = [], [], []
    for net in nets:
        with torch.no_grad():
            net(tokens)
        inside.append(net.inside.reshape(-1, 4).double().numpy().var(0).mean())
        both = torch.cat([part.reshape(-1, 4) for part in net.seen]).double().numpy()
        variances.append(both.var(0).mean())
        stored.append(both)
    expected = variances[2] / np.mean(variances[:2])
    assert found["shared", "variance"] == pytest.approx(expected, rel=1e-5)
    expected = inside[2] / np.mean(inside[:2])
    assert found["inner", "variance"] == pytest.approx(expected, rel=1e-5)
    units = range(4)
    each = [np.corrcoef(stored[0][:, u], stored[1][:, u])[0, 1] for u in units]
    assert found["shared", "correlation"] == pytest.approx(np.mean(each), rel=1e-4)


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm1d(4), (8, 3)),
        (nn.LayerNorm(4), (8, 3)),
        (nn.LayerNorm(4), (8, 5, 3)),
        (nn.RMSNorm(4), (8, 3)),
        (nn.GroupNorm(2, 4), (8, 3)),
    ],
)
def test_a_norm_right_behind_a_layer_counts_instead(norm, shape):
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(3, 4), copy.deepcopy(norm), nn.ReLU()) for _ in range(2)]
    with torch.no_grad():
        nets[0][1].weight.mul_(3)
        nets[0][0].weight.mul_(2)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = _measure(nets[1:], nets[0], [x])
    outputs = [net.eval()[:2](x).detach().double().numpy().reshape(-1, 4) for net in nets]
    expected = outputs[0].var(0).mean() / outputs[1].var(0).mean()
    assert found["0", "variance"] == pytest.approx(expected, rel=1e-5)


def test_inputs_of_several_tensors():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x, y):
            return self.layer(x + y)

    net = Two()
    x, y = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(0))
    for inputs in ([(x, y)], [{"y": y, "x": x}]):
        assert _measure([net, net], net, inputs)["layer", "variance"] == pytest.approx(1)


class Failing(nn.Module):
    def __init__(self, fails_at):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.norm = nn.LayerNorm(2)
        self.left = fails_at

    def forward(self, x):
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("no")
        return self.norm(self.layer(x))


@pytest.mark.parametrize("fails_at", [1, 2, 3, 99])
@pytest.mark.parametrize("who", range(3))
def test_hooks_and_modes_are_as_before_also_after_an_error(who, fails_at):
    nets = [Failing(fails_at if i == who else 99).train() for i in range(3)]
    nets[1].norm.eval()
    modes = [part.training for net in nets for part in net.modules()]
    states = [copy.deepcopy(net.state_dict()) for net in nets]
    expected = pytest.raises(RuntimeError, match="no") if fails_at < 99 else nullcontext()
    with expected:
        _measure(nets[1:], nets[0], [torch.eye(2)] * 3)
    for net, state in zip(nets, states, strict=True):
        assert all(torch.equal(tensor, state[n]) for n, tensor in net.state_dict().items())
        for part in net.modules():
            assert not part._forward_hooks
            assert not part._forward_pre_hooks
    assert [part.training for net in nets for part in net.modules()] == modes
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("parents", "inputs", "error", "message"),
    [
        ([], [_x()], InputError, "at least one parent"),
        ([Net()], [], DataError, "gave no examples"),
        ([Net()], [_x(0)], DataError, "gave no examples"),
        ([nn.Linear(2, 2)], [_x()], MismatchError, "'parent 0' has no module 'norm'"),
        ([Net(width=7)], [_x()], MismatchError, "different numbers of units in 'first': 6, 7"),
        ([Net(), Net(width=7)], [_x()], MismatchError, "'first' have different shapes"),
    ],
)
def test_what_cannot_be_compared(parents, inputs, error, message):
    with pytest.raises(error, match=message):
        _measure(parents, Net(), inputs)
