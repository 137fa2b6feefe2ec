"""Layers whose Gram matrix does not fit in memory are fitted all the same, to the same weights."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from conjoin.data_statistics import layers_of
from conjoin.fitting import merge_with_data
from conjoin.fitting.ways import passes_of
from conjoin.symmetry.tracing import trace

FEATURES = 288
"""Of the wide layer."""


def vgg(seed, dtype=torch.float64):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
        nn.Linear(FEATURES, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3),
    )  # fmt: skip
    with torch.no_grad():
        for part in (net[1], net[5]):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    return net.to(dtype).eval()


def loaders(count, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [
        list(
            (torch.randn(count, 2, 6, 6, generator=generator) + seed)
            .to(dtype)
            .split(20 if count < 100 else 60)
        )
        for seed in (0, 1)
    ]


def _close(one, other, tolerance):
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(
            other.state_dict()[name], tensor, rtol=tolerance, atol=tolerance, msg=name
        )


@pytest.mark.parametrize("batchnorm", ["keep", "fold"])
@pytest.mark.parametrize(
    ("count", "memory", "expected"),
    [
        (200, 1e5, "iterations"),  # 320 rows, more than features
        (30, 8 * 48 * FEATURES, "rows"),  # 48 rows are fitted on
        (30, 2e4, "iterations"),  # they have no room
    ],
)
def test_least_squares(batchnorm, count, memory, expected):
    nets = [vgg(seed) for seed in (0, 1)]
    data = loaders(count)
    settings = {"align": None, "ridge": 0.3, "rounds": 1, "batchnorm": batchnorm}
    wanted, known = merge_with_data(nets, data, **settings)
    merged, report = merge_with_data(nets, data, **settings, memory=memory)
    _close(wanted, merged, 1e-4)
    assert known.solved == ({"4": "rows"} if count == 30 else {})
    assert report.solved["4"].startswith(expected)
    assert f"4 was solved by {expected}" in str(report)
    for one, other in zip(known.layers, report.layers, strict=True):
        assert not other.left
        assert one.after == pytest.approx(other.after, rel=1e-3)


@pytest.mark.parametrize("batchnorm", ["keep", "fold"])
@pytest.mark.parametrize("non_diagonal", [0.0, 0.9])
@pytest.mark.parametrize(
    ("count", "memory", "expected"),
    [(200, 1e5, "iterations"), (30, 8 * 48 * (FEATURES + 1), "rows"), (30, 1e5, "iterations")],
)
def test_regmean(batchnorm, non_diagonal, count, memory, expected):
    nets = [vgg(seed) for seed in (0, 1)]
    data, settings = loaders(count), {"align": None, "batchnorm": batchnorm}
    wanted, known = merge_with_data(nets, data, "regmean", **settings, non_diagonal=non_diagonal)
    merged, report = merge_with_data(
        nets, data, "regmean", **settings, non_diagonal=non_diagonal, memory=memory
    )  # fmt: skip
    _close(wanted, merged, 1e-4)
    assert not known.solved
    assert list(report.solved) == ["4"]
    assert report.solved["4"].startswith(expected if non_diagonal else "each feature alone")


@pytest.mark.parametrize("memory", [4e9, 1e5])
@pytest.mark.parametrize("method", ["least_squares", "regmean"])
def test_a_network_with_itself_is_that_network(memory, method):
    net = vgg(0, torch.float32)
    data = loaders(30, torch.float32)
    merged, _ = merge_with_data(
        [net, copy.deepcopy(net)], data, method, align=None, memory=memory, batchnorm="fold"
    )
    for part in data:
        for x in part:
            torch.testing.assert_close(merged(x), net(x), rtol=1e-3, atol=1e-3)


def test_grams_that_fit_one_by_one_are_collected_in_several_passes():
    nets, data = [vgg(seed) for seed in (0, 1)], loaders(30)
    layers = layers_of(trace(nets[0], data[0][0][:2]))
    sizes = {"0": 8 * 18**2, "4": 8 * FEATURES**2, "7": 8 * 16**2}
    assert passes_of(layers, nets[0].state_dict(), sum(sizes.values())) == ([["0", "4", "7"]], [])
    passes, wide = passes_of(layers, nets[0].state_dict(), sizes["4"])
    assert passes == [["0"], ["4"], ["7"]]
    assert not wide
    passes, wide = passes_of(layers, nets[0].state_dict(), sizes["4"] - 1)
    assert passes == [["0", "7"]]
    assert [layer.name for layer in wide] == ["4"]
    wanted, _ = merge_with_data(nets, data, "regmean", align=None)
    merged, report = merge_with_data(nets, data, "regmean", align=None, memory=sizes["4"])
    assert not report.solved
    _close(wanted, merged, 1e-12)


class Largest(TorchDispatchMode):
    """Remembers the most bytes that a new tensor of numbers had; bytes reserved are uint8."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else [result]:
            if isinstance(one, torch.Tensor) and one.dtype != torch.uint8:
                self.size = max(self.size, one.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("method", ["least_squares", "regmean"])
@pytest.mark.parametrize(("count", "memory"), [(30, 8 * 48 * FEATURES), (60, 8 * 40**2)])
def test_no_tensor_is_larger_than_memory_but_weights_and_rows_of_a_batch(method, count, memory):
    nets, data = [vgg(seed) for seed in (0, 1)], loaders(count)
    merge_with_data(nets, data, method, align=None)  # so that tracing is done
    with Largest() as seen:
        merge_with_data(nets, data, method, align=None, memory=memory, rounds=1)
    # The convolution has 36 places in each image, and 18 features; a batch has 20 images.
    assert seen.size <= max(memory, 8 * FEATURES * 16, 8 * 20 * 36 * 18)
    assert seen.size < 8 * FEATURES**2 / 4
