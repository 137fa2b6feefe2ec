"""Groups within what is pinned: a grouped convolution that reads the inputs themselves."""

import itertools

import numpy as np
import pytest
import torch
from alignment_networks import new
from torch import nn

from conjoin.alignment import align
from conjoin.alignment.activations import correlate
from conjoin.alignment.rotations import align_rotations
from conjoin.symmetry import Permutations, find_symmetries


class Bands(nn.Module):
    """Each of four channels of a signal has three filters of its own; then a hidden layer."""

    def __init__(self):
        super().__init__()
        self.filters = nn.Conv1d(4, 12, 3, groups=4)
        self.hidden, self.head = nn.Linear(12, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.hidden(self.filters(x).relu().mean(-1)).relu())


@pytest.fixture(scope="module")
def found():
    return find_symmetries(new(Bands, 0), torch.randn(2, 4, 9))


def _data(count=64):
    return torch.randn(count, 4, 9, generator=torch.Generator().manual_seed(0))


def _close(one, other):
    for name, tensor in other.state_dict().items():
        torch.testing.assert_close(one.state_dict()[name], tensor, msg=name)


def test_the_filters_of_each_channel_have_an_order_of_their_own(found):
    (group,) = [one for one in found.groups.values() if one.within]
    assert (group.size, group.copies) == (3, (4,))
    assert not set(group.within) & found.groups.keys()


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "weights"},
        {"method": "activations", "data": [_data()]},
        {"method": "learned", "data": list(_data().split(16))},
    ],
    ids=lambda settings: settings["method"],
)
def test_a_shuffled_network_is_put_back(found, settings):
    net = new(Bands, 1)
    shuffled = found.sample(torch.Generator().manual_seed(2)).apply(net)
    result = align(shuffled, to=net, symmetries=found, **settings)
    _close(result.apply(shuffled), net)
    assert result.objective == pytest.approx(1)


@pytest.mark.parametrize("data", [None, [_data()]], ids=["weights", "activations"])
def test_three_networks_are_put_into_one_order(found, data):
    net = new(Bands, 1)
    samples = [found.sample(torch.Generator().manual_seed(seed)) for seed in range(3)]
    shuffled = [sample.apply(net) for sample in samples]
    method = "weights" if data is None else "activations"
    results = align(shuffled, symmetries=found, data=data, method=method)
    for one, other in zip(results, shuffled, strict=True):
        _close(one.apply(other), results[0].apply(shuffled[0]))


def test_rotations_put_it_back(found):
    net = new(Bands, 1)
    shuffled = found.sample(torch.Generator().manual_seed(2)).apply(net)
    result = align_rotations(shuffled, to=net, example_inputs=_data(2))
    _close(result.apply(shuffled), net)


def test_no_order_of_the_filters_is_better():
    def filters():
        return nn.Sequential(
            nn.Conv1d(4, 12, 9, groups=4), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)
        )

    one, two = new(filters, 1), new(filters, 2)
    layout = find_symmetries(one, _data(2)).layout
    (name,) = layout.groups
    best = align(two, to=one, symmetries=layout).permutations.orders[name]

    def value(order):
        """The sum of the layers' cosines: networks of different starts are matched by that."""
        state = Permutations(layout, {name: order}).apply(two.state_dict())
        total = 0.0
        for layer in (["0.weight", "0.bias"], ["3.weight"]):
            a, b = (
                torch.cat([net[n].flatten() for n in layer]) for net in (one.state_dict(), state)
            )
            total += float(torch.cosine_similarity(a, b, 0))
        return total

    least = value(best)
    for channel, order in itertools.product(range(4), itertools.permutations(range(3))):
        changed = best.clone()
        changed[channel] = torch.tensor(order)
        assert value(changed) <= least + 1e-6


def test_correlations_are_those_of_numpy(found):
    one, two, x = new(Bands, 1), new(Bands, 2), _data(40)
    seen = correlate(one, two, found.layout, [x[:10], x[10:]])
    (group,) = [group for group in found.groups.values() if group.within]
    pairs = seen.pairs[group.within[0], group.name]
    with torch.no_grad():
        units = [net.filters(x).relu().mean(-1).double().T.numpy() for net in (one, two)]
    expected = np.corrcoef(*units)[:12, 12:].reshape(4, 3, 4, 3).transpose(0, 2, 1, 3)
    np.testing.assert_allclose(pairs, expected, atol=2e-5)
    gain = seen.gain(group, {})
    np.testing.assert_allclose(gain, pairs[range(4), range(4)] / 12)
