"""A reordered network goes on training as the network that it is a copy of."""

import copy

import pytest
import torch
from torch import nn

from conjoin.errors import InputError
from conjoin.symmetry import find_symmetries, reordered_optimizer_state

OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "plain": lambda p: torch.optim.SGD(p, 0.1),
    "adam": lambda p: torch.optim.AdamW(p, 0.01, amsgrad=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.05),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, centered=True, momentum=0.5),
}


def _network():
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(9)
    # Before a norm, a bias has no gradient but rounding, which some optimizers make large.
    return nn.Sequential(nn.Linear(4, 9, bias=False), norm, nn.Tanh(), nn.Linear(9, 7), nn.Tanh(),
                         nn.Linear(7, 3)).double()  # fmt: skip


def _train(net, optimizer, steps):
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(1)).double()
    net.train()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), torch.arange(20) % 3).backward()
        optimizer.step()
    net.eval()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_as_that_of_the_model(kind):
    net, make = _network(), OPTIMIZERS[kind]
    # Groups in another order than that of the parameters.
    optimizer = make([{"params": [*net[3:].parameters()]}, {"params": [*net[:3].parameters()]}])
    _train(net, optimizer, 5)
    before = copy.deepcopy(optimizer.state_dict())
    found = find_symmetries(net, torch.randn(3, 4).double())
    assert [group.size for group in found.groups.values()] == [9, 7]
    order = found.sample(torch.Generator().manual_seed(0))
    other = order.apply(net)
    again = make([{"params": [*other[3:].parameters()]}, {"params": [*other[:3].parameters()]}])
    again.load_state_dict(reordered_optimizer_state(order, optimizer, net))
    assert str(optimizer.state_dict()) == str(before)
    afresh = copy.deepcopy(other)
    new = make([{"params": [*afresh[3:].parameters()]}, {"params": [*afresh[:3].parameters()]}])
    _train(net, optimizer, 5)
    _train(other, again, 5)
    _train(afresh, new, 5)
    expected = order.apply(net.state_dict())
    for name, tensor in other.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-9, atol=1e-9)
    forgotten = (afresh[0].weight - other[0].weight).abs().max()
    assert (forgotten < 1e-9) == (kind == "plain")


def test_a_state_of_another_shape_is_refused():
    net = _network()
    optimizer = torch.optim.Adafactor(net.parameters(), 0.01)
    _train(net, optimizer, 1)
    found = find_symmetries(net, torch.randn(3, 4).double())
    with pytest.raises(InputError, match=r"'row_var' of '0.weight' with the shape.*\[9, 4\]"):
        reordered_optimizer_state(found.identity(), optimizer, net)


def test_an_optimizer_of_another_model_is_refused():
    net, other = _network(), _network()
    optimizer = torch.optim.SGD(other.parameters(), 0.1)
    found = find_symmetries(net, torch.randn(3, 4).double())
    with pytest.raises(InputError, match=r"parameter 0 of the optimizer, of shape \[9, 4\]"):
        reordered_optimizer_state(found.identity(), optimizer, net)
