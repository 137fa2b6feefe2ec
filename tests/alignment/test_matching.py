"""The search for orders: what counts how much, which starts are tried, and that none goes down."""

import itertools

import pytest
import torch
from alignment_networks import mlp, new

from conjoin.alignment import align, matching
from conjoin.alignment.blocks import Block, blocks_of
from conjoin.alignment.matching import STARTS, Problem, descend, match, weighed
from conjoin.symmetry import find_symmetries


def problem_of(one, two, layout):
    a, b = (dict(net.named_parameters()) for net in (one, two))
    names = [name for name in a if any(part.name in layout.groups for part in layout.tensors[name])]
    return Problem(layout.groups, weighed(blocks_of(layout, a, b, names)))


@pytest.fixture(scope="module")
def wide():
    """Two groups of 60 units, and a shuffled copy."""
    net = new(lambda: mlp(6, 60, 60, 4), 0)
    symmetries = find_symmetries(net, torch.randn(2, 6))
    return net, symmetries.layout, symmetries.sample(torch.Generator().manual_seed(0))


def test_layers_count_with_the_square_root_of_their_size():
    def block(name, size):
        return Block(name, ("g",), (0,), torch.ones(size), torch.ones(size), 0.5)

    blocks = [block("one.weight", 3), block("one.bias", 1), block("two.weight", 16)]
    # Layers of 4 and 16 weights: 2 and 4, and 3 in the mean.
    expected = [0.5 * 2 / 3, 0.5 * 2 / 3, 0.5 * 4 / 3]
    assert [b.scale for b in weighed(blocks)] == pytest.approx(expected)
    assert weighed([]) == []


def test_few_outputs_do_not_drown_many_inputs():
    """Units that are read by two outputs: what their forty inputs say is what counts."""
    one = new(lambda: mlp(40, 30, 2), 0)
    two = new(lambda: mlp(40, 30, 2), 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        two[0].weight.add_(0.05 * torch.randn(30, 40, generator=generator))  # of a scale of 0.09
        two[2].weight.copy_(torch.randn(2, 30, generator=generator))  # nothing in common
    found = align(two, one, torch.randn(2, 40))
    assert found.permutations.is_identity()


def test_starts_that_agree_end_the_search(wide):
    net, layout, order = wide
    problem = problem_of(net, order.apply(net), layout)
    seen = []
    found = match(problem, progress=lambda *at: seen.append(at))
    assert [end.start for end in found] == ["greedy", "sequential"]
    assert seen == [(1, len(STARTS)), (len(STARTS), len(STARTS))]
    for end in found:
        for name, expected in order.inverse().orders.items():
            assert torch.equal(end.orders[name], expected)


def test_starts_that_differ_are_all_tried(wide):
    net, layout, _ = wide
    problem = problem_of(net, new(lambda: mlp(6, 60, 60, 4), 1), layout)
    assert sorted(end.start for end in match(problem)) == sorted(STARTS)


def test_very_wide_networks_get_no_random_starts(wide, monkeypatch):
    """Of unrelated ones the order that a model came in is no start either, if there are others."""
    net, layout, _ = wide
    problem = problem_of(net, new(lambda: mlp(6, 60, 60, 4), 1), layout)
    monkeypatch.setattr(matching, "WIDE", 59)
    seen = []
    found = match(problem, progress=lambda *at: seen.append(at))
    assert [end.start for end in found] == ["greedy"]
    assert found[0].certain < matching.CERTAIN
    assert seen[-1] == (len(STARTS), len(STARTS))
    for start in ("random", "sequential"):
        assert [end.start for end in match(problem, starts=[start])] == [start]


def test_a_certain_end_of_a_very_wide_network_is_enough(wide, monkeypatch):
    net, layout, order = wide
    problem = problem_of(net, order.apply(net), layout)
    monkeypatch.setattr(matching, "WIDE", 59)
    (end,) = match(problem)
    assert end.start == "greedy"
    assert end.certain == 1
    assert all(torch.equal(end.orders[name], o) for name, o in order.inverse().orders.items())


def test_very_wide_networks_of_one_origin_are_tried_from_where_they_are(wide, monkeypatch):
    """Their order is right, which noise of twice the weights does not let any other start know."""
    net, layout, _ = wide
    other = new(lambda: mlp(6, 60, 60, 4), 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(2 * weight.std() * torch.randn(weight.shape, generator=generator))
    problem = problem_of(net, other, layout)
    monkeypatch.setattr(matching, "WIDE", 59)
    assert {end.start for end in match(problem)} == {"greedy", "sequential"}


@pytest.mark.parametrize("seed", range(3))
def test_a_descent_never_goes_down_and_ends_where_no_group_could_do_better(wide, seed):
    net, layout, _ = wide
    problem = problem_of(net, new(lambda: mlp(6, 60, 60, 4), 1), layout)
    generator = torch.Generator().manual_seed(seed)
    orders = {
        name: torch.rand(group.size, generator=generator).argsort()
        for name, group in layout.groups.items()
    }
    values = [problem.objective(orders)]
    for least in (0.5, 0.05, 0.0):
        end = descend(problem, orders, generator, least=least)
        assert end.objective == pytest.approx(problem.objective(end.orders))
        values.append(end.objective)
        orders = end.orders
    assert all(b >= a - 1e-6 for a, b in itertools.pairwise(values))
    assert values[-1] > values[0]
    assert end.settled
    again = descend(problem, orders, generator)
    assert all(torch.equal(again.orders[name], order) for name, order in orders.items())
