import pytest
import torch
from torch import nn

import conjoin
from conjoin.checkpoints import open_checkpoint
from conjoin.errors import InputError
from conjoin.modules import TaskNetworks


@pytest.fixture
def net():
    torch.manual_seed(0)
    networks = {task: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)) for task in ("one", "two")}
    networks["two"][1].weight = networks["one"][1].weight
    return TaskNetworks(networks)


def test_each_task_has_its_network(net):
    x = torch.randn(6, 3)
    for task in ("one", "two"):
        first, last = net.networks[task]
        expected = (x @ first.weight.T + first.bias) @ last.weight.T + last.bias
        torch.testing.assert_close(net(x, task=task), expected)
        torch.testing.assert_close(net.for_task(task)(x), expected)
    assert not torch.equal(net(x, task="one"), net(x, task="two"))


def test_what_is_shared_is_one_parameter(net):
    assert len(list(net.parameters())) == 7
    assert net.for_task("one")[1].weight is net.for_task("two")[1].weight
    with torch.no_grad():
        net.for_task("one")[1].weight.zero_()
    assert not net.for_task("two")[1].weight.any()


def test_gradients_of_tasks_add_up_in_what_is_shared(net):
    x = torch.randn(2, 3)
    gradients = []
    for tasks in (["one"], ["two"], ["one", "two"]):
        net.zero_grad()
        for task in tasks:
            net(x, task=task).square().sum().backward()
        gradients.append(net.networks["one"][1].weight.grad.clone())
    torch.testing.assert_close(gradients[0] + gradients[1], gradients[2])


def test_a_step_on_one_task_leaves_what_is_private_to_the_other(net):
    net(torch.ones(2, 3), task="one").sum().backward()
    assert net.networks["one"][0].weight.grad is not None
    assert net.networks["two"][0].weight.grad is None


def test_inputs_of_every_structure():
    class Sum(nn.Module):
        def forward(self, x, y, *, scale=1.0):
            return scale * (x + y)

    net = TaskNetworks({"a": Sum()})
    x, y = torch.ones(2), torch.ones(2)
    assert net(x, y, task="a").tolist() == [2.0, 2.0]
    assert net(x, y=y, scale=3.0, task="a").tolist() == [6.0, 6.0]


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_saved_and_loaded(net, suffix, tmp_path):
    stored = open_checkpoint(conjoin.save(net, tmp_path / f"net.{suffix}"))
    assert stored.specs["networks.two.1.weight"].alias_of == "networks.one.1.weight"
    x = torch.randn(2, 3)
    expected = [net(x, task=task).detach() for task in ("one", "two")]
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    net.load_state_dict(dict(stored))
    assert all(
        torch.equal(net(x, task=t), e) for t, e in zip(("one", "two"), expected, strict=True)
    )


def test_exported(net):
    x = torch.randn(2, 3)
    program = torch.export.export(net.for_task("two"), (x,))
    torch.testing.assert_close(program.module()(x), net(x, task="two"))


def test_errors(net):
    with pytest.raises(InputError, match="no network for task 'svhn'; there are one, two"):
        net(torch.zeros(1, 3), task="svhn")
    with pytest.raises(InputError, match="at least one"):
        TaskNetworks({})


@pytest.mark.parametrize("name", ["a.b", ""])
def test_names_that_module_dict_refuses(name):
    with pytest.raises(InputError, match="name"):
        TaskNetworks({name: nn.Identity()})
