"""Correlations of activations, against NumPy; alignment by them."""

import copy

import numpy as np
import pytest
import torch
from alignment_networks import NETWORKS, TOKENS, Attention, Residual, mlp, new
from torch import nn

from conjoin.alignment import align
from conjoin.alignment.activations import correlate
from conjoin.errors import DataError, InputError, NonFiniteError
from conjoin.symmetry import find_symmetries


def numpy_correlation(one, two):
    """Units in rows; 0 where one is constant."""
    n = len(one)
    with np.errstate(all="ignore"):
        found = np.corrcoef(np.concatenate([one, two]).astype(np.float64))[:n, n:]
    return np.nan_to_num(found)


@pytest.fixture(scope="module")
def residual():
    one, two = new(Residual, 0), new(Residual, 1)
    with torch.no_grad():
        one.branch[0].weight[2] = 0  # a unit that never fires, and one that always does
        two.branch[1].bias[5] = 9
        two.branch[1].weight[5] = 0
    return one, two, find_symmetries(one, torch.randn(2, 3, 6, 6)).layout


def test_correlations_are_those_of_numpy(residual):
    one, two, layout = residual
    x = torch.randn(30, 3, 6, 6) + 1
    found = correlate(one, two, layout, [x])
    assert found.examples == 30
    assert set(found.of) == set(layout.groups)
    assert found.pairs == {}
    seen = []
    with torch.no_grad():
        for net in (one, two):
            y = net.stem(x).relu()
            middle = net.branch[:3](y)
            z = y + net.branch[3](middle)
            last = torch.cat([z + net.square(z), z], 1)
            pooled = nn.functional.adaptive_avg_pool2d(last, 2)
            seen.append({"stem": [y, z, pooled[:, :6], pooled[:, 6:]], "middle": [middle]})
    for name, places in seen[0].items():
        both = zip(places, seen[1][name], strict=True)
        rows = [[t.transpose(0, 1).flatten(1).numpy() for t in pair] for pair in both]
        expected = np.mean([numpy_correlation(a, b) for a, b in rows], 0)
        (group,) = [g for g in layout.groups.values() if g.size == len(expected)]
        np.testing.assert_allclose(found.of[group.name], expected, atol=2e-5)
    assert (found.of[next(g.name for g in layout.groups.values() if g.size == 10)][2] == 0).all()


def test_batches_do_not_matter(residual):
    one, two, layout = residual
    x = torch.randn(12, 3, 6, 6) + 3
    whole = correlate(one, two, layout, [x])
    parts = correlate(one, two, layout, x.split(1))
    for name, expected in whole.of.items():
        torch.testing.assert_close(parts.of[name], expected, atol=2e-5, rtol=0)


def test_small_deviations_from_a_large_mean_count():
    """Units that are always near 1000, and differ by hundredths: what float32 sums would lose."""
    one, two = new(lambda: mlp(4, 8, 3), 0), new(lambda: mlp(4, 8, 3), 1)
    with torch.no_grad():
        for net in (one, two):
            net[0].weight.mul_(0.05)
            net[0].bias.fill_(1000)
    x = torch.randn(500, 4)
    layout = find_symmetries(one, x[:2]).layout
    found = correlate(one, two, layout, x.split(100))
    with torch.no_grad():
        expected = numpy_correlation(*(net[:2](x).T.numpy() for net in (one, two)))
    np.testing.assert_allclose(found.of["0.weight:0"], expected, atol=1e-4)


def test_units_of_heads_are_compared_in_all_pairs():
    one, two = new(Attention, 0), new(Attention, 1)
    layout = find_symmetries(one, TOKENS).layout
    x = torch.randint(0, 6, (40, 5))
    found = correlate(one, two, layout, [x])
    ((outer, inner),) = found.pairs
    assert (layout.groups[outer].size, layout.groups[inner].size) == (2, 3)
    features = []
    for net in (one, two):
        kept = []
        handle = net.out.register_forward_hook(lambda m, args, out: kept.append(args[0]))  # noqa: B023
        with torch.no_grad():
            net(x)
        handle.remove()
        features.append(kept[0].flatten(0, -2).T.numpy())
    expected = numpy_correlation(*features).reshape(2, 3, 2, 3).transpose(0, 2, 1, 3)
    np.testing.assert_allclose(found.pairs[outer, inner], expected, atol=2e-5)


@pytest.mark.parametrize("method", ["activations", "mixed"])
@pytest.mark.parametrize(("make", "example"), NETWORKS.values(), ids=NETWORKS)
def test_a_shuffled_copy_is_put_back(make, example, method):
    net = new(make, 0)
    symmetries = find_symmetries(net, example)
    planted = symmetries.sample(torch.Generator().manual_seed(0))
    other = planted.apply(net)
    generator = torch.Generator().manual_seed(1)
    if example.is_floating_point():
        data = torch.randn(60, *example.shape[1:], generator=generator)
    else:
        data = torch.randint(0, 6, (60, *example.shape[1:]), generator=generator)
    pairs = [(batch, torch.zeros(len(batch))) for batch in data.split(25)]
    found = align(other, net, symmetries=symmetries, data=pairs, method=method)
    assert found.permutations == planted.inverse()


def test_activations_find_what_weights_do_not_show():
    """Units that are scaled up in one layer and down in the next, each by its own factor."""
    net = new(lambda: mlp(4, 30, 3), 0)
    other = copy.deepcopy(net)
    factors = torch.logspace(-3, 3, 30)[
        torch.randperm(30, generator=torch.Generator().manual_seed(0))
    ]
    with torch.no_grad():
        other[0].weight.mul_(factors[:, None])
        other[0].bias.mul_(factors)
        other[2].weight.div_(factors)
    symmetries = find_symmetries(net, torch.randn(2, 4))
    planted = symmetries.sample(torch.Generator().manual_seed(0))
    shuffled = planted.apply(other)
    data = [torch.randn(200, 4)]
    by_activations = align(shuffled, net, symmetries=symmetries, data=data)
    assert by_activations.permutations == planted.inverse()
    assert align(shuffled, net, symmetries=symmetries).permutations != planted.inverse()


def test_models_are_left_as_they_are(residual):
    one, two, layout = residual
    two.train()
    before = copy.deepcopy(two.state_dict())
    correlate(one, two, layout, [torch.randn(4, 3, 6, 6)])
    assert two.training
    assert not one.training
    assert all(torch.equal(t, before[name]) for name, t in two.state_dict().items())
    assert not any(module._forward_pre_hooks for module in two.modules())
    two.eval()


def test_what_cannot_be_compared_is_said(residual):
    one, two, layout = residual
    x = torch.randn(4, 3, 6, 6)
    with pytest.raises(DataError, match="there is no batch"):
        align(two, one, symmetries=layout, data=[])
    with pytest.raises(InputError, match="'mixed' compares activations; give data="):
        align(two, one, symmetries=layout, method="mixed")
    with pytest.raises(
        InputError, match="methods are auto, weights, activations, mixed, learned, not 'best'"
    ):
        align(two, one, symmetries=layout, method="best")
    with pytest.raises(InputError, match="give modules, or weights"):
        align(two.state_dict(), one.state_dict(), symmetries=layout, data=[x])
    broken = x.clone()
    broken[0, 0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="the input of 'branch.0' in the reference has NaN"):
        align(two, one, symmetries=layout, data=[broken])
