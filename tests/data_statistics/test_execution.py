"""Running step by step gives what the module gives, and holds no more than it needs."""

import weakref

import pytest
import torch
from statistics_networks import NETWORKS, images, randomized, sequences, vgg
from torch import Tensor, nn

from conjoin.batches import run_model
from conjoin.data_statistics import Execution, Program, layers_of
from conjoin.errors import InputError, MismatchError
from conjoin.symmetry.tracing import trace


def _flat(value):
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if hasattr(value, "values") else value
    return [tensor for part in parts for tensor in _flat(part)]


def _close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_last_value_is_the_modules_output(name, traced):
    net, program, batch = traced(name)
    with torch.no_grad():
        for count in (5, 1):  # of another size than the example
            found = Execution(program, net.state_dict(), batch(count)).value(program.nodes[-1])
            expected = _flat(run_model(net, batch(count)))
            assert len(found) == len(expected)
            for one, other in zip(found, expected, strict=True):
                _close(one, other)


@torch.no_grad()
def test_other_tensors_can_be_put_in(traced):
    _, program, _ = traced("vgg")
    other = randomized(vgg(), 1)
    found = Execution(program, other.state_dict(), images(3)).value(program.nodes[-1])[0]
    _close(found, other(images(3)))


@torch.no_grad()
def test_a_tensor_may_change_while_a_batch_is_on_its_way():
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    program = Program(trace(net, torch.zeros(2, 2)))
    tensors = dict(net.state_dict())
    execution = Execution(program, tensors, torch.rand(3, 2))
    execution.value(layers_of(program.trace)[1].source)
    tensors["2.weight"] = torch.zeros(1, 2)
    tensors["2.bias"] = torch.ones(1)
    assert torch.equal(execution.value(program.nodes[-1])[0], torch.ones(3, 1))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(3, 3)
        self.two = nn.Linear(3, 3)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.two(self.one(x).relu())


@torch.no_grad()
def test_of_a_tied_tensor_one_name_is_enough():
    net = Tied().eval()
    program = Program(trace(net, torch.zeros(2, 3)))
    tensors = {name: p for name, p in net.named_parameters() if name != "two.weight"}
    x = torch.rand(4, 3)
    _close(Execution(program, tensors, x).value(program.nodes[-1])[0], net(x))


def test_a_missing_tensor_is_named():
    net = nn.Sequential(nn.Linear(2, 1))
    program = Program(trace(net, torch.zeros(2, 2)))
    with pytest.raises(MismatchError, match="no tensor '0.bias' among the 1 given"):
        Execution(program, {"0.weight": torch.ones(1, 2)}, torch.zeros(2, 2)).value(
            program.nodes[-1]
        )


class Unsaved(nn.Module):
    """With a constant, and a buffer that is not saved."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor([1.0, 2.0]), persistent=False)
        self.head = nn.Linear(2, 2)

    def forward(self, x):
        return self.head(x * self.scale) + torch.tensor([0.5, 0.25])


@torch.no_grad()
def test_what_is_not_in_the_state_comes_from_the_trace():
    net = Unsaved()
    program = Program(trace(net, torch.zeros(2, 2)))
    x = torch.rand(3, 2)
    _close(Execution(program, net.state_dict(), x).value(program.nodes[-1])[0], net(x))


def test_values_are_let_go_of():
    depth, width = 6, 4
    net = nn.Sequential(*[part for _ in range(depth) for part in (nn.Linear(4, 4), nn.Tanh())])
    program = Program(trace(net, torch.zeros(2, width)))
    tensors, alive = net.state_dict(), []
    execution = Execution(program, tensors, torch.rand(3, width))
    refs = []
    with torch.no_grad():
        for layer in layers_of(program.trace):
            refs.append(weakref.ref(execution.value(layer.source)))
            alive.append(sum(ref() is not None for ref in refs))
    assert max(alive) == 1  # the present one


def test_the_batch_is_let_go_of():
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    program = Program(trace(net, torch.zeros(2, 4)))
    batch = torch.rand(3, 4)
    seen = weakref.ref(batch)
    execution = Execution(program, net.state_dict(), batch)
    del batch
    with torch.no_grad():
        execution.value(layers_of(program.trace)[1].source)
    assert seen() is None


def test_a_value_that_is_gone_is_an_error():
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    program = Program(trace(net, torch.zeros(2, 2)))
    first, second = layers_of(program.trace)
    execution = Execution(program, net.state_dict(), torch.zeros(2, 2))
    execution.value(second.node)
    with pytest.raises(InputError, match="has been let go of; ask for values in the order"):
        execution.value(first.node)


class Late(nn.Module):
    """Whose first layer gets its BatchNorm after the second."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 4)
        self.norm_a, self.norm_b = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

    def forward(self, x):
        a = self.a(x)
        return self.norm_b(self.b(x)).relu() + self.norm_a(a)


@torch.no_grad()
def test_a_value_can_be_kept():
    net, x = randomized(Late()), torch.rand(5, 3)
    program = Program(trace(net, torch.zeros(2, 3)))
    a, b = layers_of(program.trace)
    execution = Execution(program, net.state_dict(), x, keep=[b.end])
    _close(execution.value(a.end), net.norm_a(net.a(x)))
    for _ in range(2):
        _close(execution.value(b.end), net.norm_b(net.b(x)))
    _close(execution.value(program.nodes[-1])[0], net(x))
    execution = Execution(program, net.state_dict(), x)
    execution.advance(a.end)
    with pytest.raises(InputError, match="has been let go of"):
        execution.value(b.end)


def test_bad_inputs(traced):
    named = traced("attention")[1]
    with pytest.raises(InputError, match="traced with the inputs input; the batch has x"):
        named.placeholders({"x": sequences(2)})
    program = traced("vgg")[1]
    with pytest.raises(InputError, match="traced with 1 inputs; the batch has 2"):
        program.placeholders((images(2), images(2)))
    expected = r"shape \['any', 3, 8, 8\]; the batch has \[2, 3, 9, 9\].*Bring all batches"
    with pytest.raises(InputError, match=expected):
        program.placeholders(images(2, 9))
