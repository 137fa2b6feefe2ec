"""Each example goes through the network of the task that it seems to be of."""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from torch import nn
from torch.nn import functional as F

import conjoin
from conjoin.errors import DataError, InputError, NonFiniteError
from conjoin.fitting import route
from conjoin.modules import MultiHead, RoutedNetworks, TaskNetworks, pooled_outputs

TASKS = ("dark", "grey", "bright")
LEVELS = (-4.0, 0.0, 4.0)


def network(seed: int = 0, outputs: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 16, outputs),
    ).eval()


def images(level: float, count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 4, 4, generator=generator) + level


def networks() -> TaskNetworks:
    return TaskNetworks({task: network(seed) for seed, task in enumerate(TASKS)})


def data() -> list[list[torch.Tensor]]:
    return [list(images(level, 60, k).split(25)) for k, level in enumerate(LEVELS)]


@pytest.fixture(scope="module")
def routed() -> RoutedNetworks:
    return route(networks(), data())[0]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 2), max_size=12), st.integers(0, 1000))
def test_a_mixed_batch_has_the_outputs_of_each_task_in_its_order(routed, tasks, seed):
    rows = [images(LEVELS[task], 1, seed + at) for at, task in enumerate(tasks)]
    batch = torch.cat(rows) if rows else torch.zeros(0, 1, 4, 4)
    assert routed.tasks_of(batch).tolist() == tasks
    expected = [routed.networks(row, task=TASKS[t]) for t, row in zip(tasks, rows, strict=True)]
    found = routed(batch)
    assert found.shape == (len(tasks), 3)
    if rows:
        torch.testing.assert_close(found, torch.cat(expected))


def test_it_is_called_as_the_networks_are_and_changes_nothing():
    given = networks()
    given.train()
    before = copy.deepcopy(given.state_dict())
    one, report = route(given, data())
    one.tasks_of(images(0, 3))
    after = given.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(module.training for module in given.modules())
    assert report.layer == "0"
    assert report.accuracy == dict.fromkeys(TASKS, 1.0)
    assert report.examples == (60, 60, 60)
    assert report.to_json()["dimensions"] == 12
    assert conjoin.route is route


def test_gradients_reach_the_networks_that_were_used(routed):
    batch = torch.cat([images(-4, 2), images(4, 2)])
    routed.zero_grad()
    routed(batch).square().sum().backward()
    used = [
        any(p.grad is not None for p in routed.networks.for_task(t).parameters()) for t in TASKS
    ]
    assert used == [True, False, True]


def test_it_is_kept_in_a_state_dict(routed):
    # Of other data, so that the rule is another one.
    other, _ = route(networks(), [part[::-1] for part in data()][::-1])
    batch = torch.cat([images(level, 4, 7) for level in LEVELS])
    assert not torch.equal(other.tasks_of(batch), routed.tasks_of(batch))
    other.load_state_dict(routed.state_dict())
    assert torch.equal(other(batch), routed(batch))


def test_scores_are_those_of_normal_distributions():
    parts = data()
    one, report = route(networks(), parts)
    first = one.networks.for_task("dark")
    features = [pooled_outputs(first, "0", torch.cat(part)).double().numpy() for part in parts]
    with torch.no_grad():
        plain = first[0](parts[0][0]).flatten(2).double().numpy()
    by_hand = np.concatenate([plain.mean(-1), plain.std(-1)], 1)
    np.testing.assert_allclose(features[0][:25], by_hand, rtol=1e-4, atol=1e-5)

    scale = np.sqrt(np.mean([part.var(0) for part in features], 0))
    z = [part / scale for part in features]
    own = [np.cov(part.T, bias=True) for part in z]
    if report.shared_covariance:
        own = [np.mean(own, 0)] * 3
    expected = []
    for part, covariance in zip(z, own, strict=True):
        size = np.trace(covariance) / len(covariance)
        regular = (1 - report.ridge) * covariance + report.ridge * size * np.eye(len(covariance))
        expected.append(multivariate_normal(part.mean(0), regular).logpdf(np.concatenate(z)))
    found = one.rule.scores(torch.from_numpy(np.concatenate(features)).float()).double().numpy()
    # Up to a constant that all tasks have in common.
    differences = [values - values[:, :1] for values in (found, np.stack(expected, 1))]
    np.testing.assert_allclose(*differences, rtol=1e-3, atol=1e-2)


def test_tasks_of_one_mean_are_told_apart_by_their_spread():
    parts = [[images(0, 300, 1) * size] for size in (1, 3)]
    one, report = route({"calm": network(0), "wild": network(1)}, parts)
    assert min(report.accuracy.values()) > 0.95
    assert one.tasks_of(images(0, 50, 5) * 3).double().mean() > 0.95


