"""Some examples of a data set."""

import pytest
import torch

from conjoin.comparison.examples import first_pairs, joined, spread, spread_pairs
from conjoin.errors import DataError


@pytest.mark.parametrize("count", [1, 4, 5, 6, 10, 99])
def test_no_more_is_taken_than_is_asked_for(count):
    taken = []

    def batches():
        for start in (0, 5):
            taken.append(start)
            yield torch.arange(start, start + 5.0)[:, None], torch.arange(start, start + 5)

    found = first_pairs(batches(), count, "x")
    inputs, targets = joined(found)
    assert targets.tolist() == list(range(min(count, 10)))
    assert inputs[:, 0].tolist() == targets.tolist()
    assert len(taken) == (1 if count <= 5 else 2)


@pytest.mark.parametrize("total", [0, 1, 2, 7, 24])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 24, 30])
def test_places_at_equal_distances(count, total):
    places = spread(count, total).nonzero()[:, 0]
    assert len(spread(count, total)) == total
    assert len(places) == min(count, total)
    gaps = places.diff()
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("size", [1, 3, 10, 40])
@pytest.mark.parametrize("count", [1, 4, 23, 24, 50])
def test_examples_from_all_over_a_sorted_set(count, size):
    x, y = torch.arange(24.0), torch.arange(24) // 6
    pairs = list(zip(x.split(size), y.split(size), strict=True))
    inputs, targets = joined(spread_pairs(pairs, count, 24, "x"))
    assert torch.equal(inputs, x[spread(count, 24)])
    assert torch.equal(targets, inputs.long() // 6)
    if count == 4:
        assert targets.tolist() == [0, 1, 2, 3]


def test_a_set_of_unknown_size_gives_its_first_examples():
    x = torch.arange(24.0)
    inputs, _ = joined(spread_pairs((x, x), 5, None, "x"))
    assert inputs.tolist() == [0, 1, 2, 3, 4]


def test_several_inputs_and_whole_sets():
    x = torch.arange(6.0)
    for inputs in ((x, -x), {"a": x, "b": -x}):
        found = first_pairs((inputs, x), 5, "x", batch_size=2)
        assert [len(targets) for _, targets in found] == [2, 2, 1]
        whole, targets = joined(found)
        second = whole["b"] if isinstance(inputs, dict) else whole[1]
        assert torch.equal(second, -targets)
        assert len(targets) == 5


def test_what_is_no_pair():
    with pytest.raises(DataError, match="mine"):
        first_pairs([torch.zeros(3)], 2, "mine")
    with pytest.raises(DataError, match="fit together"):
        joined([(torch.zeros(1, 2), torch.zeros(1)), (torch.zeros(1, 3), torch.zeros(1))])
