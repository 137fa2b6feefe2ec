"""`merge_with_data(batchnorm=)`: kept or folded, the same closed forms on tiny networks."""

import copy

import numpy as np
import pytest
import torch
from batchnorm_networks import DATA, Small, images, small
from torch import nn
from torch.nn import functional as F

import conjoin
from conjoin.errors import InputError
from conjoin.fitting import merge_with_data
from conjoin.modules import TaskNetworks

FOLDED = {"norm_one": "one", "norm_deep": "deep", "norm_back": "back", "norm_head": "head"}
METHODS = ["least_squares", "regmean", "fisher"]


def _seen_by_sum(net, x):
    seen = []
    handle = net.norm_sum.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    net(x)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("method", METHODS)
def test_a_network_with_itself_is_that_network_folded(method):
    net = small()
    data = [[images(seed, 60)] for seed in (10, 10)]
    merged, report = merge_with_data(
        [net, copy.deepcopy(net)], data, method, align=None, batchnorm="fold", rounds=0
    )
    x = images(10, 60)
    if method == "least_squares":
        torch.testing.assert_close(merged(x), net(x), rtol=1e-3, atol=1e-3)
    else:  # what is kept is re-estimated
        net.norm_sum.momentum = 1.0
        net.norm_sum.train()(_seen_by_sum(net, x[[n for n in range(60) if n % 5 != 4]]))
        net.eval()
        torch.testing.assert_close(merged(x), net(x), rtol=1e-3, atol=1e-3)
    assert report.folded == FOLDED
    assert report.kept == {"norm_sum": "no linear layer or convolution stands right before it"}


@pytest.mark.parametrize("method", METHODS)
def test_the_result_has_the_structure_of_the_parents_and_no_folded_batchnorm_has_an_effect(method):
    nets = [small(seed) for seed in (0, 1)]
    merged, report = merge_with_data(nets, DATA, method, align="weights", batchnorm="fold")
    assert type(merged) is Small
    assert [(n, t.shape, t.dtype) for n, t in merged.state_dict().items()] == [
        (n, t.shape, t.dtype) for n, t in nets[0].state_dict().items()
    ]
    for name in FOLDED:
        part = merged.get_submodule(name)
        assert not part.running_mean.any()
        torch.testing.assert_close(
            part.running_var, torch.full_like(part.running_var, 1 - part.eps)
        )
        torch.testing.assert_close(part.weight, torch.ones_like(part.weight))
    assert not merged.norm_deep.bias.any()  # the convolution has its own
    assert merged.norm_one.bias.all()
    assert merged.norm_sum.running_mean.any()
    assert not conjoin.needs_reestimation(merged)
    written = str(report)
    assert "BatchNorm folded into the layer before it: norm_one, norm_deep" in written
    assert "BatchNorm kept, norm_sum: no linear layer or convolution" in written
    assert report.to_json()["folded"] == FOLDED
    assert report.settings["batchnorm"] == "fold"


@pytest.mark.parametrize("method", METHODS)
def test_a_shuffled_parent_changes_nothing(method):
    nets = [small(), small()]
    with torch.no_grad():
        for parameter in nets[1].parameters():
            parameter += 0.1 * parameter.std(correction=0) * torch.randn_like(parameter)
    symmetries = conjoin.find_symmetries(nets[0], DATA[0][0])
    shuffled = symmetries.sample(torch.Generator().manual_seed(3)).apply(nets[1])
    assert not torch.allclose(shuffled.one.weight, nets[1].one.weight)
    one, two = (
        merge_with_data(
            [nets[0], other], DATA, method, align="weights", symmetries=symmetries,
            batchnorm="fold",
        )[0]
        for other in (nets[1], shuffled)
    )  # fmt: skip
    for (x,) in DATA:
        torch.testing.assert_close(one(x), two(x), rtol=1e-3, atol=1e-3)


def test_by_least_squares_kept_and_folded_are_one_function():
    nets = [small(seed).double() for seed in (0, 1)]
    data = [[x.double() for x in part] for part in DATA]
    kept, folded = (
        merge_with_data(nets, data, align=None, batchnorm=choice) for choice in ("keep", "fold")
    )
    assert not any(layer.left for layer in (*kept[1].layers, *folded[1].layers))
    assert not kept[1].folded
    assert not kept[1].kept
    for (x,) in data:
        torch.testing.assert_close(kept[0](x), folded[0](x), rtol=1e-7, atol=1e-7)


def test_private_layers_that_are_folded():
    nets = [small(seed) for seed in (0, 1)]
    merged, _ = merge_with_data(
        nets, DATA, align=None, batchnorm="fold", private=["head", "one"], ridge=1e-9, rounds=0
    )
    assert isinstance(merged, TaskNetworks)
    a, b = merged.for_task("0"), merged.for_task("1")
    assert not torch.equal(a.head.bias, b.head.bias)
    assert not torch.equal(a.norm_one.bias, b.norm_one.bias)  # it carries the bias of `one`
    assert a.norm_deep.weight is b.norm_deep.weight
    x = DATA[1][0]
    parent, own = nets[1].norm_one(nets[1].one(x)), b.norm_one(b.one(x))
    torch.testing.assert_close(own, parent, rtol=1e-3, atol=1e-3)  # all its own: the parent's


