"""The network between two, against networks whose weights are averaged by hand."""

import copy

import pytest
import torch
from alignment_networks import NETWORKS, mlp, new
from torch import nn
from torch.nn import functional as F

from conjoin.alignment.between import Between, examples_of
from conjoin.alignment.soft import matrix_of
from conjoin.errors import DataError, InputError, MismatchError
from conjoin.symmetry import Permutations, find_symmetries


def statistics_of_the_batch(net):
    for part in net.modules():
        part.training = isinstance(part, nn.modules.batchnorm._BatchNorm)
    return net


@pytest.mark.parametrize("point", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("make", "example"), NETWORKS.values(), ids=NETWORKS)
def test_the_loss_is_that_of_averaged_weights(make, example, point):
    one, two = new(make, 0), new(make, 1)
    symmetries = find_symmetries(one, example)
    order = symmetries.sample(torch.Generator().manual_seed(0))
    matrices = {name: matrix_of(found) for name, found in order.orders.items()}
    (case,) = examples_of([one, two], [example], None, "mse")
    found = Between(one, two, symmetries.layout, "mse").loss_of(case, matrices, point)
    average, aligned = copy.deepcopy(one), order.apply(two)
    with torch.no_grad():
        for parameter, other in zip(average.parameters(), aligned.parameters(), strict=True):
            parameter.lerp_(other, point)
        outputs = statistics_of_the_batch(average)(example)
        targets = one(example), two(example)
    expected = (1 - point) * F.mse_loss(outputs, targets[0])
    expected += point * F.mse_loss(outputs, targets[1])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


@pytest.fixture
def small():
    one, two = new(lambda: mlp(4, 6, 3), 0), new(lambda: mlp(4, 6, 3), 1)
    layout = find_symmetries(one, torch.randn(2, 4)).layout
    return one, two, layout, {n: matrix_of(o) for n, o in Permutations(layout, {}).orders.items()}


def test_each_model_is_compared_on_its_own_data(small):
    one, two, layout, matrices = small
    a, b = torch.randn(5, 4), torch.randn(7, 4)
    seen = []

    def loss(outputs, batch):
        seen.append((len(outputs), batch))
        return outputs.square().mean()

    average = copy.deepcopy(one)
    with torch.no_grad():
        for parameter, other in zip(average.parameters(), two.parameters(), strict=True):
            parameter.lerp_(other, 0.25)
    p, q = (net(x).log_softmax(1).detach() for net, x in ((one, a), (two, b)))
    results = [average(x).log_softmax(1).detach() for x in (a, b)]
    divergences = [(t.exp() * (t - r)).sum(1).mean() for t, r in zip((p, q), results, strict=True)]
    (case,) = examples_of([one, two], [a], [b], "kl")
    found = Between(one, two, layout, "kl").loss_of(case, matrices, 0.25)
    torch.testing.assert_close(found, 0.75 * divergences[0] + 0.25 * divergences[1])
    (case,) = examples_of([one, two], [a], [b], loss)
    found = Between(one, two, layout, loss).loss_of(case, matrices, 0.25)
    squares = [average(x).square().mean().detach() for x in (a, b)]
    torch.testing.assert_close(found, 0.75 * squares[0] + 0.25 * squares[1])
    assert [(size, batch is x) for (size, batch), x in zip(seen, (a, b), strict=True)] == [
        (5, True), (7, True)
    ]  # fmt: skip


def test_what_cannot_be_compared_is_said(small):
    one, two, layout, matrices = small
    with pytest.raises(MismatchError, match=r"'0.weight' has the shape \[7, 4\] in the model"):
        Between(one, mlp(4, 7, 3), layout, "mse")
    with pytest.raises(MismatchError, match="'2.weight' is missing in the model"):
        Between(one, nn.Sequential(copy.deepcopy(one[0])), layout, "mse")
    example = torch.randn(4, 4)
    (case,) = examples_of([one, two], [example], None, len)
    with pytest.raises(InputError, match="a loss gives a scalar tensor"):
        Between(one, two, layout, lambda outputs, batch: outputs).loss_of(case, matrices)
    deep = [nn.Sequential(net, nn.Unflatten(1, (1, 3))) for net in (one, two)]
    layout = find_symmetries(deep[0], example).layout
    matrices = {n: matrix_of(o) for n, o in Permutations(layout, {}).orders.items()}
    (case,) = examples_of(deep, [example], None, "kl")
    with pytest.raises(InputError, match=r"'kl' compares logits \[B, classes\]; the models give"):
        Between(*deep, layout, "kl").loss_of(case, matrices)
    make, example = lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), torch.randn(1, 3)
    nets = new(make, 0), new(make, 1)
    (case,) = examples_of(nets, [example], None, "mse")
    layout = find_symmetries(nets[0], torch.randn(2, 3)).layout
    with pytest.raises(DataError, match="give batches of two examples or more"):
        Between(*nets, layout, "mse").loss_of(case, {})