def test_tasks_that_look_the_same_are_a_matter_of_chance():
    parts = [[images(0, 500, seed)] for seed in (1, 2)]
    _, report = route({"one": network(0), "other": network(1)}, parts)
    assert 0.3 < sum(report.accuracy.values()) / 2 < 0.7


def test_many_features_are_projected():
    torch.manual_seed(0)
    nets = {name: nn.Sequential(nn.Linear(300, 200), nn.Linear(200, 2)) for name in "ab"}
    parts = [[torch.randn(400, 300) + shift] for shift in (0, 0.5)]
    one, report = route(nets, parts)
    assert report.dimensions == 128
    assert report.accuracy == {"a": 1.0, "b": 1.0}
    assert one.tasks_of(torch.randn(100, 300) + 0.5).double().mean() > 0.95


def test_constant_features_and_few_examples():
    # Dead units, and as many examples as are needed at least.
    nets = {name: network(seed) for seed, name in enumerate("ab")}
    with torch.no_grad():
        nets["a"][0].weight[:3] = 0
    parts = [[images(level, 5, 3)] for level in (-4, 4)]
    one, report = route(nets, parts)
    assert (
        one.tasks_of(torch.cat([images(-4, 3, 9), images(4, 3, 9)])).tolist() == [0] * 3 + [1] * 3
    )
    assert report.examples == (5, 5)


class Named(nn.Module):
    """Takes two tensors and a number, by name; gives a mapping."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.table = nn.Embedding(10, 4)
        self.out = nn.Linear(5, 2)

    def forward(self, ids, mask, scale=1.0):
        pooled = (self.table(ids) * mask[..., None]).mean(1)
        logits = self.out(torch.cat([pooled, mask.sum(1, keepdim=True)], 1))
        return {"logits": logits * scale, "pooled": (pooled, ids)}


def test_inputs_by_name_and_structured_outputs():
    nets = TaskNetworks({"low": Named(0), "high": Named(1)})
    ids = [torch.randint(0, 5, (40, 6)), torch.randint(5, 10, (40, 6))]
    mask = torch.ones(40, 6)
    parts = [[({"ids": each, "mask": mask}, torch.zeros(40))] for each in ids]
    one, report = route(nets, parts)
    assert report.layer == "table"
    assert report.accuracy == {"low": 1.0, "high": 1.0}
    mixed = torch.stack([ids[1][0], ids[0][0], ids[1][1]])
    found = one(ids=mixed, mask=mask[:3], scale=2.0)
    for at, task in enumerate(("high", "low", "high")):
        own = nets(ids=mixed[at : at + 1], mask=mask[:1], scale=2.0, task=task)
        torch.testing.assert_close(found["logits"][at : at + 1], own["logits"])
        torch.testing.assert_close(found["pooled"][0][at : at + 1], own["pooled"][0])
    assert torch.equal(found["pooled"][1], mixed)
    assert isinstance(found, Mapping)


def test_two_merged_tasks_need_not_be_told():
    nets = [network(0), network(1)]
    for net, level in zip(nets, (-4.0, 4.0), strict=True):
        net.train()
        net(images(level, 400, 11))
        net.eval()
    parts = [[images(level, 300, 12)] for level in (-4, 4)]
    told, _ = conjoin.merge_with_data(nets, parts, private=0.5, names=["a", "b"], align=None)
    one, _ = route(told, parts)
    for task, net, level in zip("ab", nets, (-4, 4), strict=True):
        x = images(level, 100, 13)
        assert torch.equal(one(x), told(x, task=task))
        assert F.mse_loss(one(x), net(x)) < 0.3 * net(x).var()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"data": data()[:2]}, InputError, "a loader for each of the 3"),
        ({"data": data()[:1]}, InputError, "a data set for each of dark, grey, bright, not one"),
        ({"data": [*data()[:2], [images(0, 4)]]}, DataError, "'bright' has 4 examples"),
        ({"data": [*data()[:2], [images(np.nan, 9)]]}, NonFiniteError, "on data of 'bright'"),
        ({"data": dict(zip("abc", data(), strict=True))}, InputError, "data= is for a, b, c"),
        ({"layer": "9"}, InputError, "no module '9'; it has"),
        ({"networks": {}}, InputError, "at least one"),
        ({"networks": {t: nn.Flatten() for t in TASKS}}, InputError, "no layer that has a weight"),
    ],
)
def test_what_cannot_be(settings, error, message):
    with pytest.raises(error, match=re.escape(message)):
        route(**{"networks": networks(), "data": data(), **settings})


def test_a_network_with_several_heads():
    torch.manual_seed(0)
    heads = {task: nn.Linear(8, 3) for task in TASKS}
    net = MultiHead(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), heads)
    one, report = route(net, [[torch.randn(40, 4) + level] for level in LEVELS])
    assert min(report.accuracy.values()) > 0.9
    assert one.networks.for_task("dark")[0] is net.trunk
    x = torch.full((1, 4), 4.0)
    assert torch.equal(one(x), net(x, task="bright"))


def test_data_by_name_are_taken_by_name():
    parts = dict(zip(TASKS, data(), strict=True))
    turned = {task: parts[task] for task in reversed(TASKS)}
    one, _ = route(networks(), turned)
    assert one.tasks_of(torch.cat([images(level, 1, 9) for level in LEVELS])).tolist() == [0, 1, 2]


@dataclass
class Kept:
    logits: torch.Tensor


class Around(nn.Module):
    """Gives what a function makes of the input and the output of a layer."""

    def __init__(self, make, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer, self.make, self.seed = nn.Linear(3, 2), make, seed

    def forward(self, x, extra=None):
        y = self.layer(x if isinstance(x, torch.Tensor) else x.logits)
        return self.make(y, self.seed)


def two(make):
    parts = [[torch.randn(40, 3) + shift] for shift in (-5, 5)]
    one, _ = route({name: Around(make, seed) for seed, name in enumerate("ab")}, parts)
    return one, torch.cat([parts[0][0][:3], parts[1][0][:1]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda y, _: Kept(y), "an output is a Kept, which cannot be taken apart"),
        (lambda y, seed: (y, seed), "not the same for all tasks: (0, 1)"),
        # The lengths of both parts add up to the number of examples.
        (lambda y, _: torch.stack([y, -y]), "a gives [2, 3, 2] for 3"),
        (lambda y, _: y.T, "a gives [2, 3] for 3"),
        (lambda y, _: y.sum(), "a gives [] for 3"),
        (lambda y, seed: (y, y) if seed else y, "different structures"),
        (lambda y, _: {"y": y, "names": ["x"] * len(y)}, "an output is a list of as many values"),
    ],
)
def test_outputs_that_cannot_be_put_together(make, message):
    one, mixed = two(make)
    assert one.tasks_of(mixed).tolist() == [0, 0, 0, 1]
    with pytest.raises(InputError, match=re.escape(message)):
        one(mixed)


def test_inputs_that_cannot_be_taken_apart():
    one, mixed = two(lambda y, _: y)
    with pytest.raises(InputError, match="an input is a Kept"):
        one(mixed, extra=Kept(mixed))
    with pytest.raises(InputError, match="an input is a list of as many values .* examples, 4"):
        one(mixed, extra=[1.0, 2.0, 3.0, 4.0])
    with pytest.raises(InputError, match="no tensor of examples among the inputs.* got Kept"):
        one(Kept(mixed))
    assert one(mixed, extra=(1.0, 2.0, 3.0, 4.0)).shape == (4, 2)
    assert one(mixed, extra=None).shape == (4, 2)
    assert one(mixed, extra=3).shape == (4, 2)


class Positions(nn.Module):
    """Looks positions up before it looks at the input, and has a weight that is computed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.places = nn.Embedding(6, 4)
        self.recurrent = nn.LSTM(4, 4, batch_first=True)
        self.layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))

    def forward(self, x):
        given = self.recurrent(x + self.places(torch.arange(x.shape[1])))[0]
        return self.layer(given).mean(1)