class Tiny(nn.Module):
    """One layer without a bias and its BatchNorm, then a linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3, eps=1e-3)
        self.second = nn.Linear(3, 2)

    def forward(self, x):
        return self.second(self.norm(self.first(x)))


def _tiny():
    nets, data, used = [], [], []
    for seed in (0, 1):
        torch.manual_seed(seed)
        net = Tiny().double().eval()
        with torch.no_grad():
            for tensor in net.norm.parameters():
                tensor.normal_()
            net.norm.running_mean.normal_()
            net.norm.running_var.uniform_(0.5, 2)
        nets.append(net)
        data.append([torch.randn(40, 4).double() + seed])
        used.append(data[-1][0][[n for n in range(40) if n % 5 != 4]].numpy())
    return nets, data, used


def _folded(net):
    state = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    scale = state["norm.weight"] / np.sqrt(state["norm.running_var"] + 1e-3)
    shift = state["norm.bias"] - state["norm.running_mean"] * scale
    return scale[:, None] * state["first.weight"], shift


def test_least_squares_of_a_folded_layer_is_the_dense_solution():
    nets, data, used = _tiny()
    merged, _ = merge_with_data(nets, data, align=None, batchnorm="fold", ridge=0.1)
    maps = [_folded(net) for net in nets]
    targets = np.concatenate([x @ w.T + b for x, (w, b) in zip(used, maps, strict=True)])
    rows = np.concatenate(used)
    away, mean = rows - rows.mean(0), targets.mean(0)
    start = (maps[0][0] + maps[1][0]).T / 2
    gram = away.T @ away / len(rows)
    ridge = 0.1 * np.trace(gram) / 4
    left = away.T @ (targets - mean - away @ start) / len(rows)
    wanted = start + np.linalg.solve(gram + ridge * np.eye(4), left)
    state = {name: tensor.numpy() for name, tensor in merged.state_dict().items()}
    np.testing.assert_allclose(state["first.weight"], wanted.T, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(state["norm.bias"], mean - rows.mean(0) @ wanted, rtol=1e-9)


@pytest.mark.parametrize("non_diagonal", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("memory", [4e9, 8 * 16 - 1])
def test_regmean_of_a_folded_layer_is_the_dense_solution(non_diagonal, memory):
    nets, data, used = _tiny()
    merged, _ = merge_with_data(
        nets, data, "regmean", align=None, batchnorm="fold", non_diagonal=non_diagonal,
        memory=memory,
    )  # fmt: skip
    total, pull = np.zeros((5, 5)), np.zeros((5, 3))
    for net, x in zip(nets, used, strict=True):
        rows = np.concatenate([x, np.ones((len(x), 1))], 1)
        gram = rows.T @ rows / len(rows)
        gram = non_diagonal * gram + (1 - non_diagonal) * np.diag(np.diag(gram))
        weight, bias = _folded(net)
        total += gram
        pull += gram @ np.concatenate([weight, bias[:, None]], 1).T
    wanted = np.linalg.solve(total, pull)
    state = {name: tensor.numpy() for name, tensor in merged.state_dict().items()}
    np.testing.assert_allclose(state["first.weight"], wanted[:4].T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state["norm.bias"], wanted[4], rtol=1e-4, atol=1e-5)
    # A layer that is not folded keeps the mean of its biases.
    mean = (nets[0].second.bias + nets[1].second.bias) / 2
    torch.testing.assert_close(merged.second.bias, mean)


def test_fisher_of_a_folded_layer_is_the_weighted_mean_of_its_weight_and_bias():
    nets, data, used = _tiny()
    merged, _ = merge_with_data(nets, data, "fisher", align=None, batchnorm="fold", seed=5)
    tensors, information = [], []
    for net, x in zip(nets, used, strict=True):
        weight, bias = map(torch.from_numpy, _folded(net))
        plain = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).double().eval()
        plain[0].load_state_dict({"weight": weight, "bias": bias})
        plain[1].load_state_dict(net.second.state_dict())
        tensors.append(plain.state_dict())
        found = conjoin.data_statistics.collect_statistics(
            plain, [torch.from_numpy(x)], what=["fisher"], seed=5
        )
        information.append({name: found[f"{name}:fisher"] for name in tensors[-1]})
    for plain, name in [("0.weight", "first.weight"), ("0.bias", "norm.bias")]:
        top = sum(f[plain] * t[plain] for f, t in zip(information, tensors, strict=True))
        wanted = top / sum(f[plain] for f in information)
        torch.testing.assert_close(merged.state_dict()[name], wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_without_batchnorm_there_is_no_difference(method):
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)) for _ in range(2)]
    data = [[torch.randn(50, 4)] for _ in nets]
    kept, folded = (
        merge_with_data(nets, data, method, align=None, batchnorm=choice)[0].state_dict()
        for choice in ("keep", "fold")
    )
    assert all(torch.equal(tensor, folded[name]) for name, tensor in kept.items())


def test_half_precision_stays():
    nets = [small(seed).bfloat16() for seed in (0, 1)]
    data = [[x.bfloat16() for x in part] for part in DATA]
    merged, report = merge_with_data(nets, data, align="weights", batchnorm="fold")
    assert {p.dtype for p in merged.parameters()} == {torch.bfloat16}
    assert report.folded == FOLDED
    wanted, _ = merge_with_data(nets, data, align="weights")
    x = data[0][0]
    assert F.mse_loss(merged(x).float(), wanted(x).float()) < 0.02 * wanted(x).float().var()


def test_an_unknown_choice():
    nets = [small(seed) for seed in (0, 1)]
    with pytest.raises(InputError, match="batchnorm= is 'keep', 'fold' or 'private', not 'drop'"):
        merge_with_data(nets, DATA, batchnorm="drop")


def test_regmean_of_a_model_without_a_linear_layer():
    nets = [nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()).eval() for _ in range(2)]
    with pytest.raises(InputError, match="no linear layer or convolution"):
        merge_with_data(nets, [[torch.randn(20, 3)]] * 2, "regmean", align=None)
