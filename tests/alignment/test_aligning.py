"""Alignment by weights, against exhaustive search and planted orders."""

import copy
import itertools

import numpy as np
import pytest
import torch
from alignment_networks import NETWORKS, Attention, Residual, mlp, new
from torch import nn

from conjoin.alignment import align
from conjoin.checkpoints import open_checkpoint, save
from conjoin.errors import InputError, MismatchError, NonFiniteError
from conjoin.symmetry import Permutations, ReorderedCheckpoint, find_symmetries


def cosine_of_layers(one, two, order, power=0.0):
    """The published objective with normalized layers, in NumPy and float64.

    Layers of n weights count with n to the power: 0 as it is reported, 0.5 as it is searched.
    """
    layers = {}
    for name in filter(order.moves, one):
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    total = weights = 0.0
    for names in layers.values():
        a, b = (
            np.concatenate([np.asarray(state[n].detach(), dtype=np.float64).ravel() for n in names])
            for state in (one, two)
        )
        total += len(a) ** power * (a @ b) / np.sqrt((a @ a) * (b @ b))
        weights += len(a) ** power
    return total / weights


def every_order(layout):
    """All elements of the group."""
    choices = []
    for group in layout.groups.values():
        single = list(itertools.permutations(range(group.size)))
        copies = int(np.prod(group.copies)) if group.copies else 1
        choices.append(
            [
                torch.tensor(found).reshape(*group.copies, group.size)
                for found in itertools.product(single, repeat=copies)
            ]
        )
    for orders in itertools.product(*choices):
        yield Permutations(layout, dict(zip(layout.groups, orders, strict=True)))


@pytest.mark.parametrize(
    ("make", "example"),
    [(lambda: mlp(3, 4, 2), torch.randn(2, 3)), (lambda: mlp(3, 3, 4, 2), torch.randn(2, 3))],
    ids=["one layer", "two layers"],
)
@pytest.mark.parametrize("seed", range(4))
def test_the_best_order_of_all_is_found(make, example, seed):
    one, two = new(make, 2 * seed), new(make, 2 * seed + 1)
    symmetries = find_symmetries(one, example)
    a, b = one.state_dict(), two.state_dict()
    found = align(two, one, symmetries=symmetries)
    # Layers count by their size where models have an origin in common, else alike.
    best = [
        max(cosine_of_layers(a, o.apply(b), o, power) for o in every_order(symmetries.layout))
        for power in (0.0, 0.5)
    ]
    assert min(abs(found.starts[0][1] - one) for one in best) < 1e-6
    assert found.objective == pytest.approx(
        cosine_of_layers(a, found.apply(b), found.permutations), abs=1e-6
    )
    assert found.before == pytest.approx(cosine_of_layers(a, b, found.permutations), abs=1e-6)
    assert list(found.starts) == sorted(found.starts, key=lambda one: -one[1])


@pytest.mark.parametrize("seed", range(2))
def test_heads_get_their_best_order_together_with_what_is_within(seed):
    """With the residual stream held, the other groups meet in blocks of one layer each."""
    make = lambda: Attention(2, 2, 3, 4)  # noqa: E731
    one, two = new(make, 10 + seed), new(make, 20 + seed)
    two.words, two.head = one.words, one.head  # the stream of two is best as it is
    with torch.no_grad():
        one.words.weight.mul_(1000)
    symmetries = find_symmetries(one, torch.tensor([[0, 1, 2], [3, 2, 1]]))
    sizes = sorted((group.size, group.copies) for group in symmetries.groups.values())
    assert sizes == [(2, ()), (2, ()), (3, (2,)), (3, (2,))]
    a, b = one.state_dict(), two.state_dict()
    found = align(two, one, symmetries=symmetries)
    # Layers count by their size where models have an origin in common, else alike.
    best = [
        max(cosine_of_layers(a, o.apply(b), o, power) for o in every_order(symmetries.layout))
        for power in (0.0, 0.5)
    ]
    assert min(abs(found.starts[0][1] - one) for one in best) < 1e-6


@pytest.mark.parametrize(("make", "example"), NETWORKS.values(), ids=NETWORKS)
def test_a_shuffled_copy_is_put_back(make, example):
    net = new(make, 0)
    symmetries = find_symmetries(net, example)
    planted = symmetries.sample(torch.Generator().manual_seed(0))
    other = planted.apply(net)
    before = copy.deepcopy(other.state_dict())
    found = align(other, net, example)
    assert found.permutations == planted.inverse()
    assert found.objective == pytest.approx(1, abs=1e-6)
    assert found.before < 0.9
    back = found.apply(other)
    for name, tensor in net.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor)
        assert torch.equal(other.state_dict()[name], before[name])
    for group in found.groups:
        assert (group.after, group.mutual) == (pytest.approx(1, abs=1e-6), 1.0)
        moved = planted.orders[group.name] != torch.arange(group.size)
        assert group.moved == pytest.approx(moved.double().mean().item())
    assert [group.name for group in found.groups] == list(symmetries.groups)


