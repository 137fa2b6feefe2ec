"""`merge_with_data(batchnorm="private")`: one network, and BatchNorm of each task's own."""

import copy

import pytest
import torch
from batchnorm_networks import DATA, Small, images, small
from torch import nn
from torch.nn import functional as F

import conjoin
from conjoin.errors import InputError
from conjoin.fitting import merge_with_data
from conjoin.modules import TaskNetworks

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def merged(nets, **options):
    return merge_with_data(nets, DATA, batchnorm="private", names=["a", "b"], **options)


def apart(network, nets):
    """Mean squared distance from each parent, on its data; the network may know the task."""
    found = []
    for task, net, (x,) in zip("ab", nets, DATA, strict=True):
        given = network.for_task(task)(x) if isinstance(network, TaskNetworks) else network(x)
        found.append(F.mse_loss(given, net(x)).item())
    return found


def test_batchnorm_is_the_tasks_own_and_all_else_is_shared():
    nets = [small(seed) for seed in (0, 1)]
    both, report = merged(nets, align=None)
    assert isinstance(both, TaskNetworks)
    assert report.settings["batchnorm"] == "private"
    assert report.settings["private"] == []
    a, b = both.for_task("a"), both.for_task("b")
    for (name, one), (_, two) in zip(a.named_modules(), b.named_modules(), strict=True):
        for (kind, mine), (_, other) in zip(
            one.named_parameters(recurse=False), two.named_parameters(recurse=False), strict=True
        ):
            if isinstance(one, NORMS):
                assert mine is not other
                assert not torch.equal(mine, other), f"{name}.{kind}"
            else:
                assert mine is other
    shared = sum(p.numel() for p in nets[0].parameters())
    norms = sum(p.numel() for part in nets[0].modules() if isinstance(part, NORMS)
                for p in part.parameters())  # fmt: skip
    assert sum(p.numel() for p in both.parameters()) == shared + norms
    assert list(a.state_dict()) == list(nets[0].state_dict())


def test_it_comes_nearer_than_one_network_for_both():
    nets = [small(seed) for seed in (0, 1)]
    one, _ = merge_with_data(nets, DATA, align=None)
    both, _ = merged(nets, align=None)
    assert sum(apart(both, nets)) < 0.8 * sum(apart(one, nets))


def test_running_statistics_are_those_of_each_task():
    nets = [small(seed) for seed in (0, 1)]
    both, _ = merged(nets, align=None)
    for task, (x,) in zip("ab", DATA, strict=True):
        own = both.for_task(task)
        again = conjoin.reestimate_batchnorm(copy.deepcopy(own), [x])
        for name, tensor in own.state_dict().items():
            if "running_mean" in name:
                torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("memory", [4e9, 2000])
def test_identical_parents_give_that_parent(memory):
    net = small()
    both, _ = merge_with_data(
        [net, copy.deepcopy(net)], [DATA[0]] * 2, align=None, batchnorm="private", memory=memory
    )
    x = images(5)
    for task in ("0", "1"):
        torch.testing.assert_close(both.for_task(task)(x), net(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("memory", [2000, 8])
def test_little_memory_changes_nothing_but_time(memory):
    nets = [small(seed) for seed in (0, 1)]
    wanted, _ = merged(nets, align=None)
    both, report = merged(nets, align=None, memory=memory)
    assert any("iterations" in how for how in report.solved.values())
    for task, (x,) in zip("ab", DATA, strict=True):
        torch.testing.assert_close(
            both.for_task(task)(x), wanted.for_task(task)(x), rtol=1e-4, atol=1e-4
        )


def test_shifts_of_each_task_are_found_exactly():
    """The parents differ in what BatchNorm adds, which no common network can meet."""
    net = small().double()
    other = copy.deepcopy(net)
    with torch.no_grad():
        for part in other.modules():
            if isinstance(part, NORMS):
                part.bias.add_(torch.linspace(-1, 1, len(part.bias)))
    data = [[images(seed).double()] for seed in (0, 1)]
    both, _ = merge_with_data(
        [net, other], data, align=None, batchnorm="private", ridge=1e-9, rounds=0
    )
    for task, one, (x,) in zip("01", [net, other], data, strict=True):
        torch.testing.assert_close(both.for_task(task)(x), one(x), rtol=1e-5, atol=1e-5)


def test_shuffling_a_parent_changes_nothing_after_alignment():
    nets = [small(seed) for seed in (0, 1)]
    symmetries = conjoin.find_symmetries(nets[0], DATA[0][0][:2])
    drawn = symmetries.sample(torch.Generator().manual_seed(0))
    options = {"symmetries": symmetries, "align": "activations"}
    first, second = (
        merged(nets, **options)[0],
        merged([nets[0], drawn.apply(nets[1])], **options)[0],
    )
    for task, (x,) in zip("ab", DATA, strict=True):
        torch.testing.assert_close(
            first.for_task(task)(x), second.for_task(task)(x), rtol=1e-3, atol=1e-3
        )


def test_with_private_layers_besides():
    nets = [small(seed) for seed in (0, 1)]
    both, report = merged(nets, align=None, private=1)
    assert report.settings["private"] == ["last"]
    a, b = both.for_task("a"), both.for_task("b")
    assert a.last.weight is not b.last.weight
    assert a.head.weight is b.head.weight
    assert sum(apart(both, nets)) < sum(apart(merged(nets, align=None)[0], nets))


class Bare(Small):
    """One BatchNorm has no weight and bias: it stays what all share."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_head = nn.BatchNorm1d(5, affine=False)


def test_batchnorm_without_weight_and_bias_is_shared():
    nets = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        nets.append(conjoin.reestimate_batchnorm(Bare(), [images(seed + 10, 60)]).eval())
    both, _ = merged(nets, align=None)
    a, b = both.for_task("a"), both.for_task("b")
    assert torch.equal(a.norm_head.running_mean, b.norm_head.running_mean)
    assert not torch.equal(a.norm_one.running_mean, b.norm_one.running_mean)


@pytest.mark.parametrize("method", ["regmean", "fisher"])
def test_it_is_for_least_squares(method):
    nets = [small(seed) for seed in (0, 1)]
    with pytest.raises(InputError, match="private layers and BatchNorm are for least_squares"):
        merged(nets, align=None, method=method)
