"""BatchNorm folded into layers: outputs stay, and what cannot be folded is named."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import conjoin
from conjoin.data_statistics import layers_of
from conjoin.fitting.folding import fold, folding_of, reestimate_kept
from conjoin.symmetry.tracing import trace


class Residual(nn.Module):
    """ResNet's basic block, and what stands in the way of folding."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm_one = nn.BatchNorm2d(6, eps=1e-3)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.norm_depthwise = nn.BatchNorm2d(6)
        self.grouped = nn.Conv2d(6, 6, 3, padding=1, groups=2, bias=False)
        self.norm_grouped = nn.BatchNorm2d(6)
        self.short = nn.Conv2d(3, 6, 1, bias=False)
        self.norm_short = nn.BatchNorm2d(6)
        self.norm_sum = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 5, bias=False)
        self.norm_head = nn.BatchNorm1d(5)

    def forward(self, x):
        y = F.relu(self.norm_one(self.one(x)))
        y = F.relu(self.norm_depthwise(self.depthwise(y)))
        y = self.norm_grouped(self.grouped(y)) + self.norm_short(self.short(x))
        return self.norm_head(self.head(F.relu(self.norm_sum(y)).mean((2, 3))))


class Bare(nn.Module):
    """BatchNorm without weight and bias, and without running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm_one = nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False)
        self.two, self.norm_two = nn.Linear(6, 6, bias=False), nn.BatchNorm1d(6, affine=False)
        self.three = nn.Linear(6, 6)
        self.norm_three = nn.BatchNorm1d(6, track_running_stats=False)

    def forward(self, x):
        x = self.norm_two(self.two(self.norm_one(self.one(x)).relu())).relu()
        return self.norm_three(self.three(x))


class Reused(nn.Module):
    """A layer that is used twice, a BatchNorm that is, and a layer that is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.own = nn.Linear(4, 4), nn.ModuleList(nn.BatchNorm1d(4) for _ in "ab")
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.shared = nn.BatchNorm1d(4)
        self.read, self.after = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.unused = nn.BatchNorm1d(4)

    def forward(self, x):
        x = self.own[1](self.twice(self.own[0](self.twice(x)).relu()))
        x = self.shared(self.one(x)) + self.shared(self.two(x.relu()))
        read = self.read(x)
        return self.after(read) * read.sigmoid()


