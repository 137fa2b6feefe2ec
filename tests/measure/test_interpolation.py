"""Lines between networks against `evaluate`, `merge`, NumPy, and barriers by hand."""

import copy
import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from conjoin import evaluate, merge, reestimate_batchnorm
from conjoin.errors import DataError, InputError, MismatchError, NonFiniteError
from conjoin.measure.interpolation import barriers, interpolate

NAN, INF = math.nan, math.inf


def _data(seed=0, count=40):
    """Three blobs in the plane, as images [N, 2, 1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    centres = torch.tensor([[2.0, 0.0], [-2.0, 1.0], [0.0, -2.0]])
    points = centres[labels] + 0.7 * torch.randn(count, 2, generator=generator)
    return points[:, :, None, None], labels


def _net(seed, *, batchnorm=True):
    """A convolutional network with statistics of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        norm = nn.BatchNorm2d(5) if batchnorm else nn.GroupNorm(1, 5)
        net = nn.Sequential(nn.Conv2d(2, 5, 1), norm, nn.ReLU(), nn.Flatten(), nn.Linear(5, 3))
        if batchnorm:
            net(torch.randn(8, 2, 1, 1) * (seed + 1))
    return net.eval()


def _values(records, **how):
    """(task, metric) -> value, of the records with these keys."""
    return {(r.task, r.metric): r.value for r in records if all(r.how[k] == how[k] for k in how)}


def _direct(net, data):
    return {(r.task, r.metric): r.value for r in evaluate({"net": net}, data)}


@pytest.fixture
def tasks():
    return {"one": _data(1), "two": _data(2, 30)}


@pytest.mark.parametrize("batchnorm", [True, False])
def test_ends_are_the_parents_and_the_middle_is_the_mean_bit_for_bit(tasks, batchnorm):
    a, b = (_net(seed, batchnorm=batchnorm) for seed in (0, 1))
    records = interpolate(a, b, tasks, at=3)
    assert len(records) == 3 * 2 * 2
    assert _values(records, t=0.0) == _direct(a, tasks)
    assert _values(records, t=1.0) == _direct(b, tasks)
    assert _values(records, t=0.5) == _direct(merge([a, b]), tasks)
    assert _values(records, t=0.0) != _values(records, t=0.5) != _values(records, t=1.0)


class Cached(nn.Module):
    """A buffer that is in no state dict: merging would take that of the first."""

    def __init__(self, scale):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([scale]))
        self.register_buffer("cache", torch.tensor([scale]), persistent=False)

    def forward(self, x):
        return x * self.weight * self.cache


def test_the_ends_are_the_parents_in_what_no_state_dict_has_too():
    data = {"t": (torch.ones(1, 1), torch.zeros(1, 1))}
    records = interpolate(Cached(1.0), Cached(2.0), data, at=[0, 1])
    assert [r.value for r in records] == [1, 16]


def test_a_point_between_against_numpy(tasks):
    a, b = _net(0), _net(1)
    values = _values(interpolate(a, b, tasks, at=[0.3]), t=0.3)
    p, q = ({n: w.double().numpy() for n, w in net.state_dict().items()} for net in (a, b))
    mixed = {name: 0.7 * p[name] + 0.3 * q[name] for name in p}
    means = [w["1.running_mean"] for w in (p, q)]
    variance = mixed["1.running_var"] + 0.7 * 0.3 * (means[0] - means[1]) ** 2  # pooled
    for task, (images, labels) in tasks.items():
        x = images.double().numpy()[:, :, 0, 0] @ mixed["0.weight"][:, :, 0, 0].T + mixed["0.bias"]
        x = (x - mixed["1.running_mean"]) / np.sqrt(variance + a[1].eps)
        x = np.maximum(x * mixed["1.weight"] + mixed["1.bias"], 0)
        logits = x @ mixed["4.weight"].T + mixed["4.bias"]
        logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        loss = -logs[np.arange(len(labels)), labels.numpy()].mean()
        assert values[task, "loss"] == pytest.approx(loss, rel=1e-5)
        right = (logs.argmax(1) == labels.numpy()).mean()
        assert values[task, "accuracy"] == pytest.approx(100 * right)


