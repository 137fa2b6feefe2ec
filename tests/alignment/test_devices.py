"""Models, and data, on several devices."""

import pytest
import torch
from torch import nn

from conjoin import align, find_symmetries
from conjoin.alignment import learn
from conjoin.alignment.blocks import beside
from conjoin.alignment.rotations import align_rotations

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
PLACES = [("cuda", "cuda"), ("cuda", "cpu"), ("cpu", "cuda")]


def _net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


def _data(device):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(10, 5, generator=generator).to(device) for _ in range(4)]


def _is_same_function(one, other):
    x = _data("cpu")[0]
    outputs = [net(x.to(net[0].weight.device)).cpu() for net in (one, other)]
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-4)


def test_tensors_go_where_those_of_the_reference_are():
    there = beside({"w": torch.zeros(2, device="meta")}, {"w": torch.ones(2), "x": 0}, ["w"])
    assert {name: tensor.device.type for name, tensor in there.items()} == {"w": "meta"}


@on_gpu
@pytest.mark.parametrize("method", ["weights", "activations", "mixed", "learned"])
@pytest.mark.parametrize(("reference", "model"), PLACES)
def test_a_model_is_aligned_to_one_on_another_device(method, reference, model):
    """As on one device, and it stays where it is."""
    for where in ("cpu", "cuda"):
        net = _net(1).to(model)
        found = align(net, to=_net(0).to(reference), data=_data(where), method=method)
        aligned = found.apply(net)
        assert aligned[0].weight.device.type == model
        _is_same_function(aligned, net)
    expected = align(_net(1), to=_net(0), data=_data("cpu"), method=method)
    assert found.objective == pytest.approx(expected.objective, abs=1e-2)


@on_gpu
@pytest.mark.parametrize("method", ["weights", "activations"])
def test_three_models_on_two_devices(method):
    nets = [_net(number).to(device) for number, device in enumerate(("cpu", "cuda", "cpu"))]
    for net, found in zip(nets, align(nets, data=_data("cpu"), method=method), strict=True):
        _is_same_function(found.apply(net), net)


@on_gpu
def test_data_of_both_models_may_be_on_two_devices():
    one, two = _net(0).cuda(), _net(1).cuda()
    layout = find_symmetries(one, _data("cpu")[0]).layout
    start = align(two, to=one, symmetries=layout).permutations
    found = learn(one, two, layout, start, _data("cuda"), model_data=_data("cpu"), steps=3)
    _is_same_function(found.permutations.apply(two), two)


class Normed(nn.Module):
    """A residual stream that may be rotated."""

    def __init__(self):
        super().__init__()
        self.embedding, self.norm = nn.Embedding(9, 4), nn.RMSNorm(4)
        self.up, self.down, self.head = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 9)

    def forward(self, ids):
        x = self.embedding(ids)
        x = x + self.down(self.up(self.norm(x)).relu())
        return self.head(self.norm(x))


@on_gpu
@pytest.mark.parametrize(("reference", "model"), PLACES)
def test_rotations_are_found_across_devices(reference, model):
    ids = torch.arange(6).reshape(2, 3)
    torch.manual_seed(0)
    one, two = Normed().to(reference), Normed().to(model)
    turned = align_rotations(two, to=one, example_inputs=ids).apply(two)
    torch.testing.assert_close(turned(ids.to(model)), two(ids.to(model)), atol=1e-4, rtol=1e-3)
