"""Gains of pairs, against every order there is."""

from dataclasses import replace
from itertools import permutations, product

import pytest
import torch

from conjoin.alignment import gains
from conjoin.alignment.blocks import Block, inner_product, reordered
from conjoin.alignment.gains import assign, mutual, nested_gain_of
from conjoin.symmetry.groups import Group

# Heads of keys and values, each with query heads and with values of its own; what reads them all.
GROUPED = (
    ("heads", "queries", None),
    ("heads", "values", None),
    (None, "heads", "queries", "values"),
)
# The same, without what would say which query is which: only the reader of both does.
READER_ONLY = (("heads", "values", None), (None, "heads", "queries", "values"))
TWO_READERS = (*GROUPED, ("heads", "values", "queries"), ("heads", None))
SQUARE = (*GROUPED, ("heads", "values", "values"))
PLAIN = (("heads", "queries", None), ("heads", "values", None), (None, "heads", "values"))
SIZES = {"heads": 2, "queries": 2, "values": 3, None: 2}


def groups_of(sizes):
    inner = {
        n: Group(n, sizes[n], ("heads",), (sizes["heads"],), ()) for n in ("queries", "values")
    }
    return {"heads": Group("heads", sizes["heads"], (), (), ()), **inner}


def blocks_of(shapes, sizes, seed):
    """Blocks of noise."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number, names in enumerate(shapes):
        dims = tuple(range(len(names)))
        one, two = (
            torch.randn([sizes[name] for name in names], generator=generator) for _ in range(2)
        )
        found.append(Block(f"{number}.weight", names, dims, one, two, 0.5 + number))
    return found


def best_of(group, blocks, groups, orders):
    """Give the orders that the gains lead to, and what the gains say that they are worth."""
    nested = nested_gain_of(group, blocks, groups, orders)
    order = assign(nested.gain)
    places = torch.arange(group.size)
    found = {name: chosen[places, order] for name, chosen in nested.within.items()}
    return {group.name: order, **found}, float(nested.gain[places, order].sum())


def every_order(sizes):
    """Give all orders of the outer group, and of both groups within each of its positions."""
    inner = [list(product(permutations(range(sizes[n])), repeat=sizes["heads"]))
             for n in ("queries", "values")]  # fmt: skip
    for outer, queries, values in product(permutations(range(sizes["heads"])), *inner):
        yield {
            "heads": torch.tensor(outer),
            "queries": torch.tensor(queries),
            "values": torch.tensor(values),
        }


def objective(blocks, groups, orders):
    return sum(inner_product(block, groups, orders) for block in blocks)


@pytest.mark.parametrize("shapes", [GROUPED, READER_ONLY, TWO_READERS, PLAIN])
@pytest.mark.parametrize("seed", range(3))
def test_the_best_of_all_orders(shapes, seed):
    """2 heads of 2 queries and 3 values: none of 2 * 4 * 36 orders does better, from anywhere."""
    groups, blocks = groups_of(SIZES), blocks_of(shapes, SIZES, seed)
    orders = list(every_order(SIZES))
    best = max(objective(blocks, groups, order) for order in orders)
    for began in (orders[0], orders[-1], orders[100]):
        found, promised = best_of(groups["heads"], blocks, groups, began)
        assert objective(blocks, groups, found) == pytest.approx(best, abs=1e-5)
        assert promised == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("shapes", [GROUPED, READER_ONLY, TWO_READERS])
def test_all_orders_at_once_say_what_one_pair_after_the_other_does(shapes, monkeypatch):
    """Where groups within have two orders each, both ways are exact."""
    sizes = {"heads": 5, "queries": 2, "values": 2, None: 3}
    groups, blocks = groups_of(sizes), blocks_of(shapes, sizes, 0)
    identity = {
        name: torch.arange(group.size).expand(*group.copies, -1) for name, group in groups.items()
    }
    found = []
    for combined in (gains.COMBINED, 0):
        monkeypatch.setattr(gains, "COMBINED", combined)
        found.append(nested_gain_of(groups["heads"], blocks, groups, identity))
    one, two = found
    assert torch.allclose(one.gain, two.gain, atol=1e-5)
    assert all(torch.equal(one.within[name], two.within[name]) for name in ("queries", "values"))


def test_very_many_units_with_two_orders_each_are_planted_and_found():
    sizes = {"heads": 100, "queries": 2, "values": 2, None: 5}
    groups, blocks = groups_of(sizes), blocks_of(READER_ONLY, sizes, 0)
    generator = torch.Generator().manual_seed(1)
    order = {
        name: torch.rand((*group.copies, group.size), generator=generator).argsort(-1)
        for name, group in groups.items()
    }
    shuffled = [replace(b, other=b.reference, scale=1.0) for b in blocks]
    shuffled = [replace(b, reference=reordered(b, groups, order)) for b in shuffled]
    found, _ = best_of(groups["heads"], shuffled, groups, order)
    assert all(torch.equal(found[name], order[name]) for name in groups)


@pytest.mark.parametrize("seed", range(3))
def test_a_group_that_meets_itself_is_never_worse(seed):
    """What is best for values by values is not found in general; but what was there is kept."""
    groups, blocks = groups_of(SIZES), blocks_of(SQUARE, SIZES, seed)
    orders = list(every_order(SIZES))
    for began in (orders[0], orders[7], max(orders, key=lambda o: objective(blocks, groups, o))):
        found, promised = best_of(groups["heads"], blocks, groups, began)
        reached = objective(blocks, groups, found)
        assert promised == pytest.approx(reached, abs=1e-5)
        assert reached >= objective(blocks, groups, began) - 1e-5


@pytest.mark.parametrize("sizes", [(3, 3, 3), (3, 2, 3), (3, 3, 2)])
def test_what_a_pair_gains_is_its_best(sizes):
    """For each pair of heads, all orders within, gone through."""
    sizes = dict(zip(("heads", "queries", "values"), sizes, strict=True)) | {None: 4}
    groups, blocks = groups_of(sizes), blocks_of(GROUPED, sizes, 5)
    identity = next(iter(every_order(sizes)))
    gain = nested_gain_of(groups["heads"], blocks, groups, identity).gain
    queries, values = (list(permutations(range(sizes[n]))) for n in ("queries", "values"))
    for i, j in product(range(3), repeat=2):
        one, two, three = (b.reference.select(b.names.index("heads"), i) for b in blocks)
        a, b, c = (b.scale * b.other.select(b.names.index("heads"), j) for b in blocks)
        best = max(
            (one * a[list(q)]).sum()
            + (two * b[list(v)]).sum()
            + (three * c[:, list(q)][:, :, list(v)]).sum()
            for q in queries
            for v in values
        )
        assert float(gain[i, j]) == pytest.approx(float(best), abs=1e-4)


def test_more_units_than_are_tried_are_planted_and_found():
    """4 heads of 5 queries and 6 values, shuffled: what each reads says enough to begin with."""
    sizes = {"heads": 4, "queries": 5, "values": 6, None: 7}
    groups, blocks = groups_of(sizes), blocks_of(GROUPED, sizes, 0)
    generator = torch.Generator().manual_seed(1)
    order = {
        name: torch.rand((*group.copies, group.size), generator=generator).argsort(-1)
        for name, group in groups.items()
    }
    shuffled = [replace(block, other=block.reference) for block in blocks]
    shuffled = [replace(block, reference=reordered(block, groups, order)) for block in shuffled]
    identity = {
        name: torch.arange(group.size).expand(*group.copies, -1) for name, group in groups.items()
    }
    found, promised = best_of(groups["heads"], shuffled, groups, identity)
    assert all(torch.equal(found[name], order[name]) for name in groups)
    assert promised == pytest.approx(objective(shuffled, groups, order), rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_an_assignment_is_the_best_of_all_orders(seed):
    """Of five matrices: some whose largest gains are an order already, and some with ties."""
    noise = torch.randn(5, 5, 5, generator=torch.Generator().manual_seed(seed)).double()
    easy = noise + 10 * torch.eye(5)[torch.tensor([2, 0, 4, 1, 3])]
    tied = (noise > 0).double()
    places = torch.arange(5)
    for gain in (noise, easy, tied):
        found = assign(gain)
        assert found.shape == (5, 5)
        for one, order in zip(gain, found, strict=True):
            best = max(float(one[places, list(other)].sum()) for other in permutations(range(5)))
            assert sorted(order.tolist()) == list(range(5))
            assert float(one[places, order].sum()) == pytest.approx(best)
    assert all(order.tolist() == [2, 0, 4, 1, 3] for order in assign(easy))


def test_a_match_is_mutual_if_neither_would_rather_have_another():
    gain = torch.tensor([[3.0, 2.0, 0.0], [4.0, 1.0, 0.0], [0.0, 0.0, 5.0]])
    assert mutual(gain, torch.tensor([1, 0, 2])).tolist() == [False, True, True]
    assert mutual(gain, torch.tensor([0, 1, 2])).tolist() == [False, False, True]
    both = mutual(torch.stack([gain, gain.T]), torch.tensor([[1, 0, 2], [1, 0, 2]]))
    assert both.tolist() == [[False, True, True], [True, False, True]]
