"""Several models at once: planted orders, agreement of all orders, and the objective."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from alignment_networks import NETWORKS, mlp, new
from torch import nn

from conjoin.alignment import align
from conjoin.alignment.activations import correlate
from conjoin.alignment.aligning import LEAST
from conjoin.alignment.blocks import blocks_of
from conjoin.alignment.matching import descend, match, weighed
from conjoin.alignment.together import Models, match_together, total
from conjoin.errors import DataError, InputError, MismatchError, NonFiniteError
from conjoin.symmetry import Permutations, find_symmetries


def noisy(net, seed, share):
    """A copy with noise of this share of each tensor's scale."""
    generator = torch.Generator().manual_seed(seed)
    made = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in made.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(share * parameter.std().nan_to_num() * noise)
    return made


def shuffled(nets, layout, seed):
    """Each network in another order, and what puts all into that of the first."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [Permutations(layout, {n: _order(g, generator) for n, g in layout.groups.items()})
             for _ in nets]  # fmt: skip
    back = [drawn[0].after(order.inverse()) for order in drawn]
    return [order.apply(net) for order, net in zip(drawn, nets, strict=True)], back


def _order(group, generator):
    return torch.rand((*group.copies, group.size), generator=generator).argsort(-1)


def models_of(nets, layout, data=None):
    """What `align` searches: by weights, or by activations on a batch."""
    states = [dict(net.named_parameters()) for net in nets]
    names = [name for name in states[0] if name in layout.tensors]
    fire = {}
    if data is not None:
        fire = {
            (i, j): correlate(nets[i], nets[j], layout, [data])
            for i, j in itertools.combinations(range(len(nets)), 2)
        }
    blocks = [blocks_of(layout, state, state, names) for state in states]
    if data is None:
        return Models(layout, [weighed(each) for each in blocks], fire)
    alike = [[replace(block, scale=LEAST * block.scale) for block in each] for each in blocks]
    return Models(layout, alike, fire)


def assert_same_states(ones, others):
    for one, other in zip(ones, others, strict=True):
        for name, tensor in one.state_dict().items():
            assert torch.equal(other.state_dict()[name], tensor), name


@pytest.fixture(scope="module")
def layouts():
    return {
        name: find_symmetries(new(make, 0), example).layout
        for name, (make, example) in NETWORKS.items()
    }


@pytest.mark.parametrize("count", [3, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_planted_orders_are_found(layouts, name, count):
    base, layout = new(NETWORKS[name][0], 0), layouts[name]
    nets, back = shuffled([noisy(base, n, 0.1) for n in range(count)], layout, 7)
    before = copy.deepcopy([net.state_dict() for net in nets])
    found = align(nets, symmetries=layout)
    assert len(found) == count
    assert found[0].permutations.is_identity()
    assert [one.permutations for one in found] == back
    for one, net, state in zip(found, nets, before, strict=True):
        assert one.objective > 0.9
        assert one.before < one.objective
        assert {start for start, _ in one.starts} == {f"model {n}" for n in range(count)}
        assert [group.name for group in one.groups] == list(layout.groups)
        for group in one.groups:
            assert group.after > 0.9
            moved = one.permutations.orders[group.name] != torch.arange(group.size)
            assert group.moved == pytest.approx(moved.double().mean().item())
        assert all(torch.equal(net.state_dict()[name], state[name]) for name in state)


def test_activations_find_planted_orders_of_heads_and_of_units(layouts):
    make, _ = NETWORKS["attention"]
    tokens = torch.randint(11, (60, 4), generator=torch.Generator().manual_seed(0))
    layout = layouts["attention"]
    nets, back = shuffled([noisy(new(make, 0), n, 0.05) for n in range(3)], layout, 3)
    found = align(nets, symmetries=layout, data=[tokens[:30], tokens[30:]])
    assert [one.permutations for one in found] == back


@pytest.mark.parametrize("name", NETWORKS)
def test_going_around_leads_back(layouts, name):
    """Orders of independent networks: from each pair's point of view, they agree with a third."""
    make, example = NETWORKS[name]
    nets, layout = [new(make, n) for n in range(3)], layouts[name]
    found = align(nets, symmetries=layout)
    to = {
        (i, j): found[j].permutations.inverse().after(found[i].permutations)
        for i, j in itertools.permutations(range(3), 2)
    }
    assert to[2, 0].after(to[1, 2].after(to[0, 1])).is_identity()
    for one, net in zip(found, nets, strict=True):
        torch.testing.assert_close(one.apply(net)(example), net(example), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("by", ["weights", "activations"])
@pytest.mark.parametrize("name", ["mlp", "attention"])
def test_no_pivot_is_better(layouts, name, by):
    """Its pairwise orders are where the search begins, and it never goes down."""
    make, example = NETWORKS[name]
    nets, layout = [new(make, n) for n in range(4)], layouts[name]
    many = example
    if name == "mlp":
        many = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    models = models_of(nets, layout, many if by == "activations" else None)
    still = Permutations(layout, {})
    pivots = []
    for pivot in range(4):
        orders = [
            still if n == pivot else Permutations(layout, match(models.pair(pivot, n))[0].orders)
            for n in range(4)
        ]
        pivots.append(total(models, orders))
    ends = match_together(models)
    assert ends[0].objective > max(pivots) + 1e-3
    assert ends[0].objective == max(end.objective for end in ends)
    for end in ends:
        assert end.objective == pytest.approx(total(models, end.orders), abs=1e-5)
        for number in range(4):  # nor could any model do better alone
            alone, mine = models.among(number, end.orders), end.orders[number].orders
            assert descend(alone, mine).objective == pytest.approx(alone.objective(mine), abs=1e-6)


def test_the_objective_is_the_sum_over_pairs(layouts):
    nets, layout = [new(NETWORKS["attention"][0], n) for n in range(3)], layouts["attention"]
    models = models_of(nets, layout)
    orders = [end.orders for end in match_together(models)][-1]
    states = [o.apply(dict(n.named_parameters())) for o, n in zip(orders, nets, strict=True)]
    moved = [name for name in states[0] if orders[0].moves(name)]
    layers = {name: [n for n in moved if n.rpartition(".")[0] == name.rpartition(".")[0]]
              for name in moved}  # fmt: skip
    layers = {tuple(names) for names in layers.values()}
    expected = weight = 0.0
    for names in layers:
        rows = [torch.cat([s[n].detach().double().flatten() for n in names]) for s in states]
        root = len(rows[0]) ** 0.5
        weight += root
        for one, two in itertools.combinations(rows, 2):
            expected += root * float(one @ two / (one.norm() * two.norm()))
    assert total(models, orders) == pytest.approx(expected * len(layers) / weight, abs=1e-5)
    assert sum(
        models.among(n, orders).objective(orders[n].orders) for n in range(3)
    ) == pytest.approx(2 * total(models, orders), abs=1e-5)


@pytest.mark.parametrize("by", ["weights", "activations"])
def test_shuffling_the_models_changes_nothing(layouts, by):
    """Independent networks, with the start that does not depend on the order."""
    layout = layouts["mlp"]
    nets = [new(NETWORKS["mlp"][0], n) for n in range(3)]
    data = [torch.randn(50, 4, generator=torch.Generator().manual_seed(0))]
    options = {"symmetries": layout, "starts": ["greedy"]}
    options |= {"data": data} if by == "activations" else {}
    others, _ = shuffled(nets, layout, 5)
    found, again = align(nets, **options), align(others, **options)
    assert [one.objective for one in again] == pytest.approx([one.objective for one in found])
    # Both are in the order of their first model, of which one is a shuffled copy of the other.
    (drawn,) = [found.permutations for found in [align(others[0], nets[0], symmetries=layout)]]
    ones = [one.apply(net) for one, net in zip(found, nets, strict=True)]
    twos = [drawn.apply(one.apply(net)) for one, net in zip(again, others, strict=True)]
    assert_same_states(ones, twos)


@pytest.mark.parametrize("name", NETWORKS)
def test_two_models_are_aligned_as_one_to_the_other(layouts, name):
    one, two = (new(NETWORKS[name][0], n) for n in range(2))
    first, second = align([one, two], symmetries=layouts[name])
    expected = align(two, to=one, symmetries=layouts[name])
    assert first.permutations.is_identity()
    assert second.permutations == expected.permutations
    assert second.groups == expected.groups
    assert (second.objective, second.before) == (expected.objective, expected.before)
    assert second.starts == expected.starts
    assert first.objective == pytest.approx(second.objective, abs=1e-6)
    assert first.before == pytest.approx(second.before, abs=1e-6)
    for mine, other in zip(first.groups, second.groups, strict=True):
        assert mine.after == pytest.approx(other.after, abs=1e-6)


def test_noise_that_hides_a_pair_does_not_hide_it_from_three():
    """What each says of the other two is added up."""
    base = new(lambda: mlp(6, 40, 40, 4), 0)
    layout = find_symmetries(base, torch.randn(2, 6)).layout
    nets, back = shuffled([noisy(base, n, 0.9) for n in range(6)], layout, 1)

    def right(orders):
        found = [o == back[n].orders[name] for n, each in enumerate(orders) if n
                 for name, o in each.orders.items()]  # fmt: skip
        return float(torch.cat(found).double().mean())

    together = [one.permutations for one in align(nets, symmetries=layout)]
    apart = [align(net, to=nets[0], symmetries=layout).permutations for net in nets]
    assert right(together) > right(apart) + 0.05
    assert right(together) > 0.8


def test_files_and_progress(layouts):
    layout = layouts["mlp"]
    nets, back = shuffled([new(NETWORKS["mlp"][0], 0)] * 3, layout, 2)
    seen = []
    states = tuple(net.state_dict() for net in nets)
    found = align(states, symmetries=layout, progress=lambda *at: seen.append(at))
    assert [one.permutations for one in found] == back
    assert seen == sorted(seen)
    assert len({steps for _, steps in seen}) == 1
    assert seen[-1][0] == seen[-1][1]


def test_what_cannot_be_aligned_is_said(layouts):
    nets = [new(NETWORKS["mlp"][0], n) for n in range(3)]
    layout = layouts["mlp"]
    with pytest.raises(InputError, match="two or more models, not of 1"):
        align(nets[:1], symmetries=layout)
    with pytest.raises(InputError, match="two or more models, not of 0"):
        align([], symmetries=layout)
    with pytest.raises(InputError, match="leave out to="):
        align(nets, to=nets[0], symmetries=layout)
    with pytest.raises(InputError, match="needs a reference, to=, or a list"):
        align(nets[0], symmetries=layout)
    with pytest.raises(MismatchError, match=r"'0.weight' has the shape \[8, 4\] in model 2"):
        align([*nets[:2], mlp(4, 8, 7, 3)], symmetries=layout)
    with pytest.raises(MismatchError, match="only in model 1: '6.weight'"):
        align([nets[0], mlp(4, 9, 7, 7, 3), nets[2]], symmetries=layout)
    broken = copy.deepcopy(nets[1])
    with torch.no_grad():
        broken[2].weight[0, 0] = torch.inf
    with pytest.raises(NonFiniteError, match="'2.weight' of model 1"):
        align([nets[0], broken, nets[2]], symmetries=layout)
    with pytest.raises(InputError, match="give a list or a loader, not an iterator"):
        align(nets, symmetries=layout, data=iter([torch.randn(5, 4)]))
    with pytest.raises(DataError, match="no batch"):
        align(nets, symmetries=layout, data=[])
    with pytest.raises(InputError, match="activations are those of modules"):
        align([*nets[:2], nets[2].state_dict()], symmetries=layout, data=[torch.randn(5, 4)])


def test_dead_layers_and_networks_without_groups_are_no_error():
    flat = [nn.Linear(3, 2) for _ in range(3)]
    found = align(flat, example_inputs=torch.randn(2, 3))
    assert all(one.permutations.is_identity() and one.groups == () for one in found)
    nets = [new(lambda: mlp(4, 9, 3), n) for n in range(3)]
    with torch.no_grad():
        for parameter in nets[1].parameters():
            parameter.zero_()
    found = align(nets, example_inputs=torch.randn(2, 4))
    assert found[1].objective == 0
    assert found[0].objective > 0
