"""Layers of each task's own: which they are, and what is shared."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from small_networks import batches, images, lively, mlp
from torch import nn
from torch.nn import functional as F

from conjoin.fitting import merge_with_data
from conjoin.modules import TaskNetworks


def test_private_layers_are_the_tasks_own_and_the_rest_is_shared():
    nets = [lively(mlp(seed), seed) for seed in (0, 1)]
    data = [batches(mlp, 300, seed) for seed in (0, 1)]
    one, _ = merge_with_data(nets, data, align="weights")
    merged, report = merge_with_data(nets, data, align="weights", private=2, names=["a", "b"])
    assert isinstance(merged, TaskNetworks)
    assert report.settings["private"] == ["3", "5"]
    a, b = merged.for_task("a"), merged.for_task("b")
    assert a[0].weight is b[0].weight
    assert a[1].bias is b[1].bias
    assert a[3].weight is not b[3].weight
    assert not torch.equal(a[3].weight, b[3].weight)
    assert torch.equal(a[0].weight, one[0].weight)
    apart = [
        F.mse_loss(net(torch.cat(x)), own(torch.cat(x)))
        for net, own, x in [(a, nets[0], data[0]), (b, nets[1], data[1])]
    ]
    together = [
        F.mse_loss(one(torch.cat(x)), own(torch.cat(x))) for own, x in zip(nets, data, strict=True)
    ]
    assert all(p < t for p, t in zip(apart, together, strict=True))


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.0, []),
        (0.0001, ["head"]),  # one at least
        (0.04, ["head"]),  # 8 of 40 + 160 + 8 = 208 weights; biases do not count
        (48 / 208, ["first", "head"]),
        (np.float32(0.3), ["first", "head"]),
        (np.int64(1), ["head"]),
        (0.99, ["first", "head"]),
        (1.0, ["first", "middle", "head"]),
    ],
)
def test_the_smallest_layers_within_a_share_of_the_weights_are_private(share, expected):
    def net(seed):
        torch.manual_seed(seed)
        layers = {"first": nn.Linear(5, 8), "middle": nn.Linear(8, 20), "cut": _FirstEight()}
        return nn.Sequential(OrderedDict({**layers, "head": nn.Linear(8, 1)})).eval()

    data = [[torch.randn(40, 5)] for _ in range(2)]
    merged, report = merge_with_data([net(0), net(1)], data, align=None, private=share)
    assert report.settings["private"] == expected
    assert isinstance(merged, TaskNetworks) == bool(expected)


class _FirstEight(nn.Module):
    def forward(self, x):
        return x[:, :8]


def test_all_private_are_the_parents():
    nets = [lively(images(seed), seed) for seed in (0, 1)]
    data = [batches(images, 400, seed) for seed in (0, 1)]
    merged, _ = merge_with_data(nets, data, align=None, private=6, ridge=1e-9, rounds=0)
    for name, net, part in zip("01", nets, data, strict=True):
        x = torch.cat(part)
        torch.testing.assert_close(merged(x, task=name), net(x), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("10", ["10"]), (["10"], ["10"]), ("1*", ["1", "10"]), (["0", "1"], ["0", "1"])],
)
def test_a_string_is_one_name_or_pattern(given, expected):
    def net():
        linear = {0, 1, 10}
        return nn.Sequential(*[nn.Linear(4, 4) if n in linear else nn.ReLU() for n in range(11)])

    torch.manual_seed(0)
    nets, data = [net(), net()], [[torch.randn(40, 4)] for _ in range(2)]
    _, report = merge_with_data(nets, data, align=None, private=given)
    assert report.settings["private"] == expected
