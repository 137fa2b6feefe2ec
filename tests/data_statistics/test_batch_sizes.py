"""A forward that makes a plain number of the batch size is right for batches of any size."""

import pytest
import torch
from statistics_networks import randomized
from torch import nn

from conjoin.batches import run_model
from conjoin.data_statistics import Execution, Program, collect_statistics
from conjoin.errors import InputError, TraceError
from conjoin.symmetry.tracing import trace


class Sequences(nn.Module):
    """The last place of every sequence, and a sum with something of the batch's size."""

    def __init__(self, how="plain"):
        super().__init__()
        self.how = how
        self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.start = nn.Parameter(torch.ones(1, 1, 4))

    def forward(self, x):
        h = self.body(x).tanh()
        if self.how == "plain":
            h = h[:, -1] + self.start[:, 0]
        elif self.how == "index":
            h = h[torch.arange(len(x)), -1] + self.start[:, 0]
        elif self.how == "expand":
            h = torch.cat([self.start.expand(len(x), -1, -1), h], 1)[:, [0, -1]].sum(1)
        elif self.how == "int":
            h = h.reshape(int(x.shape[0]), -1)[:, -4:] + self.start[:, 0]
        elif self.how == "decide":
            h = h[:, -1] + (self.start if x.shape[0] > 4 else 1 * self.start)[:, 0]
        elif self.how == "pairs":
            pairs = h[:, -1].view(-1, 2, 4) if x.shape[0] % 2 == 0 else h[:, -1].view(-1, 1, 4)
            h = (pairs + self.start).flatten(0, 1)
        return self.head(h)


class Loop(nn.Module):
    """One example after the other."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(3, 2)

    def forward(self, x):
        return self.body(torch.stack([one.mean(0) for one in x]))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(3, 2)

    def forward(self, x, y):
        return self.body(x)[torch.arange(len(y)), 0] + y


def _rows(count):
    return torch.randn(count, 5, 3, generator=torch.Generator().manual_seed(count))


def _outputs(program, net, inputs):
    return Execution(program, net.state_dict(), inputs).value(program.nodes[-1])[0]


@torch.no_grad()
@pytest.mark.parametrize("how", ["plain", "index", "expand", "int"])
def test_a_graph_stands_for_batches_of_any_size(how):
    net = randomized(Sequences(how))
    program = Program(trace(net, _rows(2)))
    for count in (2, 7, 1, 3, 7):
        torch.testing.assert_close(_outputs(program, net, _rows(count)), net(_rows(count)))


@torch.no_grad()
def test_all_inputs_count_and_may_have_names():
    net = randomized(Two())
    for make in (
        lambda n: (_rows(n), torch.zeros(n, 2)[:, :1]),
        lambda n: {"y": torch.ones(n, 1), "x": _rows(n)},
    ):
        program = Program(trace(net, make(2)))
        for count in (2, 6):
            inputs = make(count)
            torch.testing.assert_close(_outputs(program, net, inputs), run_model(net, inputs))


@torch.no_grad()
@pytest.mark.parametrize("how", ["decide", "pairs"])
def test_what_is_decided_by_the_size_is_never_decided_wrongly(how):
    net = randomized(Sequences(how))
    program = Program(trace(net, _rows(2)))
    torch.testing.assert_close(_outputs(program, net, _rows(4)), net(_rows(4)))
    with pytest.raises(TraceError, match=r"batch of 5 the model does other operations.*len\(x\)"):
        _outputs(program, net, _rows(5))


def test_a_loop_over_the_examples_is_an_error():
    program = Program(trace(Loop(), _rows(2)))
    message = r"batch of 3 the model does other operations.*`for one in x`.*example_inputs="
    with pytest.raises(TraceError, match=message):
        program.for_batch(_rows(3))
    with pytest.raises(TraceError, match=message):
        collect_statistics(Loop(), [_rows(3)])
    found = collect_statistics(Loop(), [_rows(3)], example_inputs=_rows(3))
    assert found["body:count"] == 3


def test_each_size_is_traced_once():
    net = Sequences("index")
    program = Program(trace(net, _rows(2)))
    assert program.for_batch(_rows(2)) is program
    other = program.for_batch(_rows(3))
    assert other is not program
    assert program.for_batch(_rows(3) + 1) is other
    plain = Program(trace(Sequences(), _rows(2)))
    assert all(plain.for_batch(_rows(count)) is plain for count in (1, 2, 9))


def test_another_shape_is_still_an_error():
    program = Program(trace(Sequences("index"), _rows(2)))
    with pytest.raises(InputError, match=r"shape \['any', 5, 3\]; the batch has \[4, 5, 2\]"):
        program.for_batch(_rows(4)[..., :2])
    with pytest.raises(InputError, match="the batch has \\[\\]"):
        program.for_batch(torch.tensor(1.0))


@pytest.mark.parametrize("how", ["index", "int"])
def test_statistics_are_of_all_examples(how):
    plain, net = randomized(Sequences()), randomized(Sequences(how))
    data = [_rows(20), _rows(9), _rows(1)]
    found, expected = (collect_statistics(one, data) for one in (net, plain))
    assert list(found) == list(expected)
    assert found["head:count"] == 30
    for name, one in expected.items():
        torch.testing.assert_close(found[name], one, msg=name)