@pytest.mark.parametrize(("make", "example"), NETWORKS.values(), ids=NETWORKS)
def test_a_noisy_shuffled_copy_is_put_back(make, example):
    net = new(make, 0)
    symmetries = find_symmetries(net, example)
    generator = torch.Generator().manual_seed(1)
    noisy = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in noisy.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.3 * parameter.std().nan_to_num() * noise)
    planted = symmetries.sample(generator)
    found = align(planted.apply(noisy), net, symmetries=symmetries.layout)
    for name, order in planted.inverse().orders.items():
        assert (found.permutations.orders[name] == order).double().mean() > 0.9, name


@pytest.mark.parametrize(("make", "example"), NETWORKS.values(), ids=NETWORKS)
def test_the_function_is_kept_and_no_group_alone_could_do_better(make, example):
    one, two = new(make, 0), new(make, 1)
    symmetries = find_symmetries(one, example)
    found = align(two, one, symmetries=symmetries)
    aligned = found.apply(two)
    torch.testing.assert_close(aligned(example), two(example), rtol=1e-4, atol=1e-5)
    assert found.objective > found.before
    generator = torch.Generator().manual_seed(0)
    names = [n for n, _ in one.named_parameters()]
    a = {n: one.state_dict()[n] for n in names}
    b = {n: aligned.state_dict()[n] for n in names}
    for group in symmetries.groups.values():
        for _ in range(5):
            drawn = symmetries.sample(generator).orders[group.name]
            other = Permutations(symmetries.layout, {group.name: drawn}).apply(
                {**two.state_dict(), **aligned.state_dict()}
            )
            worse = {n: other[n] for n in names}
            assert any(
                cosine_of_layers(a, worse, found.permutations, power)
                < cosine_of_layers(a, b, found.permutations, power)
                for power in (0.0, 0.5)
            )


def test_the_order_that_a_model_comes_in_changes_nothing():
    one, two = new(lambda: mlp(4, 9, 7, 3), 0), new(lambda: mlp(4, 9, 7, 3), 1)
    symmetries = find_symmetries(one, torch.randn(2, 4))
    other = symmetries.sample(torch.Generator().manual_seed(5)).apply(two)
    found = [align(model, one, symmetries=symmetries, starts=["greedy"]) for model in (two, other)]
    states = [f.apply(m).state_dict() for f, m in zip(found, (two, other), strict=True)]
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name])
    assert found[0].objective == pytest.approx(found[1].objective)


def test_the_scale_of_a_layer_does_not_matter():
    one, two = new(lambda: mlp(4, 9, 7, 3), 0), new(lambda: mlp(4, 9, 7, 3), 1)
    symmetries = find_symmetries(one, torch.randn(2, 4))
    found = align(two, one, symmetries=symmetries)
    for model, factor in ((one, 1e3), (two, 1e-4)):
        with torch.no_grad():
            model[2].weight.mul_(factor)
            model[2].bias.mul_(factor)
    again = align(two, one, symmetries=symmetries)
    assert again.permutations == found.permutations
    assert again.objective == pytest.approx(found.objective, abs=1e-6)


def test_the_seed_decides():
    one, two = new(lambda: mlp(4, 40, 40, 3), 0), new(lambda: mlp(4, 40, 40, 3), 1)
    symmetries = find_symmetries(one, torch.randn(2, 4))
    found = [align(two, one, symmetries=symmetries, seed=seed).starts for seed in (0, 0, 1)]
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_files_are_aligned_through_saved_permutations(tmp_path):
    net = new(Residual, 0)
    symmetries = find_symmetries(net, torch.randn(2, 3, 6, 6))
    planted = symmetries.sample(torch.Generator().manual_seed(0))
    save(net, tmp_path / "a.safetensors")
    save(planted.apply(net), tmp_path / "b.safetensors")
    planted.save(tmp_path / "order.safetensors")
    layout = Permutations.load(tmp_path / "order.safetensors").layout
    a, b = (open_checkpoint(tmp_path / f"{name}.safetensors") for name in "ab")
    found = align(b, a, symmetries=layout)
    aligned = found.apply(b)
    assert isinstance(aligned, ReorderedCheckpoint)
    assert all(torch.equal(aligned[name], a[name]) for name in a)


