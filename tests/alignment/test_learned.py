"""Learned orders, on planted orders that the start has partly wrong."""

import copy
from dataclasses import replace

import pytest
import torch
from alignment_networks import TOKENS, Attention, Residual, mlp, new
from torch import nn

from conjoin.alignment import align
from conjoin.alignment.learned import RELAXATIONS, learn
from conjoin.errors import DataError, InputError, MismatchError, NonFiniteError
from conjoin.symmetry import Permutations, find_symmetries

IMAGES = torch.randn(2, 3, 6, 6)


def planted(make, example, *, noise=0.3, share=0.4):
    """Give a network, its noisy shuffled copy, the order that is right, and one partly wrong."""
    net, generator = new(make, 0), torch.Generator().manual_seed(1)
    symmetries = find_symmetries(net, example)
    noisy = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in noisy.parameters():
            draws = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * parameter.std().nan_to_num() * draws)
    order = symmetries.sample(generator)
    right, wrong = order.inverse(), {}
    for name, found in right.orders.items():
        size = found.shape[-1]
        at = torch.randperm(size, generator=generator)[: max(2, int(share * size))]
        wrong[name] = found.clone()
        wrong[name][..., at] = found[..., at.roll(1)]
    if example.is_floating_point():
        data = torch.randn(200, *example.shape[1:], generator=generator)
    else:
        data = torch.randint(0, 6, (200, *example.shape[1:]), generator=generator)
    start = Permutations(symmetries.layout, wrong)
    return net, order.apply(noisy), right, start, list(data.split(50))


def share_right(found, right):
    same = [
        (found.orders[name] == order).double().flatten() for name, order in right.orders.items()
    ]
    return float(torch.cat(same).mean())


