"""Merging by depth against `evaluate`, `merge` and NumPy."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from conjoin import evaluate, merge, reestimate_batchnorm
from conjoin.errors import InputError, MismatchError, NonFiniteError
from conjoin.measure.depth import merging_by_depth
from conjoin.measure.layers import Layer, group_layers, layers_of


class Net(nn.Module):
    """Names with characters of patterns, and BatchNorm if wanted."""

    def __init__(self, norm=nn.BatchNorm1d):
        super().__init__()
        self.parts = nn.ModuleDict(
            {
                "fc[0]": nn.Linear(2, 4),
                "norm?": norm(4),
                "fc0": nn.Linear(4, 4),
                "fc*": nn.Linear(4, 3),
            }
        )

    def forward(self, x):
        x = self.parts["norm?"](self.parts["fc[0]"](x)).relu()
        return self.parts["fc*"](self.parts["fc0"](x).relu())


def _net(seed, norm=nn.BatchNorm1d):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Net(norm)
        net(torch.randn(8, 2) * (1 + seed))
    return net.eval()


def _data():
    generator = torch.Generator().manual_seed(0)
    sizes = {"one": 20, "two": 12, "unseen": 9}
    return {
        task: (torch.randn(count, 2, generator=generator), torch.arange(count) % 3)
        for task, count in sizes.items()
    }


OWN = {"one": "a", "two": "c"}


def _value(records, task, mode, index):
    return {
        r.metric: r.value
        for r in records
        if (r.task, r.how["mode"], r.how["index"]) == (task, mode, index)
    }


def _direct(net, task):
    return {r.metric: r.value for r in evaluate({"net": net}, {task: _data()[task]})}


def _by_hand(models, own, merged):
    """The own network, with the mean of all, by NumPy, where a name begins with one of these."""
    states = [model.state_dict() for model in models.values()]
    net = copy.deepcopy(models[own])
    mean = {
        name: torch.from_numpy(np.mean([s[name].double().numpy() for s in states], axis=0)).float()
        for name in states[0]
    }
    chosen = {n: mean[n] if n.startswith(tuple(merged)) else t for n, t in net.state_dict().items()}
    net.load_state_dict(chosen)
    return net


@pytest.mark.parametrize("models", ["abc", "ca"])
def test_ends_are_the_specialist_and_the_mean_bit_for_bit(models):
    nets = {name: _net(ord(name), nn.Identity) for name in models}
    records = merging_by_depth(nets, OWN, _data())
    mean = merge(list(nets.values()))
    for task, own in OWN.items():
        assert _value(records, task, "first", 0) == _direct(nets[own], task)
        assert _value(records, task, "first", 3) == _direct(mean, task)
        assert _value(records, task, "first", 1) == _value(records, task, "only", 1)
        assert _value(records, task, "only", 0) == {}
    assert "unseen" not in {r.task for r in records}


def test_layers_between_against_numpy():
    nets = {name: _net(ord(name), nn.Identity) for name in "abc"}
    records = merging_by_depth(nets, OWN, _data())
    names = ["parts.fc[0].", "parts.fc0.", "parts.fc*."]
    for task, own in OWN.items():
        values = set()
        for k in (1, 2, 3):
            for mode, merged in (("first", names[:k]), ("only", names[k - 1 : k])):
                expected = _direct(_by_hand(nets, own, merged), task)
                found = _value(records, task, mode, k)
                assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
                values.add(found["loss"])
        assert len(values) == 5  # the first layer alone is once "first" and once "only"


def test_statistics_are_those_of_the_task_where_something_is_merged():
    nets, data = {name: _net(ord(name)) for name in "abc"}, _data()
    fresh = merging_by_depth(nets, OWN, data, statistics={"two": data["two"]})
    plain = merging_by_depth(nets, OWN, data)
    keep = {f"parts.{part}.{leaf}": 2 for part in ("fc0", "fc*") for leaf in ("weight", "bias")}
    partly = merge(list(nets.values()), keep=keep)
    assert _value(plain, "two", "first", 1) == _direct(partly, "two")
    again = reestimate_batchnorm(partly, data["two"])
    assert _value(fresh, "two", "first", 1) == _direct(again, "two") != _direct(partly, "two")
    for index in (2, 3):
        assert _value(fresh, "two", "only", index) != _value(plain, "two", "only", index)
    assert _value(fresh, "two", "first", 0) == _direct(nets["c"], "two")
    assert [r for r in fresh if r.task == "one"] == [r for r in plain if r.task == "one"]
    mean = merge(list(nets.values()))
    assert _value(plain, "two", "first", 3) == _direct(mean, "two")


def test_statistics_without_batchnorm_change_nothing():
    nets, data = {name: _net(ord(name), nn.Identity) for name in "ac"}, _data()
    assert merging_by_depth(nets, OWN, data, statistics=data) == merging_by_depth(nets, OWN, data)


def test_what_is_recorded_and_inputs_stay():
    nets, data, done = {name: _net(ord(name)) for name in "abc"}, _data(), []
    nets["a"].train()
    before = [copy.deepcopy(net.state_dict()) for net in nets.values()]
    records = merging_by_depth(
        nets,
        OWN,
        data,
        statistics=data,
        name="g: depth",
        split="validation",
        seed=7,
        how={"group": "g", "mode": "?"},
        on_done=lambda *counts: done.append(counts),
    )
    assert done == [(k, 14) for k in range(1, 15)]
    assert [(r.how["mode"], r.how["index"], r.how["layer"]) for r in records[:14:2]] == [
        ("first", 0, "none"),
        ("first", 1, "parts.fc[0]"),
        ("first", 2, "parts.fc0"),
        ("first", 3, "parts.fc*"),
        ("only", 1, "parts.fc[0]"),
        ("only", 2, "parts.fc0"),
        ("only", 3, "parts.fc*"),
    ]
    assert {(r.model, r.split, r.seed) for r in records} == {("g: depth", "validation", 7)}
    assert [(r.task, r.metric, r.count) for r in (*records[:2], *records[-2:])] == [
        ("one", "accuracy", 20),
        ("one", "loss", 20),
        ("two", "accuracy", 12),
        ("two", "loss", 12),
    ]
    keys = {"group", "view", "mode", "index", "layer", "uses_task_label"}
    assert all(set(r.how) == keys and r.how["uses_task_label"] is True for r in records)
    assert {r.how["view"] for r in records} == {"depth"}
    for net, state in zip(nets.values(), before, strict=True):
        assert all(torch.equal(tensor, state[n]) for n, tensor in net.state_dict().items())
    assert nets["a"].training
    assert not nets["b"].training


def test_layers_and_modes_are_those_that_are_given():
    nets = {name: _net(ord(name), nn.Identity) for name in "ac"}
    layers = group_layers(layers_of(nets["a"]), 2)
    for mode, indices in (("first", [0, 1, 2]), ("only", [1, 2])):
        records = merging_by_depth(nets, {"one": "a"}, _data(), layers=layers, modes=[mode])
        assert [(r.how["mode"], r.how["index"]) for r in records[::2]] == [
            (mode, index) for index in indices
        ]
    assert records[-1].how["layer"] == "parts.fc0 ... parts.fc*"
    expected = _direct(_by_hand(nets, "a", ["parts.fc0.", "parts.fc*."]), "one")
    assert records[-1].value == pytest.approx(expected["loss"], rel=1e-5)


def test_many_layers_are_joined_into_twelve():
    nets = {name: nn.Sequential(*(nn.Linear(1, 1) for _ in range(15))) for name in ("a", "b")}
    data = {"t": (torch.ones(2, 1), torch.ones(2, 1))}
    records = merging_by_depth(nets, {"t": "a"}, data, modes=["first"])
    assert len(records) == 13


class Pair(nn.Module):
    """Two inputs, one number."""

    def __init__(self, first, second):
        super().__init__()
        self.first = nn.Linear(1, 1, bias=False)
        self.second = nn.Linear(1, 1, bias=False)
        self.first.weight.data.fill_(first)
        self.second.weight.data.fill_(second)

    def forward(self, x, y):
        return self.first(x) + self.second(y)


def test_regression_of_two_inputs_by_hand():
    ones = torch.ones(2, 1)
    data = {"t": ((ones, ones), 0 * ones), "named": ({"x": ones, "y": ones}, ones)}
    nets = {"a": Pair(0, 0), "b": Pair(2, 6)}
    records = merging_by_depth(nets, {"t": "a", "named": "b"}, data)
    # The outputs of a: 0, with the mean (1, 3) of the first layer 1, of both 4, of the second 3;
    # those of b: 8, 7, 4 and 5, where the target is 1.
    assert [(r.task, r.metric, r.value) for r in records] == [
        ("t", "loss", value) for value in (0, 1, 16, 1, 9)
    ] + [("named", "loss", value) for value in (49, 36, 9, 36, 16)]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.norm = nn.LayerNorm(3)
        self.hidden = nn.Linear(3, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.hidden(self.norm(self.embed(x))))


def test_tied_weights_are_merged_together():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nets = {"a": Tied(), "b": Tied()}
    data = {"one": (torch.arange(5), torch.arange(5))}
    records = merging_by_depth(nets, {"one": "b"}, data)
    half = _by_hand(nets, "b", ["embed.", "head.weight", "norm."])
    (expected,) = (r for r in evaluate({"m": half}, data) if r.metric == "loss")
    found = _value(records, "one", "first", 1)
    assert found["loss"] == pytest.approx(expected.value, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layers: layers[:-1], "'parts.fc*.weight' is missing"),
        (lambda layers: [*layers, Layer("x", ("other",))], "'other' is unknown"),
        (lambda layers: [*layers, layers[0]], "'parts.fc[0].weight' is named twice"),
        (lambda layers: [], "'parts.fc[0].weight' is missing"),
    ],
)
def test_layers_that_are_no_partition(change, message):
    nets = {name: _net(ord(name), nn.Identity) for name in "ac"}
    with pytest.raises(InputError) as error:
        merging_by_depth(nets, OWN, _data(), layers=change(list(layers_of(nets["a"]))))
    assert message in str(error.value)


def test_what_cannot_be_used():
    nets, data = {name: _net(ord(name)) for name in "ac"}, _data()
    with pytest.raises(InputError, match="'two' is 'z', which is no model; there are 'a', 'c'"):
        merging_by_depth(nets, {"one": "a", "two": "z"}, data)
    with pytest.raises(InputError, match="'three' has a specialist but no data"):
        merging_by_depth(nets, {"three": "a"}, data)
    with pytest.raises(InputError, match="a mode is one of first, only, not 'last'"):
        merging_by_depth(nets, OWN, data, modes=["last"])
    for own, modes in (({}, ["first"]), (OWN, [])):
        with pytest.raises(InputError, match="at least one task with a specialist"):
            merging_by_depth(nets, own, data, modes=modes)
    with pytest.raises(InputError, match="at least one data set"):
        merging_by_depth(nets, OWN, {})
    with pytest.raises(MismatchError, match="different tensors"):
        merging_by_depth({**nets, "c": _net(1, nn.Identity)}, OWN, data)
    nets["c"].parts["fc0"].weight.data[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="fc0"):
        merging_by_depth(nets, OWN, data)
