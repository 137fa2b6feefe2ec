"""`repair`: the statistics are the target's, on every kind of layer."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import conjoin
from conjoin.errors import DataError, InputError, MismatchError, NonFiniteError, TraceError
from conjoin.repairing import reestimate_batchnorm, repair

from .networks import (
    branches,
    images,
    mean_of,
    mlp,
    outputs_of,
    points,
    same,
    same_weights,
    statistics,
)

CONFIGURATIONS = [
    (lambda seed: mlp(seed), points),
    (lambda seed: mlp(seed, depth=5), points),
    (lambda seed: branches(seed), images),
]


@pytest.mark.parametrize(
    ("make", "draw"), CONFIGURATIONS, ids=["one hidden", "deep", "convolutions"]
)
@pytest.mark.parametrize("weights", [None, [3.0, 1.0]])
def test_statistics_are_the_average_of_the_parents(make, draw, weights):
    parents = [make(1), make(2)]
    x, labels = draw(60)
    shares = [0.5, 0.5] if weights is None else [0.75, 0.25]
    fixed, report = repair(
        mean_of(*parents), parents, [(x, labels)], method="repair", validation=[(x, labels)],
        weights=weights, batch_size=17,
    )  # fmt: skip
    theirs = [outputs_of(parent, x) for parent in parents]
    for name, value in outputs_of(fixed, x).items():
        (m1, s1), (m2, s2) = (statistics(each[name]) for each in theirs)
        mean, deviation = statistics(value)
        same(mean, shares[0] * m1 + shares[1] * m2)
        same(deviation, shares[0] * s1 + shares[1] * s2)
    assert [layer.after for layer in report.layers] == pytest.approx([1.0] * len(report.layers))


def test_each_parent_on_its_own_data():
    parents = [mlp(1, depth=2), mlp(2, depth=2)]
    data = [points(40, 1), points(70, 2, shift=3.0)]
    fixed, _ = repair(mean_of(*parents), parents, data, method="repair", validation=data)
    theirs = [outputs_of(parent, x) for parent, (x, _) in zip(parents, data, strict=True)]
    ours = [outputs_of(fixed, x) for x, _ in data]
    for name in theirs[0]:
        for at in (0, 1):  # mean, then deviation, of each set by itself
            wanted, found = (
                sum(statistics(each[name])[at] for each in sets) / 2 for sets in (theirs, ours)
            )
            same(found, wanted)


def test_two_layers_by_numpy():
    parents = [mlp(1), mlp(2)]
    merged = mean_of(*parents)
    x, labels = points(50)
    fixed, _ = repair(merged, parents, [(x, labels)], method="repair", validation=[(x, labels)])
    state = {name: tensor.numpy() for name, tensor in merged.state_dict().items()}
    hidden = [x.numpy()] * 3  # of the parents, and of the repaired network
    for layer in ("0", "2"):
        theirs = [
            h @ p.state_dict()[f"{layer}.weight"].numpy().T
            + p.state_dict()[f"{layer}.bias"].numpy()
            for h, p in zip(hidden, parents, strict=False)
        ]
        ours = hidden[2] @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]
        wanted = (theirs[0].std(0) + theirs[1].std(0)) / 2
        scale = wanted / ours.std(0)
        shift = (theirs[0].mean(0) + theirs[1].mean(0)) / 2
        weight = scale[:, None] * state[f"{layer}.weight"]
        bias = scale * (state[f"{layer}.bias"] - ours.mean(0)) + shift
        np.testing.assert_allclose(fixed.state_dict()[f"{layer}.weight"], weight, rtol=1e-10)
        np.testing.assert_allclose(fixed.state_dict()[f"{layer}.bias"], bias, rtol=1e-9, atol=1e-12)
        hidden = [np.maximum(v, 0) for v in (*theirs, hidden[2] @ weight.T + bias)]


@pytest.mark.parametrize("method", ["repair", "rescale", "bias"])
@pytest.mark.parametrize("normalized", [False, True])
def test_equal_parents_are_left_as_they_are(method, normalized):
    net = branches(1, normalized=normalized)
    data = images(40)
    if normalized:
        net = reestimate_batchnorm(net, data)
    fixed, report = repair(net, [net, net], [data], method=method, validation=[data])
    for name, tensor in fixed.state_dict().items():
        same(tensor, net.state_dict()[name])
    assert all(layer.before == pytest.approx(1.0) for layer in report.layers)


def test_equal_parents_with_data_of_their_own_are_left_as_they_are():
    net = mlp(1, depth=2)
    fixed, _ = repair(net, [net, net], [points(40), points(50, 1, shift=2.0)], method="repair")
    for name, tensor in fixed.state_dict().items():
        same(tensor, net.state_dict()[name])


def test_rescale_keeps_means_and_bias_keeps_deviations():
    parents = [mlp(1), mlp(2)]
    merged = mean_of(*parents)
    data = points(50)
    layer = "0"  # the first: later ones have other inputs after a repair
    before = statistics(outputs_of(merged, data[0])[layer])
    (m1, s1), (m2, s2) = (statistics(outputs_of(net, data[0])[layer]) for net in parents)
    rescaled, report = repair(merged, parents, [data], method="rescale", validation=[data])
    mean, deviation = statistics(outputs_of(rescaled, data[0])[layer])
    same(mean, before[0])
    same(deviation, (s1 + s2) / 2)
    assert report.layers[0].done == "deviation"
    shifted, report = repair(merged, parents, [data], method="bias", validation=[data])
    mean, deviation = statistics(outputs_of(shifted, data[0])[layer])
    same(mean, (m1 + m2) / 2)
    same(deviation, before[1])
    assert torch.equal(shifted[0].weight, merged[0].weight)
    assert report.layers[0].done == "mean"


def test_variance_collapses_in_wide_networks_and_comes_back():
    parents = [mlp(1, hidden=400, depth=3), mlp(2, hidden=400, depth=3)]
    _, report = repair(
        mean_of(*parents), parents, [points(100)], method="repair", validation=[points(20, 1)]
    )
    before = [layer.before for layer in report.layers]
    # Half of the variance of independent weights is lost in the first layer, more in each other.
    assert before[0] == pytest.approx(0.5, abs=0.1)
    assert before == sorted(before, reverse=True)
    assert [layer.after for layer in report.layers] == pytest.approx([1.0] * 4)


def test_without_a_bias_only_deviations_are_moved():
    parents = [mlp(1, bias=False), mlp(2, bias=False)]
    data = points(50)
    fixed, report = repair(mean_of(*parents), parents, [data], method="repair", validation=[data])
    theirs = [outputs_of(net, data[0]) for net in parents]
    for name, value in outputs_of(fixed, data[0]).items():
        wanted = sum(statistics(each[name])[1] for each in theirs) / 2
        same(statistics(value)[1], wanted)
    assert {(one.done, one.note) for one in report.layers} == {
        ("deviation", "no bias: its means stay")
    }
    with pytest.raises(InputError, match="no linear layer or convolution with a bias"):
        repair(mean_of(*parents), parents, [data], method="bias")


def test_batchnorm_is_reestimated_and_the_others_are_repaired():
    parents = [branches(1, normalized=True), branches(2, normalized=True)]
    data = [images(40, 1), images(60, 2, shift=1.0)]
    parents = [reestimate_batchnorm(net, part) for net, part in zip(parents, data, strict=True)]
    merged = mean_of(*parents)
    fixed, report = repair(merged, parents, data, method="repair", validation=data)
    assert torch.equal(fixed.first.weight, merged.first.weight)
    assert torch.equal(fixed.norm.weight, merged.norm.weight)
    seen = outputs_of(fixed, torch.cat([x for x, _ in data]))["first"]
    same(fixed.norm.running_mean, statistics(seen)[0])
    same(fixed.norm.running_var, seen.movedim(1, -1).flatten(0, -2).var(0))
    done = {layer.name: layer.done for layer in report.layers}
    assert done == {
        "first": "re-estimated", "short": "mean and deviation", "grouped": "mean and deviation",
        "depthwise": "mean and deviation", "head": "mean and deviation",
    }  # fmt: skip
    after = [layer.after for layer in report.layers if layer.name != "first"]
    assert len(after) == 4


def test_reestimate_is_that_and_nothing_else():
    parents = [branches(1, normalized=True), branches(2, normalized=True)]
    merged, data = mean_of(*parents), [images(40, 1), images(40, 2)]
    fixed, report = repair(merged, parents, data, method="reestimate", validation=data)
    same_weights(fixed, reestimate_batchnorm(merged, *data))
    assert {one.done for one in report.layers if one.name != "first"} == {"nothing"}
    with pytest.raises(InputError, match="no BatchNorm with running statistics"):
        repair(mlp(1), [mlp(1)], [points(20)], method="reestimate")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dead_channels_neither_blow_up_nor_become_nan(dtype):
    parents = [mlp(1).to(dtype), mlp(2).to(dtype)]
    merged = mean_of(*parents)
    with torch.no_grad():
        merged[0].weight[3] = 0  # constant in the merged network alone
        merged[0].weight[4] *= 1e-9  # and all but constant
        for net in (*parents, merged):
            net[0].weight[5] = 0  # constant in all of them
    x, labels = points(50)
    x = x.to(dtype)
    data = [(x, labels)]
    fixed, report = repair(merged, parents, data, method="repair", validation=data)
    assert report.layers[0].constant == 3
    assert torch.equal(fixed[0].weight[3:6], merged[0].weight[3:6])
    wanted = sum(statistics(outputs_of(net, x)["0"])[0] for net in parents) / 2
    torch.testing.assert_close(statistics(outputs_of(fixed, x)["0"])[0], wanted)
    assert all(bool(tensor.isfinite().all()) for tensor in fixed.state_dict().values())


class _Twice(nn.Module):
    """A layer that is used twice, one with a tied bias, and one whose weight is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = (nn.Linear(4, 4).double() for _ in range(3))
        self.tied = nn.Linear(4, 4).double()
        self.tied.bias = self.first.bias
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4).double())

    def forward(self, x):
        x = self.again(self.tied(self.first(x).relu()).relu())
        return self.last(self.normed(self.again(x.relu())).relu())