def test_re_estimated_points_are_measured_beside_the_others(tasks):
    a, b = _net(0), _net(1)
    statistics = [tasks["one"], tasks["two"]]
    records = interpolate(a, b, tasks, at=[0, 0.5, 1], statistics=statistics)
    plain = interpolate(a, b, tasks, at=[0, 0.5, 1])
    assert [r for r in records if not r.how["reestimated"]] == plain
    for t, net in ((0.0, a), (0.5, merge([a, b])), (1.0, b)):
        fresh = reestimate_batchnorm(net, *statistics)
        assert _values(records, t=t, reestimated=True) == _direct(fresh, tasks)
        assert _direct(fresh, tasks) != _direct(net, tasks)


@pytest.mark.parametrize("norm", [nn.GroupNorm(1, 2), nn.BatchNorm2d(2, track_running_stats=False)])
def test_without_running_statistics_nothing_is_re_estimated(tasks, norm):
    a, b = (nn.Sequential(norm, nn.Conv2d(2, 3, 1), nn.Flatten()) for _ in range(2))
    records = interpolate(a, b, tasks, at=3, statistics=[tasks["one"]])
    assert records == interpolate(a, b, tasks, at=3)
    assert {r.how["reestimated"] for r in records} == {False}


def test_batches_have_the_size_that_was_asked_for():
    sizes = []

    class Spy(nn.Flatten):
        def forward(self, x):
            sizes.append(len(x))
            return super().forward(x)

    images, labels = _data(1)
    interpolate(Spy(), Spy(), {"one": (images, labels % 2)}, at=[0], batch_size=15)
    assert sizes == [15, 15, 10]


@pytest.mark.parametrize("points", [3, 8])
def test_the_line_from_a_network_to_itself_is_exactly_flat(tasks, points):
    net = _net(0)
    expected = _direct(net, tasks)
    for other in (net, copy.deepcopy(net)):
        records = interpolate(net, other, tasks, at=points)
        for t in {r.how["t"] for r in records}:
            assert _values(records, t=t) == expected
        assert [r.value for r in barriers(records)] == [0] * 4


@pytest.mark.parametrize(("seed", "points"), [(0, 4), (5, 7)])
def test_the_line_backwards_is_the_mirror_image(seed, points):
    tasks = {"one": _data(1)}
    a, b = _net(seed), _net(seed + 1)
    there = [r.value for r in interpolate(a, b, tasks, at=points) if r.metric == "loss"]
    back = [r.value for r in interpolate(b, a, tasks, at=points) if r.metric == "loss"]
    np.testing.assert_allclose(there, back[::-1], rtol=1e-5)


UNITS = 4  # as few as the task needs, so that the mean of two has lost it


