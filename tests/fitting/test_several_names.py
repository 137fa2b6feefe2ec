"""A layer that a network knows under two names is merged like one with a single name."""

import pytest
import torch
from torch import nn

from conjoin.fitting import merge_with_data


class Named(nn.Module):
    def __init__(self, *, twice):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
        if twice:
            self.head = self.body[2]

    def forward(self, x):
        return self.body(x)


class SharedTensor(nn.Module):
    """Two layers with one weight, which is of no single layer."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.head(self.two(self.one(x).relu()).relu())


def _pairs():
    """Give twice two networks of the same functions: with a second name, and without."""
    plain, named = [], []
    for seed in (0, 1):
        torch.manual_seed(seed)
        plain.append(Named(twice=False).eval())
        named.append(Named(twice=True).eval())
        named[-1].body.load_state_dict(plain[-1].body.state_dict())
    return plain, named


def _data():
    return [[torch.randn(60, 5, generator=torch.Generator().manual_seed(n))] for n in (0, 1)]


@pytest.mark.parametrize("method", ["least_squares", "regmean", "fisher"])
def test_the_result_is_the_same(method):
    x = _data()[0][0]
    one, two = (merge_with_data(nets, _data(), method, align=None)[0] for nets in _pairs())
    torch.testing.assert_close(two(x), one(x))


def test_private_layers_stay_apart():
    x = _data()[0][0]
    one, two = (
        merge_with_data(nets, _data(), align=None, private=1, names=["p", "q"])[0]
        for nets in _pairs()
    )
    for task in "pq":
        torch.testing.assert_close(two(x, task=task), one(x, task=task))
    heads = [two.for_task(task).head for task in "pq"]
    assert not torch.equal(heads[0].weight, heads[1].weight)
    assert two.for_task("p").body[0].weight is two.for_task("q").body[0].weight


def test_fisher_weighs_a_weight_that_two_layers_have():
    torch.manual_seed(0)
    sure, unsure = SharedTensor(), SharedTensor()
    with torch.no_grad():
        unsure.head.weight.zero_()  # its outputs depend on no hidden weight
    merged, _ = merge_with_data([sure, unsure], _data(), "fisher", align=None)
    assert merged.two.weight is merged.one.weight
    near, mean = (
        (merged.one.weight - w).abs().max()
        for w in (sure.one.weight, (sure.one.weight + unsure.one.weight) / 2)
    )
    assert near < 0.1 * mean