class Aliased(nn.Module):
    """The same modules under several names, of which each is used once."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4)
        self.other = self.again = nn.Sequential(self.linear, self.norm)
        self.last = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.last(self.again(x).relu())


SHAPES = {Residual: (3, 7, 7), Bare: (4,), Reused: (4,), Aliased: (4,)}
WHY = {
    "sum": "no linear layer or convolution stands right before it",
    "bare": "neither it nor 'two' before it has a bias",
    "untracked": "it has no running statistics",
    "several": "it is used in several places, or in none",
    "shared": "the layer before it is used in several places, or has its outputs on another axis",
    "read": "what the layer before it gives is read elsewhere too",
}
FOLDED = {
    Residual: {
        "norm_one": "one",
        "norm_depthwise": "depthwise",
        "norm_grouped": "grouped",
        "norm_short": "short",
        "norm_head": "head",
    },
    Bare: {"norm_one": "one"},
    Reused: {},
    Aliased: {"again.1": "again.0"},
}
KEPT = {
    Residual: {"norm_sum": WHY["sum"]},
    Bare: {"norm_two": WHY["bare"], "norm_three": WHY["untracked"]},
    Reused: {
        "own.0": WHY["shared"],
        "own.1": WHY["shared"],
        "shared": WHY["several"],
        "after": WHY["read"],
        "unused": WHY["several"],
    },
    Aliased: {"last": WHY["sum"]},
}


def _random(kind, seed=0, dtype=torch.float64):
    """Weights and statistics at random: scales of both signs and 0, variances over six decades."""
    torch.manual_seed(seed)
    net = kind().to(dtype).eval()
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.normal_()
        for part in net.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) and part.running_mean is not None:
                part.running_mean.normal_(0, 3)
                part.running_var.copy_(10 ** torch.empty(part.num_features).uniform_(-4, 2))
                if part.affine:
                    part.weight[1] = 0
    return net


def _inputs(kind, count=8, dtype=torch.float64):
    return torch.randn(count, *SHAPES[kind], dtype=dtype)


def _folding(net, kind):
    dtype = next(net.parameters()).dtype
    return folding_of(layers_of(trace(net, _inputs(kind, 2, dtype))), net)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_outputs_stay(kind, seed):
    net = _random(kind, seed)
    x = _inputs(kind)
    folded = fold(net, _folding(net, kind))
    wanted = net(x)
    torch.testing.assert_close(folded(x), wanted, rtol=1e-11, atol=1e-11)
    assert wanted.std() > 1e-3


@pytest.mark.parametrize("kind", SHAPES)
def test_what_is_folded_and_what_is_not(kind):
    folding = _folding(_random(kind), kind)
    assert folding.folded == FOLDED[kind]
    assert folding.kept == KEPT[kind]


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_folded_batchnorm_gives_what_it_gets_and_the_rest_is_as_it_was(kind, dtype):
    net = _random(kind, dtype=dtype)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    folding = _folding(net, kind)
    folded = fold(net.train(), folding)
    assert net.training
    assert not folded.training
    assert type(folded) is type(net)
    state = folded.state_dict()
    assert [(n, t.shape, t.dtype) for n, t in state.items()] == [
        (n, t.shape, t.dtype) for n, t in before.items()
    ]
    assert all(torch.equal(tensor, before[n]) for n, tensor in net.state_dict().items())
    for name in folding.folded:
        part = folded.get_submodule(name)
        if part.affine:  # its bias carries the layer's where that has none
            part = copy.deepcopy(part)
            part.bias.data.zero_()
        shape = (4, part.num_features, *(2, 2) * isinstance(part, nn.BatchNorm2d))
        x = torch.randn(shape, dtype=dtype)
        torch.testing.assert_close(part(x), x, rtol=3e-7, atol=0)
    own = [n for n in state if any(n.startswith(f"{name}.") for name in folding.kept)]
    assert all(torch.equal(state[n], before[n]) for n in own)


def test_folding_twice_is_folding_once():
    net = _random(Residual)
    folding = _folding(net, Residual)
    once = fold(net, folding).state_dict()
    twice = fold(fold(net, folding), folding).state_dict()
    for name, tensor in once.items():
        torch.testing.assert_close(twice[name], tensor, rtol=1e-12, atol=1e-12)


def test_by_hand():
    net = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2, eps=1.0)).double().eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[2.0], [3.0]]))
        net[0].bias.copy_(torch.tensor([1.0, 0.0]))
        net[1].running_mean.copy_(torch.tensor([4.0, 1.0]))
        net[1].running_var.copy_(torch.tensor([3.0, 0.0]))
        net[1].weight.copy_(torch.tensor([6.0, -1.0]))
        net[1].bias.copy_(torch.tensor([0.5, 0.0]))
    folding = folding_of(layers_of(trace(net, torch.zeros(2, 1).double())), net)
    folded = fold(net, folding)
    assert folded[0].weight.flatten().tolist() == [6.0, -3.0]  # times 6 / 2, and -1 / 1
    assert folded[0].bias.tolist() == [-8.5, 1.0]  # (1 - 4) 3 + .5, and (0 - 1) (-1)
    assert folded[1].running_var.tolist() == [0.0, 0.0]  # 1 - eps


@pytest.mark.parametrize("kind", [Residual, Aliased])
def test_only_what_is_kept_is_estimated_anew(kind):
    net = _random(kind)
    folding = _folding(net, kind)
    data = [_inputs(kind, 40), _inputs(kind, 40)]
    found = reestimate_kept(fold(net, folding), folding, [[x] for x in data])
    assert list(found.state_dict()) == list(net.state_dict())
    for name in folding.folded:
        part = found.get_submodule(name)
        assert isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)
        assert not part.running_mean.any()
    seen = []
    last = found.get_submodule("norm_sum" if kind is Residual else "last")
    handle = last.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    found(torch.cat(data))
    handle.remove()
    over = [dim for dim in range(seen[0].dim()) if dim != 1]
    torch.testing.assert_close(last.running_mean, seen[0].mean(over))
    torch.testing.assert_close(last.running_var, seen[0].var(over))
    assert not conjoin.needs_reestimation(found)


def test_without_any_that_is_kept_nothing_is_estimated():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).eval()
    folding = folding_of(layers_of(trace(net, torch.zeros(2, 2))), net)
    merged = conjoin.merge([fold(net, folding)] * 2)
    found = reestimate_kept(merged, folding, [[torch.randn(20, 2)]])
    assert not found[1].running_mean.any()
    assert not conjoin.needs_reestimation(found)