def test_a_layer_that_is_used_twice_is_left_alone_and_reported():
    torch.manual_seed(0)
    parents, data = [_Twice(), _Twice()], points(40)
    merged = _Twice()  # as state dicts, of which the parts of a computed weight are kept
    merged.load_state_dict(conjoin.merge([p.state_dict() for p in parents], keep={"normed.*": 0}))
    fixed, report = repair(merged, parents, [data], method="repair", validation=[data])
    left = dict(report.left)
    assert "more than once" in left["again"]
    assert "computed" in left["normed"]
    assert torch.equal(fixed.again.weight, merged.again.weight)
    assert torch.equal(fixed.first.bias, merged.first.bias)
    assert left["first"] == left["tied"] == "its bias is used elsewhere too"
    assert [layer.name for layer in report.layers] == ["last"]
    assert "Left alone: again: used more than once" in str(report)


def test_inputs_are_not_changed_and_the_mode_is_kept():
    parents = [branches(1, normalized=True), branches(2, normalized=True).train()]
    merged = mean_of(*parents).train()
    before = [copy.deepcopy(net.state_dict()) for net in (merged, *parents)]
    fixed, _ = repair(merged, parents, [images(40)])
    for state, net in zip(before, (merged, *parents), strict=True):
        assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())
    assert fixed.training
    assert [parents[0].training, parents[1].training] == [False, True]
    shared = {tensor.data_ptr() for tensor in merged.state_dict().values()}
    assert shared.isdisjoint(tensor.data_ptr() for tensor in fixed.state_dict().values())


