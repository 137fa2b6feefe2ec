"""Which labels fine-tuning sees, and in what order."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from conjoin.measure.transfer import balanced_order, transfer_outcomes

few = settings(deadline=None, max_examples=40)


@few
@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(0, 2**63))
def test_every_beginning_of_the_order_is_balanced(labels, seed):
    labels = torch.tensor(labels)
    order = balanced_order(labels, seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    available = labels.bincount(minlength=6)
    for count in range(len(labels) + 1):
        found = labels[order[:count]].bincount(minlength=6)
        left = found < available  # a class that is not used up is as often there as any other
        assert not left.any() or int(found[left].min()) >= int(found.max()) - 1


def test_the_order_depends_on_the_seed_in_classes_and_examples():
    labels = torch.arange(50) % 5
    orders = [balanced_order(labels, seed) for seed in range(30)]
    assert len({tuple(order.tolist()) for order in orders}) == 30
    assert {int(labels[order[0]]) for order in orders} == set(range(5))
    assert torch.equal(orders[3], balanced_order(labels, 3))
    assert balanced_order(torch.rand(9), 0).sort().values.tolist() == list(range(9))


class Seeing(nn.Module):
    """Remembers which examples it was trained on: inputs are their numbers."""

    seen: list

    def __init__(self, seen):
        super().__init__()
        self.layer = nn.Linear(1, 3)
        self.seen = seen

    def __deepcopy__(self, memo):
        twin = Seeing(self.seen)
        twin.load_state_dict(self.state_dict())
        return twin

    def forward(self, x):
        if self.training:
            self.seen.append(x[:, 0].long().tolist())
        return self.layer(x / 100)


def _seen(count, batch_size, steps, rates=(0.01,), seed=0):
    seen = []
    labels = torch.arange(90) % 3
    data = (torch.arange(90.0)[:, None], labels)
    parts = {"train": data, "validation": data, "test": data}
    arguments = {"labels": [count], "batch_size": batch_size, "steps": steps, "seed": seed}
    starts = {"s": Seeing(seen)}
    assert list(transfer_outcomes(starts, **parts, task="t", **arguments, rates=rates))
    return seen


def test_fewer_labels_are_among_more_and_all_are_used():
    sets = [{n for batch in _seen(n, 4, 40) for n in batch} for n in (5, 12, 30)]
    assert [len(found) for found in sets] == [5, 12, 30]
    assert sets[0] < sets[1] < sets[2]
    order = balanced_order(torch.arange(90) % 3, seed=0)
    assert sets == [set(order[:n].tolist()) for n in (5, 12, 30)]


def test_batches_are_full_and_an_epoch_has_no_example_twice():
    seen = _seen(11, 4, 9)  # two batches an epoch; three examples are left out of each
    assert [len(batch) for batch in seen] == [4] * 9
    for first, second in zip(seen[:8:2], seen[1:8:2], strict=True):
        assert len({*first, *second}) == 8
    assert len({n for batch in seen for n in batch}) == 11
    assert [sorted(batch) for batch in _seen(3, 50, 2)] == [sorted(_seen(3, 50, 1)[0])] * 2


def test_every_rate_sees_the_same_batches_and_another_seed_sees_others():
    seen = _seen(11, 4, 6, rates=(0.01, 0.02))
    assert seen[:6] == seen[6:] == _seen(11, 4, 6)
    places = []
    for seed in (0, 1):  # not only other examples: another order of them
        order = balanced_order(torch.arange(90) % 3, seed).tolist()
        places.append([[order.index(n) for n in batch] for batch in _seen(11, 4, 6, seed=seed)])
    assert places[0] != places[1]
