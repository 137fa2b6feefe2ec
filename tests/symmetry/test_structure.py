"""When two modules may share a graph of operations."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from conjoin.symmetry import tracing
from conjoin.symmetry.structure import structure_of


class Branching(nn.Module):
    """What it computes depends on attributes of every kind."""

    doubled = False

    def __init__(self, twice=False, widths=(4, 4), slope=0.0):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.twice, self.widths, self._slope = twice, widths, slope

    def forward(self, x):
        x = functional.leaky_relu(self.first(x), self._slope)
        for _ in self.widths:
            x = self.second(x)
        if self.twice:
            x = self.second(x)
        return x + x if self.doubled else x


def _operations(model):
    traced = tracing.trace(model, torch.zeros(2, 4))
    return [str(node.target) for node in traced.nodes if node.op == "call_function"]


def test_weights_say_nothing():
    one, other = Branching(), Branching()
    assert structure_of(one) == structure_of(other)
    assert _operations(one) == _operations(other)
    assert structure_of(nn.Sequential(nn.Linear(4, 4))) != structure_of(nn.Linear(4, 4))


@pytest.mark.parametrize("change", [{"twice": True}, {"widths": (4, 4, 4)}, {"slope": 0.5}])
def test_attributes_say_something(change):
    plain = _operations(Branching())
    assert structure_of(Branching(**change)) != structure_of(Branching())
    if "slope" not in change:
        assert _operations(Branching(**change)) != plain
    assert _operations(Branching()) == plain


def test_an_attribute_that_is_changed_later(monkeypatch):
    model = Branching()
    before = _operations(model)
    model.twice = True
    assert len(_operations(model)) > len(before)
    model.twice = False
    monkeypatch.setattr(Branching, "doubled", True)
    assert len(_operations(model)) > len(before)


def test_modes_shapes_and_dtypes():
    assert structure_of(nn.Dropout(0.1)) != structure_of(nn.Dropout(0.2))
    assert structure_of(nn.BatchNorm1d(3)) != structure_of(nn.BatchNorm1d(3, eps=0.1))
    assert structure_of(nn.Linear(2, 2)) != structure_of(nn.Linear(2, 2).double())
    assert structure_of(nn.Linear(2, 2)) != structure_of(nn.Linear(2, 2, bias=False))


def test_ties_are_a_part_of_it():
    apart, tied = (nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)}) for _ in range(2))
    tied["b"].weight = tied["a"].weight
    assert structure_of(apart) != structure_of(tied)


def _hooked():
    model = Branching()
    model.first.register_forward_hook(lambda module, args, out: out * 2)
    return model


def _with(name, value):
    model = Branching()
    setattr(model, name, value)
    return model


def _unsaved():
    model = Branching()
    model.register_buffer("scale", torch.ones(4), persistent=False)
    return model


@pytest.mark.parametrize(
    "model",
    [
        _hooked(),
        _with("activation", functional.gelu),
        _with("forward", lambda x: x),
        _with("table", torch.ones(4)),
        _with("config", object()),
        _with("parts", {"a": [functional.relu]}),
        _unsaved(),
    ],
    ids=["hook", "function", "forward", "tensor", "object", "nested", "buffer"],
)
def test_what_could_be_anything_is_never_shared(model):
    assert structure_of(model) is None


def test_a_second_trace_is_of_the_second_model():
    one, other = nn.Linear(4, 3), nn.Linear(4, 3)
    other.bias.data = other.bias.data.half().float()
    first, second = (tracing.trace(net, torch.zeros(2, 4)) for net in (one, other))
    assert first.program is second.program
    assert not first.program.state_dict  # no weights are kept alive
    wider = tracing.trace(one, torch.zeros(3, 4))
    assert wider.program is not first.program