@pytest.fixture(scope="module")
def small():
    return planted(lambda: mlp(6, 24, 16, 4), torch.randn(2, 6))


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_what_a_start_has_wrong_is_repaired(small, relaxation):
    net, other, right, start, data = small
    found = learn(net, other, right.layout, start, data, relaxation=relaxation, steps=60)
    assert share_right(start, right) < 0.7
    assert share_right(found.permutations, right) > 0.95
    assert found.after < found.before / 2
    assert not found.kept
    assert (found.held_out, found.learned_on) == (1, 3)
    assert (found.checks[0], found.relaxation) == ((0, found.before), relaxation)
    assert found.after == min(loss for _, loss in found.checks)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_gradients_repair_what_weights_say_nothing_of(small, relaxation, monkeypatch):
    """Without the prior, gradients alone lower the loss."""
    net, other, right, start, data = small
    monkeypatch.setitem(
        RELAXATIONS, relaxation, replace(RELAXATIONS[relaxation], prior=0.0, anywhere=True)
    )
    rate = 3 * RELAXATIONS[relaxation].rate
    found = learn(
        net, other, right.layout, start, data, relaxation=relaxation, steps=150, rate=rate
    )
    assert found.after < 0.9 * found.before


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize(
    ("make", "example"),
    [(Residual, IMAGES), (lambda: Attention(8, 3, 5, 11), TOKENS)],
    ids=["batchnorm", "heads"],
)
def test_all_kinds_of_groups_improve(make, example, relaxation):
    net, other, right, start, data = planted(make, example)
    found = learn(net, other, right.layout, start, data, relaxation=relaxation, steps=40)
    assert found.after < found.before
    aligned = found.permutations.apply(other)
    torch.testing.assert_close(aligned(example), other(example), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_nothing_worse_than_the_start_is_given(small, relaxation):
    """The start is the order that is right, and the rate so high that the shadows are lost."""
    net, _, right, _, data = small
    other = right.inverse().apply(net)
    found = learn(net, other, right.layout, right, data, relaxation=relaxation, steps=20, rate=5.0)
    assert found.kept
    assert found.permutations == right
    assert found.after == found.before == pytest.approx(0, abs=1e-9)
    assert max(loss for _, loss in found.checks) > 0


def test_the_seed_decides(small):
    net, other, right, start, data = small
    torch.manual_seed(0)
    one = learn(net, other, right.layout, start, data, steps=20, rate=0.1)
    torch.manual_seed(1)  # the global generator has no say
    again = learn(net, other, right.layout, start, data, steps=20, rate=0.1)
    another = learn(net, other, right.layout, start, data, steps=20, rate=0.1, seed=1)
    assert one.permutations == again.permutations
    assert one.checks == again.checks
    assert one.checks != another.checks


def test_models_data_and_modes_are_left_as_they_are():
    net, other, right, start, data = planted(Residual, IMAGES)
    net.train()
    states = [copy.deepcopy(model.state_dict()) for model in (net, other)]
    orders = copy.deepcopy(start.orders)
    batches = [batch.clone() for batch in data]
    with torch.no_grad():  # gradients are needed all the same
        learn(net, other, right.layout, start, data, steps=3)
    for model, state in zip((net, other), states, strict=True):
        assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
        assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert (net.training, other.training) == (True, False)
    assert all(torch.equal(start.orders[name], order) for name, order in orders.items())
    assert all(torch.equal(a, b) for a, b in zip(data, batches, strict=True))


def test_statistics_of_the_models_do_not_matter_between():
    """What BatchNorm remembers is of other activations: the network between does not use it."""
    net, other, right, start, data = planted(Residual, IMAGES)
    loss = lambda outputs, batch: outputs.square().mean()  # noqa: E731
    found = []
    for factor in (1.0, 100.0):
        changed = copy.deepcopy(other)
        changed.stem[1].running_var.mul_(factor)
        found.append(learn(net, changed, right.layout, start, data, steps=3, loss=loss).checks)
    assert found[0] == found[1]


def test_a_loss_of_labels_on_the_data_of_each(small):
    net, other, right, start, data = small
    with torch.no_grad():
        pairs = [(batch, net(batch).argmax(1)) for batch in data]
    seen = []

    def loss(outputs, batch):
        inputs, labels = batch
        seen.append(len(inputs))
        return nn.functional.cross_entropy(outputs, labels)

    own = [(batch[:20], labels[:20]) for batch, labels in pairs]
    found = learn(net, other, right.layout, start, pairs, model_data=own, loss=loss, steps=4)
    assert seen[:2] == [50, 20]
    assert found.after <= found.before
    whole = (torch.cat(data), torch.zeros(200))
    found = learn(net, other, right.layout, start, whole, loss="kl", batch_size=40, steps=4)
    assert (found.held_out, found.learned_on) == (1, 4)


def test_progress_is_told_and_a_network_without_groups_is_kept():
    net = nn.Linear(3, 2)
    layout = find_symmetries(net, torch.randn(2, 3)).layout
    start, data = Permutations(layout, {}), [torch.randn(4, 3) for _ in range(2)]
    found = learn(net, nn.Linear(3, 2), layout, start, data)
    assert found.kept
    assert found.permutations is start
    net, other, right, start, data = planted(lambda: mlp(3, 5, 2), torch.randn(2, 3))
    told = []
    learn(net, other, right.layout, start, data, steps=5, progress=lambda *one: told.append(one))
    assert told == [(n, 5) for n in range(1, 6)]


def test_what_cannot_be_learned_is_said(small):
    net, other, right, start, data = small
    layout = right.layout

    def learned_with(data=data, start=start, **options):
        return learn(net, other, layout, start, data, **options)

    for found in ([], data[:1]):
        with pytest.raises(DataError, match=f"the data have {len(found)} batches; two or more"):
            learned_with(found)
        with pytest.raises(DataError, match="two or more are needed"):
            learned_with(model_data=found)
    with pytest.raises(InputError, match="relaxations are straight-through, sinkhorn, not 'soft'"):
        learned_with(relaxation="soft")
    with pytest.raises(InputError, match="losses are mse, kl and your own function, not 'l1'"):
        learned_with(loss="l1")
    with pytest.raises(InputError, match="one step or more, not 0"):
        learned_with(steps=0)
    with pytest.raises(InputError, match="the loss has no gradient"):
        learned_with(loss=lambda outputs, batch: outputs.detach().sum())
    with pytest.raises(MismatchError, match="another structure than the layout"):
        learned_with(
            start=Permutations(planted(lambda: mlp(3, 5, 2), torch.randn(2, 3))[2].layout, {})
        )
    with pytest.raises(NonFiniteError, match="on the batches held out, is NaN or infinite"):
        learned_with([*data[:3], torch.full((4, 6), torch.nan)])
    with pytest.raises(NonFiniteError, match="the loss of step 1 is NaN or infinite"):
        learned_with([torch.full((4, 6), torch.nan), data[0]])
    rooted = lambda outputs, batch: (outputs - outputs.detach()).square().sum().sqrt()  # noqa: E731
    with pytest.raises(NonFiniteError, match="the gradient of '0.weight:0' in step 1 is NaN"):
        learned_with(loss=rooted)


@pytest.mark.parametrize("several", [False, True])
def test_align_goes_on_from_activations(several):
    # So noisy that units are not what they were, and what is best is not what was planted.
    net, other, right, _, few = planted(lambda: mlp(6, 24, 16, 4), torch.randn(2, 6), noise=2.0)
    layout, inputs = right.layout, few[0]

    def found(method, batches):
        how = {"symmetries": layout, "data": batches, "method": method, "seed": 3}
        return align([net, other], **how)[1] if several else align(other, net, **how)

    before, after = found("activations", few), found("learned", iter(few))
    by_hand = learn(net, other, layout, before.permutations, few, seed=3)
    assert not by_hand.kept
    assert after.permutations.orders.keys() == by_hand.permutations.orders.keys()
    for name, order in by_hand.permutations.orders.items():
        assert torch.equal(after.permutations.orders[name], order)
    assert [name for name, _ in after.starts] == ["learned", *(name for name, _ in before.starts)]
    torch.testing.assert_close(after.apply(other)(inputs), other(inputs))


def test_align_keeps_what_learning_does_not_improve(small):
    net, other, right, _, data = small
    how = {"symmetries": right.layout, "data": data}
    before = align(other, net, method="activations", **how)
    after = align(other, net, method="learned", **how)
    assert share_right(before.permutations, right) == 1
    assert share_right(after.permutations, right) == 1
    assert after.starts == before.starts


def test_align_learns_of_two_models_and_their_data(small):
    net, other, right, _, data = small
    with pytest.raises(InputError, match="learned of two models, and 3 are given"):
        align([net, other, net], symmetries=right.layout, data=data, method="learned")
    with pytest.raises(InputError, match="give data="):
        align(other, net, symmetries=right.layout, method="learned")
    with pytest.raises(DataError, match="1 batches; two or more"):
        align(other, net, symmetries=right.layout, data=data[:1], method="learned")


def test_align_learns_from_whatever_activations_are_compared_on(small):
    net, other, right, _, data = small
    how = {"symmetries": right.layout, "method": "learned"}

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(torch.cat(data))

    loader = torch.utils.data.DataLoader(Stream(), batch_size=50)
    expected = align(other, net, data=data, **how).permutations
    for given in (loader, [*torch.stack(data)], [(batch, torch.zeros(50)) for batch in data]):
        found = align(other, net, data=given, **how).permutations
        assert all(torch.equal(found.orders[n], o) for n, o in expected.orders.items())
    with torch.inference_mode(), pytest.raises(InputError, match="outside of torch.inference_mode"):
        align(other, net, data=data, **how)


class Sums(nn.Module):
    """Two inputs."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 9), nn.Linear(3, 9), nn.Linear(9, 2)

    def forward(self, x, y):
        return self.last(torch.relu(self.first(x) + self.second(y)))


def test_align_learns_of_models_of_two_inputs():
    net, other = new(Sums, 0), new(Sums, 1)
    generator = torch.Generator().manual_seed(0)
    batches = [
        (
            (torch.randn(20, 4, generator=generator), torch.randn(20, 3, generator=generator)),
            torch.zeros(20),
        )
        for _ in range(4)
    ]
    layout = find_symmetries(net, batches[0][0]).layout
    found = align(other, net, data=batches, symmetries=layout, method="learned")
    torch.testing.assert_close(found.apply(other)(*batches[0][0]), other(*batches[0][0]))
