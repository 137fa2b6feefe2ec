"""Models on one device and examples on another."""

import pytest
import torch
from torch import nn

from conjoin import find_symmetries
from conjoin.symmetry import Permutations
from conjoin.symmetry.proof import prove
from conjoin.symmetry.tracing import trace

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def _net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


class Names(nn.Module):
    """A forward that names the device of what it makes."""

    def __init__(self, device):
        super().__init__()
        self.net, self.device = _net().to(device), device

    def forward(self, x):
        return self.net(x) + torch.ones(3, device=self.device)


def test_the_example_is_brought_to_the_model():
    """What is on the meta device cannot be computed with, but it can be traced."""
    traced = trace(_net().to("meta"), torch.zeros(2, 4))
    assert len(traced.nodes) == len(trace(_net(), torch.zeros(2, 4)).nodes)


@on_gpu
@pytest.mark.parametrize(("model", "inputs"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_examples_may_be_on_another_device(model, inputs):
    found = find_symmetries(_net().to(model), torch.randn(2, 4, device=inputs))
    assert [group.size for group in found.groups.values()] == [6]
    net = _net().to(model)
    other = found.sample(torch.Generator().manual_seed(0)).apply(net)
    x = torch.randn(5, 4, device=model)
    torch.testing.assert_close(other(x), net(x))


@on_gpu
def test_a_forward_that_names_its_device_is_proved_there():
    net = Names("cuda")
    found = find_symmetries(net, torch.randn(2, 4))
    assert [group.size for group in found.groups.values()] == [6]
    assert prove(net, found.layout, torch.randn(2, 4)).guilty == ()


@on_gpu
def test_orders_may_be_on_another_device():
    layout = find_symmetries(_net(), torch.randn(2, 4)).layout
    (name,) = layout.groups
    order = torch.tensor([3, 1, 0, 2, 5, 4])
    found = Permutations(layout, {name: order.cuda()})
    assert found == Permutations(layout, {name: order})
    for device in ("cpu", "cuda"):
        net = _net().to(device)
        assert torch.equal(found.apply(net)[0].bias.cpu(), net[0].bias.cpu()[order])
