"""Models on a GPU, on two devices, and what is refused there."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import conjoin
from conjoin import Coupling
from conjoin.coupling import copies_of
from conjoin.coupling.members import Member, check_shareable
from conjoin.coupling.pulling import FEWEST_ELSEWHERE, rows_of
from conjoin.errors import InputError, MismatchError

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
INF = float("inf")
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "fused": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
}


def _net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def _data():
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(12, 6, generator=generator), torch.randint(3, (12,), generator=generator))
        for _ in range(2)
    ]


def _trained(devices, strength, optimizer="adamw"):
    nets = copies_of(_net(), ["a", "b"])
    for net, device in zip(nets.values(), devices, strict=True):
        net.to(device)
    opts = {name: OPTIMIZERS[optimizer](net.parameters()) for name, net in nets.items()}
    coupling = Coupling({name: (nets[name], opts[name]) for name in nets}, strength)
    for _ in range(5):
        for (name, net), device, (x, y) in zip(nets.items(), devices, _data(), strict=True):
            opts[name].zero_grad()
            F.cross_entropy(net(x.to(device)), y.to(device)).backward()
        coupling.step()
    return nets, coupling


def test_tensors_that_are_one_are_on_devices_of_one_kind():
    here, there = _net(), _net().to("meta")
    members = [
        Member(name, net, torch.optim.SGD(net.parameters(), 0.1))
        for name, net in (("a", here), ("b", there))
    ]
    with pytest.raises(MismatchError, match=r"cpu in 'a', meta in 'b'.*module.to\(device\)"):
        check_shareable(members, ["0.weight"])
    check_shareable(members, [])


def test_on_a_gpu_a_tensor_is_pulled_in_few_parts():
    gpu = torch.device("cuda")
    assert rows_of(1000, gpu) == FEWEST_ELSEWHERE
    for largest in (1 << 22, 1 << 28):
        assert 4 * rows_of(largest, gpu) == largest  # the memory of one copy, no more
        assert rows_of(largest, gpu) >= rows_of(largest, torch.device("cpu"))


@on_gpu
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_gpu_trains_as_a_cpu_does(optimizer):
    strength = {"3.*": 0, "0.*": INF, "*": 0.5}
    nets, coupling = _trained(["cuda", "cuda"], strength, optimizer)
    expected, _ = _trained(["cpu", "cpu"], strength, optimizer)
    for name, net in nets.items():
        torch.testing.assert_close(net[3].weight.cpu(), expected[name][3].weight, atol=1e-4, rtol=0)
    assert torch.equal(nets["a"][0].weight, nets["b"][0].weight)
    assert max(coupling.gap().values()) > 0


@on_gpu
@pytest.mark.parametrize("devices", [("cuda", "cpu"), ("cpu", "cuda")])
@pytest.mark.parametrize("strength", [0.5, {"3.*": 0, "*": 0.5}, {"0.*": 0, "*": 0.5}], ids=str)
def test_models_on_two_devices_are_merged_where_the_first_is(devices, strength):
    nets, coupling = _trained(devices, strength)
    before = copy.deepcopy({name: net.state_dict() for name, net in nets.items()})
    merged = coupling.merge(*_data())
    assert {t.device.type for t in merged.state_dict().values()} == {devices[0]}
    conjoin.evaluate({"merged": merged}, dict(zip("ab", _data(), strict=True)))
    for net, device in zip(nets.values(), devices, strict=True):
        assert net[0].weight.device.type == device
    for name, net in nets.items():
        for tensor, old in zip(net.state_dict().values(), before[name].values(), strict=True):
            assert torch.equal(tensor, old)


@on_gpu
def test_one_tensor_on_two_kinds_of_device_is_refused():
    with pytest.raises(MismatchError, match="round differently"):
        _trained(["cuda", "cpu"], {"0.*": INF, "*": 0})


@on_gpu
def test_a_model_that_is_moved_later_is_named_when_the_bits_part():
    nets = copies_of(_net(), ["a", "b"])
    opts = {name: torch.optim.SGD(net.parameters(), lr=0.1) for name, net in nets.items()}
    coupling = Coupling({name: (nets[name], opts[name]) for name in nets}, INF)
    nets["b"].cuda()
    x, y = _data()[0]
    for name, net in nets.items():
        device = net[0].weight.device
        F.cross_entropy(net(x.to(device)), y.to(device)).backward()
        coupling.share_gradients()
        opts[name].step()
    with torch.no_grad():
        nets["b"][0].weight.add_(1e-3)
    with pytest.raises(InputError, match="are on cpu and cuda:0"):
        coupling.pull()