def test_the_first_layer_is_one_that_sees_the_examples():
    parts = [[torch.randn(40, 6, 4) + shift] for shift in (-1, 1)]
    one, report = route({name: Positions(seed) for seed, name in enumerate("ab")}, parts)
    assert report.layer == "layer"
    assert min(report.accuracy.values()) > 0.9
    for layer, shape in (("places", "[6, 4]"), ("recurrent", "tuple")):
        message = re.escape(f"{layer!r} gives {shape} for 40 examples")
        with pytest.raises(InputError, match=message):
            route(one.networks, parts, layer=layer)


@pytest.mark.parametrize(("layer", "channels"), [("0", 6), ("1", 6), ("2", 6), ("3", 96)])
def test_channels_of_images(layer, channels):
    net, x = network(), images(0, 5)
    found = pooled_outputs(net, layer, x)
    assert found.shape == (5, 2 * channels if layer != "3" else 96)
    value = net[: int(layer) + 1](x).detach()
    expected = (
        value
        if layer == "3"
        else torch.cat([value.mean((2, 3)), value.std((2, 3), correction=0)], 1)
    )
    torch.testing.assert_close(found, expected)


def test_heads_of_different_sizes_are_told():
    nets = TaskNetworks({"two": network(0, outputs=2), "three": network(1, outputs=3)})
    one, _ = route(nets, [[images(-4, 40)], [images(4, 40)]])
    assert one(images(-4, 3)).shape == (3, 2)
    with pytest.raises(
        InputError, match=r"two gives \[1, 2\] for 1, three gives \[2, 3\].*tasks_of"
    ):
        one(torch.cat([images(-4, 1), images(4, 2)]))
