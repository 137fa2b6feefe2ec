"""RegMean by hand and against NumPy; singular matrices; permuted parents."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from conjoin.data_statistics import collect_statistics, layers_of
from conjoin.errors import InputError, MethodError, MismatchError, NonFiniteError
from conjoin.fitting.regmean import regmean, task_weights
from conjoin.symmetry import find_symmetries
from conjoin.symmetry.tracing import trace


def _randomized(net, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return net.eval()


def _linear(seed, bias=False):
    return _randomized(nn.Sequential(nn.Linear(4, 3, bias=bias)), seed)


def _rows(seed, *shape):
    return torch.randn(*(shape or (30, 4)), generator=torch.Generator().manual_seed(seed)) + 0.5


def _seen(net, x):
    return collect_statistics(net, [x], what=("gram",))


def _of_rows(x):
    """The statistics of a linear layer that reads x [N, features], without a pass."""
    return {"0:gram": (x.double().T @ x.double())[None] / len(x)}


def _layers(net, x):
    return layers_of(trace(net, x[:2]))


@cache
def _linear_layers():
    return _layers(_linear(0), _rows(0))


def _states(*nets):
    return [net.state_dict() for net in nets]


def test_by_hand():
    layers = _linear_layers()
    grams = [
        torch.diag(torch.tensor([3.0, 1.0, 0.0, 0.0])),
        torch.diag(torch.tensor([1.0, 1, 1, 0])),
    ]
    grams[0][0, 1] = grams[0][1, 0] = 1.0
    seen = [{"0:gram": gram.double()[None]} for gram in grams]
    parents = [
        {"0.weight": torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 3)},
        {"0.weight": torch.tensor([[5.0, 6.0, 7.0, 8.0]] * 3)},
    ]
    # a = 0: each input by itself: (3 1 + 5) / 4, (2 + 6) / 2, that of b alone, the mean.
    found = regmean(parents, seen, layers, non_diagonal=0)["0.weight"]
    torch.testing.assert_close(found[0], torch.tensor([2.0, 4.0, 7.0, 6.0]))
    # a = .5: (4 .5; .5 2) w = (3 + 1 + 5, .5 + 2 + 6) for the first two.
    found = regmean(parents, seen, layers, non_diagonal=0.5)["0.weight"]
    torch.testing.assert_close(found[0], torch.tensor([13.75, 29.5, 7.0 * 7.75, 6.0 * 7.75]) / 7.75)


@pytest.mark.parametrize("non_diagonal", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("weights", [None, [3.0, 1.0, 0.5]])
def test_against_numpy(non_diagonal, weights):
    nets, data = [_linear(seed) for seed in range(3)], [_rows(seed) for seed in range(3)]
    seen = list(map(_of_rows, data))
    found = regmean(
        _states(*nets), seen, _linear_layers(), non_diagonal=non_diagonal, weights=weights
    )
    total, pull = np.zeros((4, 4)), np.zeros((4, 3))
    for net, x, share in zip(nets, data, weights or [1.0] * 3, strict=True):
        rows = x.double().numpy()
        gram = rows.T @ rows / len(rows)
        gram = non_diagonal * gram + (1 - non_diagonal) * np.diag(np.diag(gram))
        total += share * gram
        pull += share * gram @ net[0].weight.detach().double().numpy().T
    assert list(found) == ["0.weight"]
    np.testing.assert_allclose(
        found["0.weight"], np.linalg.solve(total, pull).T, rtol=1e-4, atol=1e-5
    )


def test_it_is_the_least_squares_fit_of_all_rows():
    nets, data = [_linear(0), _linear(1)], [_rows(2), _rows(3)]
    seen = list(map(_of_rows, data))
    found = regmean(_states(*nets), seen, _linear_layers(), non_diagonal=1)
    targets = torch.cat([net(x).detach() for net, x in zip(nets, data, strict=True)])
    expected = torch.linalg.lstsq(torch.cat(data).double(), targets.double()).solution.T
    torch.testing.assert_close(found["0.weight"].double(), expected, rtol=1e-4, atol=1e-5)


NETWORKS = {
    "grouped convolution": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (6, 4, 5, 5)),
    "depthwise": (lambda: nn.Conv1d(4, 4, 3, groups=4), (6, 4, 9)),
    "linear on places": (lambda: nn.Linear(4, 3), (6, 5, 4)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_equal_parents_give_that_parent_to_the_bit(name):
    make, shape = NETWORKS[name]
    net = _randomized(nn.Sequential(make()), 0)
    data = [_rows(seed, *shape) for seed in range(3)]
    found = regmean(_states(net, net, net), [_seen(net, x) for x in data], _layers(net, data[0]))
    assert torch.equal(found["0.weight"], net[0].weight)


def test_groups_are_merged_each_by_itself():
    nets = [_randomized(nn.Sequential(nn.Conv1d(4, 6, 2, groups=2)), seed) for seed in (0, 1)]
    data = [_rows(seed, 8, 4, 5) for seed in (2, 3)]
    seen = [_seen(net, x) for net, x in zip(nets, data, strict=True)]
    found = regmean(_states(*nets), seen, _layers(nets[0], data[0]))["0.weight"]
    for group in (0, 1):
        halves = [nn.Sequential(nn.Conv1d(2, 3, 2)) for _ in nets]
        for half, net in zip(halves, nets, strict=True):
            half[0].weight.data.copy_(net[0].weight.data.chunk(2)[group])
        parts = [x.chunk(2, 1)[group] for x in data]
        each = [_seen(half, x) for half, x in zip(halves, parts, strict=True)]
        expected = regmean(_states(*halves), each, _layers(halves[0], parts[0]))["0.weight"]
        torch.testing.assert_close(found.chunk(2)[group], expected)


class Transposed(nn.Module):
    """As GPT-2 keeps its weights."""

    def __init__(self, linear):
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().T.contiguous())
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


def test_transposed_weights():
    nets, x = [_linear(0), _linear(1)], _rows(0)
    turned = [Transposed(net[0]) for net in nets]
    expected = regmean(_states(*nets), [_seen(net, x) for net in nets], _layers(nets[0], x))
    found = regmean(_states(*turned), [_seen(net, x) for net in turned], _layers(turned[0], x))
    torch.testing.assert_close(found["weight"], expected["0.weight"].T)


def _mlp(seed):
    return _randomized(
        nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), seed
    )


def test_shuffled_parents_give_the_shuffled_result():
    nets, data = [_mlp(0), _mlp(1)], [_rows(2), _rows(3)]
    order = find_symmetries(nets[0], data[0][:2]).sample(torch.Generator().manual_seed(0))
    moved = [order.apply(net) for net in nets]
    layers = _layers(nets[0], data[0])
    plain, shuffled = (
        regmean(_states(*some), [_seen(n, x) for n, x in zip(some, data, strict=True)], layers)
        for some in (nets, moved)
    )
    assert not torch.allclose(plain["2.weight"], shuffled["2.weight"], atol=0.1)
    for name, tensor in plain.items():
        torch.testing.assert_close(shuffled[name], order.tensor(name, tensor), rtol=1e-3, atol=1e-4)


def test_inputs_that_are_always_zero_have_the_mean():
    nets, x = [_linear(0), _linear(1)], _rows(0)
    x[:, 2] = 0
    for non_diagonal in (0.0, 0.9, 1.0):
        found = regmean(
            _states(*nets), [_of_rows(x)] * 2, _linear_layers(),
            non_diagonal=non_diagonal, weights=[3, 1],
        )["0.weight"]  # fmt: skip
        mean = (3 * nets[0][0].weight + nets[1][0].weight) / 4
        torch.testing.assert_close(found[:, 2], mean[:, 2])
    nothing = [_of_rows(torch.zeros(5, 4))] * 2
    found = regmean(_states(*nets), nothing, _linear_layers())["0.weight"]
    torch.testing.assert_close(found, (nets[0][0].weight + nets[1][0].weight).detach() / 2)


def test_fewer_rows_than_features():
    nets = [_linear(0), _linear(1)]
    data = [_rows(2)[:1], _rows(3)[:1]]  # two directions of four
    seen = list(map(_of_rows, data))
    found = regmean(_states(*nets), seen, _linear_layers(), non_diagonal=1)["0.weight"]
    for net, x in zip(nets, data, strict=True):  # each parent's output on its own row
        torch.testing.assert_close(x @ found.T, net(x).detach(), rtol=1e-3, atol=1e-3)
    mean = (nets[0][0].weight + nets[1][0].weight).detach() / 2
    assert (found - mean).abs().max() < 20  # and no further from the mean than that takes


def test_a_matrix_that_rounding_has_made_indefinite():
    nets = [_linear(0), _linear(1)]
    gram = torch.ones(1, 4, 4, dtype=torch.float64)
    gram[0, 0, 1] = gram[0, 1, 0] = 1 + 1e-6
    seen = [{"0:gram": gram}, {"0:gram": gram.clone()}]
    found = regmean(_states(*nets), seen, _linear_layers(), non_diagonal=1)["0.weight"]
    torch.testing.assert_close(found, (nets[0][0].weight + nets[1][0].weight).detach() / 2)


def test_inputs_of_very_different_size():
    nets, x = [_linear(0), _linear(1)], _rows(0)
    scale = torch.tensor([1.0, 1e-4, 1e3, 1.0])
    data = [x, _rows(1)]
    plain = regmean(_states(*nets), list(map(_of_rows, data)), _linear_layers())["0.weight"]
    scaled = [_linear(0), _linear(1)]
    for net in scaled:
        net[0].weight.data /= scale
    found = regmean(
        _states(*scaled),
        [_of_rows(d * scale) for d in data],
        _linear_layers(),
    )["0.weight"]
    torch.testing.assert_close(found * scale, plain, rtol=1e-4, atol=1e-4)


def test_dtype_and_parents_stay():
    nets, x = [_linear(0).bfloat16(), _linear(1).bfloat16()], _rows(0)
    states = _states(*nets)
    before = [state["0.weight"].clone() for state in states]
    seen = [_of_rows(x)] * 2
    gram = seen[0]["0:gram"].clone()
    found = regmean(states, seen, _linear_layers())
    assert found["0.weight"].dtype == torch.bfloat16
    assert all(torch.equal(s["0.weight"], b) for s, b in zip(states, before, strict=True))
    assert torch.equal(seen[0]["0:gram"], gram)


def test_bad_input():
    nets, layers = [_linear(0), _linear(1)], _linear_layers()
    states, seen = _states(*nets), [_of_rows(_rows(0))] * 2
    with pytest.raises(InputError, match="2 parents need as many statistics; found 1"):
        regmean(states, seen[:1], layers)
    with pytest.raises(MethodError, match="non_diagonal must be from 0 to 1, not 2"):
        regmean(states, seen, layers, non_diagonal=2)
    with pytest.raises(InputError, match="no Gram matrix of any of the layers; collect them"):
        regmean(states, [{}, {}], layers)
    with pytest.raises(InputError, match="the statistics 1 have no '0:gram'"):
        regmean(states, [seen[0], {}], layers)
    with pytest.raises(MismatchError, match="parent 1 has no tensor '0.weight'"):
        regmean([states[0], {}], seen, layers)
    with pytest.raises(MismatchError, match=r"\[3, 4\] in parent 0, and \[2, 4\] in parent 1"):
        regmean([states[0], {"0.weight": torch.zeros(2, 4)}], seen, layers)
    with pytest.raises(MismatchError, match=r"parent 0 has the shape \[1, 5, 5\]"):
        regmean(states, [{"0:gram": torch.zeros(1, 5, 5)}] * 2, layers)
    with pytest.raises(NonFiniteError, match="'0.weight' of a parent, or its Gram matrix"):
        regmean([states[0], {"0.weight": torch.full((3, 4), float("nan"))}], seen, layers)


@pytest.mark.parametrize("weights", [[1.0], [1.0, -0.5], [0.0, 0.0], [1.0, float("nan")]])
def test_bad_weights(weights):
    with pytest.raises(MethodError):
        task_weights(2, weights)