def test_models_of_several_inputs():
    class Two(nn.Module):
        def __init__(self, seed):
            super().__init__()
            self.net = mlp(seed)

        def forward(self, x, y):
            return self.net(x + y)

    parents = [Two(1), Two(2)]
    x, labels = points(30)
    y = points(30, 1)[0]
    for inputs in ((x, y), {"x": x, "y": y}):
        fixed, report = repair(
            mean_of(*parents),
            parents,
            [(inputs, labels)],
            method="repair",
            validation=[(inputs, labels)],
        )
        assert report.layers[-1].after == pytest.approx(1.0)
        assert fixed.net[0].weight.shape == (20, 4)


def test_nan_activations_are_named():
    parents = [mlp(1, depth=2), mlp(2, depth=2)]
    merged = mean_of(*parents)
    with torch.no_grad():
        parents[1][2].bias[0] = torch.nan
    with pytest.raises(NonFiniteError, match="'2' in parent 2"):
        repair(merged, parents, [points(20)])


def test_bad_input():
    parents = [mlp(1), mlp(2)]
    merged, data = mean_of(*parents), points(20)
    with pytest.raises(InputError, match="methods are auto"):
        repair(merged, parents, [data], method="permute")
    with pytest.raises(InputError, match="needs the parents"):
        repair(merged, [], [data])
    with pytest.raises(DataError, match="data set 2 of 2 gave no example"):
        repair(merged, parents, [data, []])
    with pytest.raises(DataError, match="every 5th is held out"):
        repair(merged, parents, [points(3)])
    with pytest.raises(DataError, match="gave no batch"):
        repair(merged, parents, [data], validation=[[]])
    with pytest.raises(InputError, match="data=.*loader"):
        repair(merged, parents, data)
    with pytest.raises(InputError, match="each of the 2 parents"):
        repair(merged, parents, [data] * 3)
    with pytest.raises(InputError, match="finite numbers"):
        repair(merged, parents, [data], weights=[1.0, -1.0])
    with pytest.raises(MismatchError, match="'0.weight' has the shape"):
        repair(merged, [parents[0], mlp(1, hidden=21)], [data])
    with pytest.raises(MismatchError, match="dtype torch.float64 .* torch.float32 in parent 1"):
        repair(merged, [mlp(1).float(), parents[1]], [data])
    with pytest.raises(MismatchError, match="different tensors"):
        repair(merged, [parents[0], mlp(1, depth=2)], [data])


