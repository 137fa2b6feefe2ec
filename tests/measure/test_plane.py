"""Planes through three networks against `evaluate`, `merge` and NumPy in float64."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from conjoin import evaluate, merge, reestimate_batchnorm
from conjoin.errors import InputError, MismatchError, NonFiniteError
from conjoin.measure.plane import plane

few = settings(deadline=None, max_examples=8)


class Net(nn.Module):
    """BatchNorm, a tied pair, a constant and a counter."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.first = nn.Linear(2, 4, dtype=dtype)
        self.norm = nn.BatchNorm1d(4, dtype=dtype)
        self.second = nn.Linear(4, 4, bias=False, dtype=dtype)
        self.third = nn.Linear(4, 4, bias=False, dtype=dtype)
        self.third.weight = self.second.weight
        self.last = nn.Linear(4, 3, dtype=dtype)
        self.register_buffer("[mask]", torch.tensor([1.0, 0.0]))

    def forward(self, x):
        return self.last(self.third(self.second(self.norm(self.first(x)).relu()).relu()))


def _net(seed, dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Net(dtype)
        net(torch.randn(8, 2, dtype=dtype) * (1 + seed))
    return net.eval()


def _vector(net):
    """All weights once, in float64: parameters() leaves out what is tied."""
    return np.concatenate([p.detach().double().numpy().ravel() for p in net.parameters()])


def _data(count=20):
    generator = torch.Generator().manual_seed(0)
    return {
        "one": (torch.randn(count, 2, generator=generator), torch.arange(count) % 3),
        "two": (torch.randn(9, 2, generator=generator), torch.arange(9) % 3),
    }


def _at(records, x, y):
    return {(r.task, r.metric): r.value for r in records if (r.how["x"], r.how["y"]) == (x, y)}


def _direct(net, data):
    return {(r.task, r.metric): r.value for r in evaluate({"net": net}, data)}


@few
@given(st.integers(0, 100), st.sampled_from([torch.float32, torch.float64]))
def test_corners_are_where_the_weights_are(seed, dtype):
    nets = {name: _net(seed + i, dtype) for i, name in enumerate("abc")}
    data = {"t": (torch.zeros(2, 2, dtype=dtype), torch.arange(2))}
    records = plane(nets, data, resolution=2)
    corners = {name: np.array(place) for name, place in records[0].how["corners"].items()}
    assert list(corners) == ["a", "b", "c"]
    assert corners["a"].tolist() == [0, 0]
    assert corners["b"][1] == 0 < corners["c"][1]
    for one, other in (("a", "b"), ("a", "c"), ("b", "c")):
        distance = np.linalg.norm(_vector(nets[one]) - _vector(nets[other]))
        assert np.linalg.norm(corners[one] - corners[other]) == pytest.approx(distance, rel=1e-12)


def test_corners_are_the_networks_bit_for_bit():
    nets, data = {name: _net(i) for i, name in enumerate("abc")}, _data()
    records = plane(nets, data, resolution=2)
    for name, (x, y) in records[0].how["corners"].items():
        assert _at(records, x, y) == _direct(nets[name], data)
    assert {r.how["reestimated"] for r in records} == {False}
    fresh = plane(nets, data, resolution=2, statistics=[data["one"], data["two"]])
    for name, (x, y) in fresh[0].how["corners"].items():
        net = reestimate_batchnorm(nets[name], data["one"], data["two"])
        assert _at(fresh, x, y) == _direct(net, data)
        assert _at(fresh, x, y) != _at(records, x, y)
    assert {r.how["reestimated"] for r in fresh} == {True}
    assert len(fresh) == len(records)


@pytest.mark.parametrize("reestimate", [True, False])
def test_grid_points_are_at_their_coordinates(reestimate):
    nets, data = {name: _net(i) for i, name in enumerate("abc")}, _data()
    statistics = list(data.values()) if reestimate else []
    records = plane(nets, data, resolution=4, margin=0.3, statistics=statistics)
    # Gram-Schmidt by NumPy, straight from the definition.
    a, b, c = map(_vector, nets.values())
    u = (b - a) / np.linalg.norm(b - a)
    v = (c - a) - u * (u @ (c - a))
    v /= np.linalg.norm(v)
    places = list(dict.fromkeys((r.how["x"], r.how["y"]) for r in records))
    assert len(places) == 3 + 16
    for x, y in places[3:]:
        net = copy.deepcopy(nets["a"])  # with its statistics
        nn.utils.vector_to_parameters(torch.from_numpy(a + x * u + y * v).float(), net.parameters())
        if reestimate:
            net = reestimate_batchnorm(net, *statistics)
        for key, value in _direct(net, data).items():
            if key[1] == "loss":
                assert _at(records, x, y)[key] == pytest.approx(value, rel=1e-4)


@few
@given(st.integers(2, 5), st.sampled_from([0.0, 0.2, 0.9]), st.integers(0, 20))
def test_the_grid_covers_the_triangle_and_the_margin(resolution, margin, seed):
    weights = np.random.default_rng(seed).normal(size=(3, 2))
    records = plane(_points(weights), _one(), resolution=resolution, margin=margin)
    corners = np.array(list(records[0].how["corners"].values()))
    places = [(r.how["x"], r.how["y"]) for r in records]
    assert len(set(places)) == len(places)
    assert places[:3] == [tuple(corner) for corner in corners.tolist()]
    low, high = corners.min(0), corners.max(0)
    beyond = margin * (high - low)
    for axis in (0, 1):
        values = sorted({place[axis] for place in places[3:]} | set(corners[:, axis]))
        assert values[0] == pytest.approx(low[axis] - beyond[axis])
        assert values[-1] == pytest.approx(high[axis] + beyond[axis])
        lines = np.linspace(low[axis] - beyond[axis], high[axis] + beyond[axis], resolution)
        near = np.abs(np.array(places[3:])[:, axis, None] - lines).min(1)
        assert near.max() < 1e-9
    assert len(places) == resolution**2 + 3 or margin == 0


def test_without_margin_a_grid_point_on_a_corner_is_measured_once():
    records = plane(_points([[0, 0], [0, 2], [3, 1]]), _one(), resolution=3, margin=0)
    places = [(r.how["x"], r.how["y"]) for r in records]
    grid = {(x, y) for x in (0, 1, 2) for y in (0, 1.5, 3)}
    assert len(places) == len(set(places)) == 9
    assert set(places) == grid


def _points(weights):
    """Three networks that are points in the plane."""
    nets = {}
    for name, weight in zip("abc", weights, strict=True):
        nets[name] = nn.Linear(2, 1, bias=False, dtype=torch.float64)
        nets[name].weight.data[:] = torch.as_tensor(weight, dtype=torch.float64)
    return nets


def _one():
    return {"t": (torch.ones(1, 2, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64))}


def test_the_margin_of_an_obtuse_triangle_by_hand():
    records = plane(_points([[0, 0], [0, 2], [3, -2]]), _one(), resolution=2, margin=0.5)
    assert records[0].how["corners"]["c"] == [-2, 3]
    # Width 4 from -2, height 3 from 0; a half of each is added on every side.
    grid = [(-4, -1.5), (4, -1.5), (-4, 4.5), (4, 4.5)]
    assert [(r.how["x"], r.how["y"]) for r in records[3:]] == grid


def test_a_surface_by_hand():
    # The output is w_1 + w_2. Along x it changes by 1 per unit (u is the second axis), along y by
    # 1 per unit too (v is the first axis); the target is 1.
    records = plane(_points([[0, 0], [0, 2], [3, 1]]), _one(), resolution=5, margin=0.5)
    assert len(records) == 25  # all corners are grid points
    for record in records:
        x, y = record.how["x"], record.how["y"]
        assert record.value == pytest.approx((x + y - 1) ** 2, abs=1e-12)
        assert record.metric == "loss"


def test_a_surface_of_two_inputs():
    class Pair(nn.Module):
        def __init__(self, *weights):
            super().__init__()
            self.weights = nn.Parameter(torch.tensor(weights))

        def forward(self, x, y):
            return self.weights[0] * x + self.weights[1] * y

    nets = {"a": Pair(0.0, 0.0), "b": Pair(1.0, 0.0), "c": Pair(1.0, 1.0)}
    data = {"t": ((torch.ones(3), torch.ones(3)), torch.zeros(3))}
    for record in plane(nets, data, resolution=3):
        assert record.value == pytest.approx((record.how["x"] + record.how["y"]) ** 2, abs=1e-6)


def test_what_is_recorded_and_inputs_stay():
    nets, data, done = {name: _net(i) for i, name in enumerate("abc")}, _data(), []
    nets["b"].train()
    before = [copy.deepcopy(net.state_dict()) for net in nets.values()]
    records = plane(
        nets,
        data,
        resolution=2,
        statistics=[data["one"]],
        name="g: plane",
        split="validation",
        seed=4,
        how={"group": "g"},
        on_done=lambda *counts: done.append(counts),
    )
    assert done == [(k, 7) for k in range(1, 8)]
    assert set(records[0].how) == {"group", "view", "x", "y", "reestimated", "corners"}
    assert {(r.model, r.split, r.seed, r.how["view"]) for r in records} == {
        ("g: plane", "validation", 4, "plane")
    }
    assert [(r.task, r.metric, r.count) for r in records[-4:]] == [
        ("one", "accuracy", 20),
        ("one", "loss", 20),
        ("two", "accuracy", 9),
        ("two", "loss", 9),
    ]
    for net, state in zip(nets.values(), before, strict=True):
        assert all(torch.equal(tensor, state[n]) for n, tensor in net.state_dict().items())
    assert nets["b"].norm.training
    assert not nets["a"].norm.training


def test_statistics_without_batchnorm_change_nothing():
    nets = _points([[0, 0], [0, 2], [3, 1]])
    records = plane(nets, _one(), resolution=2, statistics=list(_one().values()))
    assert records == plane(nets, _one(), resolution=2)
    assert not records[0].how["reestimated"]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([[0, 0], [1, 1], [2, 2]], "on one line"),
        ([[1, 2], [3, 4], [2, 3]], "on one line"),
        ([[1, 2], [2, 3], [1 + 1e7, 2 + 1e7]], "on one line"),
        ([[0, 0], [1, 0], [2, 1e-5]], "on one line"),
        ([[0, 0], [1e-5, 0], [3, 1]], "on one line"),
        ([[1, 2], [1, 2], [2, 3]], "'a' and 'b' have the same weights"),
        ([[1, 2], [2, 3], [1, 2]], "'a' and 'c' have the same weights"),
        ([[1, 2], [2, 3], [2, 3]], "'b' and 'c' have the same weights"),
        ([[1, 1], [1, 1], [1, 1]], "the same weights"),
    ],
)
def test_networks_without_a_plane(weights, message):
    with pytest.raises(InputError, match=message):
        plane(_points(weights), _one())


