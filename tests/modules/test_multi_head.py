import pytest
import torch
from torch import nn

from conjoin.errors import InputError
from conjoin.modules import MultiHead


@pytest.fixture
def net():
    torch.manual_seed(0)
    return MultiHead(nn.Linear(3, 4), {"digits": nn.Linear(4, 2), "street": nn.Linear(4, 5)})


def test_each_task_has_its_head_on_the_shared_trunk(net):
    x = torch.randn(6, 3)
    for task, size in (("digits", 2), ("street", 5)):
        expected = x @ net.trunk.weight.T + net.trunk.bias
        expected = expected @ net.heads[task].weight.T + net.heads[task].bias
        assert net(x, task=task).shape == (6, size)
        torch.testing.assert_close(net(x, task=task), expected)
        torch.testing.assert_close(net.for_task(task)(x), expected)


def test_the_network_of_a_task_shares_weights(net):
    alone = net.for_task("street")
    assert {id(p) for p in alone.parameters()} == {
        id(p) for part in (net.trunk, net.heads["street"]) for p in part.parameters()
    }
    with torch.no_grad():
        net.trunk.weight.zero_()
    assert not alone[0].weight.any()


def test_a_step_on_one_task_leaves_the_other_head(net):
    net(torch.ones(2, 3), task="digits").sum().backward()
    assert net.trunk.weight.grad is not None
    assert net.heads["digits"].weight.grad is not None
    assert net.heads["street"].weight.grad is None


def test_the_order_of_heads_and_names_of_the_state(net):
    assert list(net.heads) == ["digits", "street"]
    assert list(net.state_dict())[-2:] == ["heads.street.weight", "heads.street.bias"]


class Sum(nn.Module):
    def forward(self, left, right, scale=1.0):
        return left + scale * right


def test_all_inputs_go_to_the_trunk():
    net = MultiHead(Sum(), {"same": nn.Identity(), "minus": nn.Threshold(100.0, -1.0)})
    left, right = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])
    alone = net.for_task("same")
    for call in (lambda *args, **named: net(*args, **named, task="same"), alone):
        assert call(left, right).tolist() == [11.0, 22.0]
        assert call(left, right=right, scale=2.0).tolist() == [21.0, 42.0]
        assert call(left=left, right=right).tolist() == [11.0, 22.0]
    assert net(left, right, task="minus").tolist() == [-1.0, -1.0]
    assert net(left, right, "minus").tolist() == [-1.0, -1.0]


def test_the_task_may_come_last(net):
    x = torch.randn(6, 3)
    assert torch.equal(net(x, "street"), net(x, task="street"))


def test_exported(net):
    x = torch.randn(2, 3)
    program = torch.export.export(net.for_task("street"), (x,))
    torch.testing.assert_close(program.module()(x), net(x, task="street"))


def test_the_network_of_a_task_is_made_of_trunk_and_head(net):
    trunk, head = net.for_task("digits")
    assert trunk is net.trunk
    assert head is net.heads["digits"]


def test_errors(net):
    with pytest.raises(InputError, match="'svhn'; there are heads for digits, street"):
        net(torch.zeros(1, 3), task="svhn")
    with pytest.raises(InputError, match=r"say which task: net\(x, task='digits'\)"):
        net(torch.zeros(1, 3))
    with pytest.raises(InputError, match="at least one head"):
        MultiHead(nn.Identity(), {})


@pytest.mark.parametrize("name", ["a.b", ""])
def test_names_that_module_dict_refuses(name):
    with pytest.raises(InputError, match="name"):
        MultiHead(nn.Identity(), {name: nn.Identity()})