def _four_blobs():
    """Blobs at the corners of a square; opposite ones are one class, so that no line parts them."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    which = torch.arange(120) % 4
    return corners[which] + 0.2 * torch.randn(120, 2, generator=generator), which % 2


def _trained(norm, data):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = OrderedDict(
            first=nn.Linear(2, UNITS), norm=norm(UNITS), relu=nn.ReLU(), last=nn.Linear(UNITS, 2)
        )
        net = nn.Sequential(layers)
    parameters = list(net.parameters())
    for _ in range(300):
        loss = nn.functional.cross_entropy(net(data[0]), data[1])
        with torch.no_grad():
            gradients = torch.autograd.grad(loss, parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= 0.5 * gradient
    return net.eval()


def _with_hidden_units(net, order):
    """A copy whose hidden units are in another order: the same function."""
    state = net.state_dict()
    moved = {
        name: tensor[:, order] if name == "last.weight" else tensor[order]
        for name, tensor in state.items()
        if tensor.dim() and name != "last.bias"
    }
    other = copy.deepcopy(net)
    other.load_state_dict({**state, **moved})
    return other


@pytest.mark.parametrize("norm", [nn.Identity, nn.BatchNorm1d])
def test_the_barrier_to_a_copy_with_shuffled_units_is_high_and_vanishes_unshuffled(norm):
    data = _four_blobs()
    net = _trained(norm, data)
    assert _direct(net, {"blobs": data})["blobs", "accuracy"] > 95
    order = torch.arange(UNITS).roll(1)
    shuffled = _with_hidden_units(net, order)
    back = _with_hidden_units(shuffled, order.argsort())
    heights = []
    for other in (shuffled, back):
        records = interpolate(net, other, {"blobs": data})
        ends = _values(records, t=0.0), _values(records, t=1.0)
        assert ends[0]["blobs", "loss"] == pytest.approx(ends[1]["blobs", "loss"], rel=1e-4)
        heights.append({r.metric: r.value for r in barriers(records)})
    assert heights[0]["loss barrier"] > 0.5
    assert heights[0]["accuracy barrier"] > 25
    assert heights[1] == {"loss barrier": 0, "accuracy barrier": 0}


def test_what_is_recorded(tasks):
    a, b = _net(0), _net(1)
    done = []
    arguments = {"split": "validation", "seed": 3, "how": {"group": "g", "view": "row"}}
    records = interpolate(
        a,
        b,
        tasks,
        names=("A", "B"),
        at=[0.25],
        statistics=[tasks["one"]],
        name="g: A to B",
        on_done=lambda *counts: done.append(counts),
        **arguments,
    )
    assert done == [(1, 2), (2, 2)]
    first = {"view": "interpolation", "from": "A", "to": "B", "t": 0.25, "reestimated": False}
    assert records[0].how == {"group": "g", **first}
    assert {(r.model, r.split, r.seed) for r in records} == {("g: A to B", "validation", 3)}
    assert [(r.task, r.metric, r.count) for r in records[:4]] == [
        ("one", "accuracy", 40),
        ("one", "loss", 40),
        ("two", "accuracy", 30),
        ("two", "loss", 30),
    ]
    assert interpolate(a, b, tasks, at=[0.25])[0].model == "a to b"


def test_inputs_are_not_changed_and_batches_do_not_matter(tasks):
    a, b = _net(0), _net(1)
    a.train()
    states = [copy.deepcopy(net.state_dict()) for net in (a, b)]
    records = interpolate(a, b, tasks, at=3, statistics=[tasks["one"]], batch_size=7)
    for net, state in zip((a, b), states, strict=True):
        assert all(torch.equal(tensor, state[n]) for n, tensor in net.state_dict().items())
    assert all(part.training for part in a.modules())
    assert not any(part.training for part in b.modules())
    loaders = {
        task: list(zip(images.split(11), labels.split(11), strict=True))
        for task, (images, labels) in tasks.items()
    }
    for record, other in zip(
        records, interpolate(a, b, loaders, at=3, statistics=[tasks["one"]]), strict=True
    ):
        assert record.value == pytest.approx(other.value, rel=1e-5)


def test_points_are_as_given_and_may_lie_beyond_the_ends(tasks):
    a, b = _net(0), _net(1)
    records = interpolate(a, b, tasks, at=[1.5, -0.5])
    assert [r.how["t"] for r in records] == [1.5] * 4 + [-0.5] * 4
    beyond = merge([a, b], "linear", weights=[-0.5, 1.5])
    assert _values(records, t=1.5) == _direct(beyond, tasks)


class Pair(nn.Module):
    """Two inputs, one number."""

    def __init__(self, scale):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([float(scale)]))

    def forward(self, x, y):
        return self.scale * x + y


def test_regression_of_two_inputs_by_hand():
    x, y = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.5])
    data = {"sum": ((x, y), x + y), "named": ({"y": y, "x": x}, y)}
    records = interpolate(Pair(0), Pair(2), data, at=[0, 0.25, 1])
    # Squared errors (s - 1)^2 (1, 4) on the first task, s^2 (1, 4) on the second.
    found = [(r.task, r.metric, r.value) for r in records]
    assert found == [
        ("sum", "loss", 2.5),
        ("named", "loss", 0.0),
        ("sum", "loss", 0.625),
        ("named", "loss", 0.625),
        ("sum", "loss", 2.5),
        ("named", "loss", 10.0),
    ]
    # 0.625 - 2.5 is below the line; 0.625 is below 0.25 * 10.
    assert [(r.metric, r.value) for r in barriers(records)] == [("loss barrier", 0)] * 2


@pytest.mark.parametrize("at", [1, 0, -3, [], [0.5, 0.5], [0, NAN], [INF]])
def test_points_that_cannot_be_used(tasks, at):
    with pytest.raises(InputError, match="at"):
        interpolate(_net(0), _net(1), tasks, at=at)


def test_networks_and_data_that_cannot_be_used(tasks):
    with pytest.raises(InputError, match="at least one data set"):
        interpolate(_net(0), _net(1), {})
    with pytest.raises(MismatchError, match="different tensors"):
        interpolate(_net(0), _net(1, batchnorm=False), tasks, at=[0, 1])
    broken = _net(1)
    broken[0].weight.data[0, 0] = NAN
    with pytest.raises(NonFiniteError, match="'0.weight'"):
        interpolate(_net(0), broken, tasks)
    with pytest.raises(DataError, match="used up"):
        interpolate(_net(0), _net(1), {"one": iter([_data(1)])})