def test_a_merge_of_two_is_on_their_line_though_rounded():
    a, b = _net(0), _net(1)
    for shares in ((1, 1), (0.3, 0.7), (-1, 2)):
        mixed = merge([a, b], "linear", weights=shares)
        for order in ((a, b, mixed), (mixed, a, b), (a, mixed, b)):
            with pytest.raises(InputError, match="on one line"):
                plane(dict(zip("abc", order, strict=True)), _data())


def test_a_narrow_triangle_is_still_a_plane():
    records = plane(_points([[0, 0], [0, 1], [1e-3, 0.5]]), _one(), resolution=3)
    for record in records:
        x, y = record.how["x"], record.how["y"]
        assert record.value == pytest.approx((x + y - 1) ** 2, abs=1e-9)


def test_networks_that_cannot_be_used():
    nets, data = _points([[0, 0], [0, 2], [3, 1]]), _one()
    for models in ({}, {"a": nets["a"], "b": nets["b"]}, {**nets, "d": nets["a"]}):
        with pytest.raises(InputError, match="three networks"):
            plane(models, data)
    with pytest.raises(MismatchError, match="different"):
        plane({**nets, "c": nn.Linear(3, 1, bias=False, dtype=torch.float64)}, data)
    with pytest.raises(MismatchError, match="different"):
        plane({**nets, "c": nn.Linear(2, 1, dtype=torch.float64)}, data)
    for value in (math.nan, math.inf):
        with pytest.raises(NonFiniteError, match="NaN"):
            plane(_points([[0, 0], [0, 2], [3, value]]), data)
    with pytest.raises(InputError, match="at least one data set"):
        plane(nets, {})
    with pytest.raises(InputError, match="the same weights"):
        plane(dict.fromkeys("abc", nn.ReLU()), data)


@pytest.mark.parametrize(
    "arguments", [{"resolution": 1}, {"margin": -0.1}, {"margin": math.nan}, {"margin": math.inf}]
)
def test_grids_that_cannot_be_used(arguments):
    with pytest.raises(InputError, match="resolution must be 2 or more and margin 0 or more"):
        plane(_points([[0, 0], [0, 2], [3, 1]]), _one(), **arguments)