def test_a_network_without_groups_is_left_as_it_is():
    one, two = nn.Linear(3, 2), nn.Linear(3, 2)
    found = align(two, one, torch.randn(2, 3))
    assert found.permutations.is_identity()
    assert found.groups == ()


def test_dead_units_are_no_error():
    one, two = new(lambda: mlp(4, 9, 3), 0), new(lambda: mlp(4, 9, 3), 1)
    with torch.no_grad():
        for net in (one, two):
            net[0].weight[:4] = 0
            net[0].bias[:4] = 0
            net[2].weight[:, :4] = 0
    found = align(two, one, torch.randn(2, 4))
    assert all(np.isfinite([g.before, g.after, g.mutual]).all() for g in found.groups)
    empty = copy.deepcopy(one)
    with torch.no_grad():
        for parameter in empty.parameters():
            parameter.zero_()
    assert align(two, empty, torch.randn(2, 4)).objective == 0


@pytest.mark.parametrize("method", ["auto", "weights", "learned"])
def test_data_alone_are_enough(method):
    one, two = new(lambda: mlp(4, 6, 3), 0), new(lambda: mlp(4, 6, 3), 1)
    x, y = torch.randn(40, 4), torch.zeros(40)
    loader = list(zip(x.split(10), y.split(10), strict=True))
    given = [align(two, one, x[:2], data=loader, method=method)]
    kinds = (lambda: loader, lambda: (x, y), lambda: iter(loader), lambda: (b for b in loader))
    for data in kinds if method == "auto" else kinds[:1]:
        given.append(align(two, one, data=data(), method=method))
    if method == "auto":  # a pair is cut in other places
        given.pop(2)
    assert all(found.permutations == given[0].permutations for found in given)
    assert all(found.objective == given[0].objective for found in given)


def test_what_cannot_be_aligned_is_said():
    one, two, example = mlp(4, 6, 3), mlp(4, 6, 3), torch.randn(2, 4)
    symmetries = find_symmetries(one, example)
    with pytest.raises(InputError, match="give example_inputs"):
        align(two, one)
    with pytest.raises(InputError, match="say what may be reordered: symmetries="):
        align(two.state_dict(), one.state_dict(), example)
    with pytest.raises(InputError, match="greedy, sequential, random, not"):
        align(two, one, example, starts=["best"])
    with pytest.raises(InputError, match="greedy, sequential, random, not"):
        align(two, one, example, starts=[])
    with pytest.raises(MismatchError, match=r"'0.weight' has the shape \[7, 4\] in the model"):
        align(mlp(4, 7, 3), one, example)
    with pytest.raises(MismatchError, match="only in the model: '4.weight'"):
        align(mlp(4, 6, 6, 3), mlp(4, 6, 3), example)
    with pytest.raises(MismatchError, match="no tensor '0.weight'"):
        align(nn.Linear(4, 3), nn.Linear(4, 3), symmetries=symmetries)
    broken = copy.deepcopy(two)
    with torch.no_grad():
        broken[2].weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="'2.weight' of the model"):
        align(broken, one, example)


def test_arguments_of_another_kind_are_said():
    a, b = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2))
    x = torch.randn(8, 4)
    wide = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3))
    with pytest.raises(MismatchError, match=r"'0.weight' has the shape \[8, 4\], and \[9, 4\]"):
        align(b, a, symmetries=find_symmetries(wide, x))
    for given, message in (
        ({"symmetries": "order.safetensors"}, "symmetries= is what find_symmetries gave"),
        ({"example_inputs": x, "seed": "1"}, "seed has to be a whole number from 0 on"),
        ({"example_inputs": x, "starts": 5}, "starts are one or more of"),
        ({"example_inputs": x, "starts": "gredy"}, "starts are one or more of .* not .'gredy'"),
    ):
        with pytest.raises(InputError, match=message):
            align(b, a, **given)
    with pytest.raises(InputError, match="not OrderedDict; load the state dict"):
        find_symmetries(a.state_dict(), x)


def test_one_start_a_generator_of_them_and_a_pair_of_data():
    torch.manual_seed(0)
    a, b = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2))
    x = torch.randn(600, 4)
    given = {"symmetries": find_symmetries(a, x[:2])}

    def orders(**more):
        return align(b, a, **given, **more).permutations.orders["0.weight:0"].tolist()

    expected = orders(starts=["greedy"])
    assert orders(starts="greedy") == expected
    assert orders(starts=(start for start in ["greedy"])) == expected
    expected = orders(data=[x[:250], x[250:500], x[500:]])
    assert orders(data=(x, torch.zeros(600))) == expected
    assert orders(data=torch.utils.data.TensorDataset(x)) == expected