def test_a_parent_that_computes_something_else():
    parents = [mlp(1), mlp(2)]
    other = copy.deepcopy(parents[1])
    other[1] = nn.Tanh()
    with pytest.raises(MismatchError, match="parent 2 has the merged network's tensors but"):
        repair(mean_of(*parents), [parents[0], other], [points(20)])


class _NormFirst(nn.Module):
    """A BatchNorm before its layer, and one that is used twice, so that it belongs to none."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6).double(), nn.Linear(6, 6).double()
        self.norm, self.shared = nn.BatchNorm1d(6).double(), nn.BatchNorm1d(6).double()

    def forward(self, x):
        x = self.second(self.norm(self.first(x).relu()))
        return self.shared(self.shared(x).relu())


def test_batchnorm_elsewhere():
    torch.manual_seed(0)
    data = points(40)
    parents = [reestimate_batchnorm(_NormFirst(), data) for _ in range(2)]
    fixed, report = repair(mean_of(*parents), parents, [data], method="repair", validation=[data])
    done = {layer.name: (layer.kind, layer.done) for layer in report.layers}
    assert done["norm"] == ("batchnorm", "re-estimated")
    assert done["first"] == ("linear", "mean and deviation")
    again = reestimate_batchnorm(fixed, data)
    for name in ("norm.running_mean", "norm.running_var", "shared.running_mean"):
        same(fixed.state_dict()[name], again.state_dict()[name])


class _Transformer(nn.Module):
    """Packed and separate projections, LayerNorm, a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.norm, self.last = nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8, bias=False)
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, tokens):
        x = self.embed(tokens)
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 2, 4)).transpose(1, 3).unbind(2)
        x = x + self.out(
            nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        )
        return x + self.down(nn.functional.gelu(self.up(self.last(x))))


def test_a_transformer():
    torch.manual_seed(0)
    parents = [_Transformer().double(), _Transformer().double()]
    tokens = torch.randint(11, (50, 7))
    fixed, report = repair(
        mean_of(*parents), parents, [[tokens]], method="repair", validation=[[tokens]]
    )
    assert [layer.name for layer in report.layers] == ["qkv", "out", "up", "down"]
    assert [layer.after for layer in report.layers] == pytest.approx([1.0] * 4)
    assert torch.equal(fixed.norm.weight, parents[0].norm.weight)
    assert "mean squared distance" in report.measure
    _, report = repair(mean_of(*parents), parents, [[tokens]], validation=[[tokens]])
    assert set(report.scores) == {"none", "repair", "rescale", "bias"}


class _Jumps(nn.Module):
    """Cannot be traced: what it does depends on a value."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4).double()

    def forward(self, x):
        return self.norm(x) if x.sum() > 1e9 else self.norm(2 * x)


def test_what_cannot_be_traced_can_be_reestimated():
    net = _Jumps()
    fixed, report = repair(net, [net, net], [points(50)])
    assert (report.layers, set(report.scores)) == ((), {"none", "reestimate"})
    assert report.left[0][0] == "all layers"
    assert report.chosen in ("none", "reestimate")
    assert isinstance(fixed, _Jumps)
    with pytest.raises(TraceError):
        repair(net, [net, net], [points(50)], method="repair")
