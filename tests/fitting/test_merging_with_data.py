"""Properties of merging with data, and bad input."""

import copy
import re
from itertools import cycle, pairwise

import pytest
import torch
from small_networks import KINDS, batches, images, lively, mlp, tokens
from torch import nn
from torch.nn import functional as F

import conjoin
from conjoin.errors import DataError, InputError, MismatchError, NonFiniteError
from conjoin.fitting import merge_with_data


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_with_itself_is_that_network(kind):
    net = lively(kind())
    data = [batches(kind, 100, seed) for seed in (0, 1)]
    merged, report = merge_with_data([net, copy.deepcopy(net)], data, align=None)
    for part in data:
        for batch in part:
            torch.testing.assert_close(merged(batch), net(batch), rtol=1e-3, atol=1e-3)
    assert type(merged) is type(net)
    assert all(layer.after < 1e-6 for layer in report.layers)


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_is_fitted(kind):
    nets = [lively(kind(seed), seed) for seed in (0, 1)]
    data = [batches(kind, 200, seed) for seed in (0, 1)]
    _, report = merge_with_data(nets, data, align=None)
    wanted = {
        mlp: ["0", "3", "5"],
        images: ["0", "4.depthwise", "4.grouped", "4.alone", "4.back", "6"],
        tokens: [
            "attention.in_proj_weight",
            "attention.out_proj",
            "norm",
            "up",
            "down",
            "last",
            "head",
        ],
    }[kind]
    assert [layer.name for layer in report.layers] == wanted
    assert all(layer.after <= layer.before for layer in report.layers)


@pytest.mark.parametrize("kind", KINDS)
def test_fitting_comes_nearer_to_both_parents_than_averaging(kind):
    nets = [lively(kind(seed), seed) for seed in (0, 1)]
    data = [batches(kind, 400, seed) for seed in (0, 1)]
    fresh = [torch.cat(batches(kind, 300, seed)) for seed in (5, 6)]
    merged, _ = merge_with_data(nets, data, align=None, ridge=1e-3)
    mean = conjoin.merge(nets)
    if kind is not tokens:
        mean = conjoin.reestimate_batchnorm(mean, *data)

    def distance(net):
        with torch.no_grad():
            return sum(F.mse_loss(net(x), own(x)) for own, x in zip(nets, fresh, strict=True))

    assert distance(merged) < 0.9 * distance(mean)


@pytest.mark.parametrize("kind", KINDS)
def test_a_shuffled_parent_changes_nothing(kind):
    nets = [lively(kind()), lively(kind())]
    with torch.no_grad():
        for parameter in nets[1].parameters():
            parameter += 0.1 * parameter.std(correction=0) * torch.randn_like(parameter)
    data = [batches(kind, 200, seed) for seed in (0, 1)]
    symmetries = conjoin.find_symmetries(nets[0], data[0][0])
    shuffled = symmetries.sample(torch.Generator().manual_seed(3)).apply(nets[1])
    one, two = (
        merge_with_data([nets[0], other], data, align="weights", symmetries=symmetries)[0]
        for other in (nets[1], shuffled)
    )
    for part in data:
        for batch in part:
            torch.testing.assert_close(one(batch), two(batch), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_one_and_of_many_agree(kind):
    nets = [lively(kind(seed), seed).double() for seed in (0, 1)]
    made = []
    for size in (1, 7, 60):
        data = [batches(kind, 60, seed, size) for seed in (0, 1)]
        data = [[b if kind is tokens else b.double() for b in part] for part in data]
        made.append(merge_with_data(nets, data, align=None)[0].state_dict())
    for one, other in pairwise(made):
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=1e-6, atol=1e-7)


def test_inputs_stay_as_they_are():
    nets = [lively(images(seed), seed).train() for seed in (0, 1)]
    before = [{n: t.clone() for n, t in net.state_dict().items()} for net in nets]
    data = [batches(images, 40, seed) for seed in (0, 1)]
    merge_with_data(nets, data)
    for net, old in zip(nets, before, strict=True):
        assert all(torch.equal(t, old[n]) for n, t in net.state_dict().items())
        assert all(part.training for part in net.modules())


def test_batchnorm_keeps_the_statistics_of_the_merged_network():
    nets = [lively(images(seed), seed) for seed in (0, 1)]
    data = [batches(images, 200, seed) for seed in (0, 1)]
    merged, _ = merge_with_data(nets, data, align=None)
    # One in five examples was held out, and is none of those that the statistics are of.
    used = [torch.cat(part)[[n for n in range(200) if n % 5 != 4]] for part in data]
    again = conjoin.reestimate_batchnorm(merged, *[[x] for x in used])
    for name, tensor in merged.state_dict().items():
        if "running_mean" in name:
            torch.testing.assert_close(again.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
        if "running_var" in name:  # with Bessel's correction there
            torch.testing.assert_close(again.state_dict()[name], tensor, rtol=1e-2, atol=1e-4)


def test_a_model_that_counts_more_is_met_more_closely():
    nets = [lively(mlp(seed), seed) for seed in (0, 1, 2)]
    data = [batches(mlp, 300, seed) for seed in (0, 1, 2)]
    x = torch.cat(data[2])
    apart = []
    for weight in (0.1, 1.0, 30.0):
        merged, _ = merge_with_data(nets, data, align=None, weights=[1, 1, weight])
        apart.append(F.mse_loss(merged(x), nets[2](x)).item())
    assert apart[0] > apart[1] > apart[2]


def test_weights_and_alignment_are_chosen_on_validation_data():
    nets = [lively(mlp(seed), seed) for seed in (0, 1)]
    data = [batches(mlp, 300, seed) for seed in (0, 1)]
    labels = [
        (torch.cat(x), net(torch.cat(x)).argmax(1)) for net, x in zip(nets, data, strict=True)
    ]
    for validation in (None, labels):
        _, report = merge_with_data(nets, data, weights="auto", validation=validation)
        best = max(report.choices, key=lambda one: one.score)
        assert {n: report.settings[n] for n in best.settings} == best.settings
        assert {one.settings["align"] for one in report.choices} == {"weights", "activations"}
        assert ("accuracy" in report.scored_by) == (validation is not None)


@pytest.mark.parametrize("keep", [4e9, 1e4])
def test_little_memory_changes_nothing_but_time(keep):
    nets = [lively(mlp(seed), seed) for seed in (0, 1)]
    data = [batches(mlp, 100, seed) for seed in (0, 1)]
    merged, _ = merge_with_data(nets, data, align=None, memory=keep)
    wanted, _ = merge_with_data(nets, data, align=None)
    assert all(torch.equal(t, wanted.state_dict()[n]) for n, t in merged.state_dict().items())


class Crossed(nn.Module):
    """The BatchNorm of the first convolution comes after that of the second."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 4, 3), nn.Conv2d(2, 4, 3)
        self.norm_of_one, self.norm_of_two = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        one, two = self.one(x), self.norm_of_two(self.two(x)).relu()
        return self.head((self.norm_of_one(one) + two).mean((2, 3)))


@pytest.mark.parametrize("memory", [4e9, 1e4])
def test_layers_that_end_in_another_order_than_they_begin(memory):
    nets = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        nets.append(lively(Crossed().eval(), seed))
    data = [batches(images, 60, seed) for seed in (0, 1)]
    _, report = merge_with_data(nets, data, align=None, memory=memory)
    assert [layer.name for layer in report.layers] == ["one", "two", "head"]
    assert all(layer.after <= layer.before for layer in report.layers)


def test_layers_that_are_left_have_the_statistics_of_what_they_give(monkeypatch):
    errors = cycle([1.0, 2.0])  # of the mean of the weights, and of the fit
    monkeypatch.setattr("conjoin.fitting.least_squares._error", lambda *_: next(errors))
    nets = [lively(mlp(seed), seed) for seed in (0, 1)]
    data = [batches(mlp, 200, seed) for seed in (0, 1)]
    merged, report = merge_with_data(nets, data, align=None)
    assert {layer.left for layer in report.layers} == {"the fit is worse on held-out data"}
    assert {layer.after for layer in report.layers} == {1.0}
    assert "left: the fit is worse" in str(report)
    for number in (0, 3, 5):
        mean = (nets[0][number].weight + nets[1][number].weight) / 2
        torch.testing.assert_close(merged[number].weight, mean)
    used = [torch.cat(part)[[n for n in range(200) if n % 5 != 4]] for part in data]
    given = [merged[0](x) for x in used]
    mean = sum(one.mean(0) for one in given) / 2
    variance = sum((one - mean).square().mean(0) for one in given) / 2
    torch.testing.assert_close(merged[1].running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(merged[1].running_var, variance, rtol=1e-4, atol=1e-5)


def test_dead_units_and_fewer_examples_than_features():
    nets = [lively(mlp(seed), seed) for seed in (0, 1)]
    with torch.no_grad():
        for net in nets:
            net[0].weight[:3] = 0
            net[1].weight[:3] = 0
            net[1].bias[:3] = -1
    data = [batches(mlp, 10, seed) for seed in (0, 1)]
    for ridge in (0.0, 0.03):
        merged, _ = merge_with_data(nets, data, align=None, ridge=ridge)
        assert all(t.isfinite().all() for t in merged.state_dict().values())


def test_bfloat16_stays():
    nets = [lively(mlp(seed), seed).bfloat16() for seed in (0, 1)]
    data = [[b.bfloat16() for b in batches(mlp, 100, seed)] for seed in (0, 1)]
    merged, _ = merge_with_data(nets, data)
    assert {t.dtype for t in merged.parameters()} == {torch.bfloat16}


def test_same_seed_same_bits():
    nets = [lively(images(seed), seed) for seed in (0, 1)]
    data = [batches(images, 60, seed) for seed in (0, 1)]
    one, two = (merge_with_data(nets, data, seed=4)[0].state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_report_can_be_written():
    import json

    nets = [mlp(0), mlp(1)]
    _, report = merge_with_data(nets, [batches(mlp, 50, s) for s in (0, 1)])
    again = json.loads(json.dumps(report.to_json()))
    assert again["layers"][0]["name"] == "0"
    assert again["examples"] == [40, 40]
    assert "mean of weights" in str(report)


GOOD = [[torch.zeros(10, 5)], [torch.zeros(10, 5)]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "magic"}, "least_squares, regmean, fisher"),
        ({"data": GOOD[:1]}, "a loader for each of the 2 models"),
        ({"weights": [1.0]}, "2 positive numbers"),
        ({"weights": [1.0, -1.0]}, "2 positive numbers"),
        ({"ridge": -1.0}, "0 or more"),
        ({"rounds": -1}, "rounds has to be a whole number from 0 on, not -1"),
        ({"rounds": 1.5}, "rounds has to be a whole number from 0 on, not 1.5"),
        ({"examples": 20.5}, "examples has to be a whole number from 1 on, not 20.5"),
        ({"examples": 0}, "examples has to be a whole number from 1 on, not 0"),
        ({"private": -1}, "0 or more, not -1"),
        ({"private": "head*"}, "'head*' matches no layer; there are 0, 3, 5"),
        ({"private": 9}, "at most the number of layers, 3"),
        ({"private": 1.5}, "between 0 and 1, not 1.5"),
        ({"private": float("nan")}, "between 0 and 1, not nan"),
        ({"private": ["head*"]}, "'head*' matches no layer; there are 0, 3, 5"),
        ({"names": ["a", "a"]}, "2 different ones"),
        ({"align": "magic"}, "methods are auto"),
        ({"models": [mlp()]}, "two or more"),
    ],
)
def test_what_cannot_be(settings, message):
    given = {"models": [mlp(0), mlp(1)], "data": GOOD, **settings}
    with pytest.raises(InputError, match=re.escape(message)):
        merge_with_data(**given)


def test_data_that_give_nothing():
    with pytest.raises(DataError, match="data set 2"):
        merge_with_data([mlp(0), mlp(1)], [[torch.randn(10, 5)], []])


def test_models_of_different_structure():
    other = nn.Sequential(*mlp()[:-1], nn.Linear(8, 4))
    with pytest.raises(MismatchError, match=r"5\.weight"):
        merge_with_data([mlp(), other], [batches(mlp, 20), batches(mlp, 20)])


class Chosen(nn.Module):
    """Whose operations do not show in its tensors, nor in its modules."""

    def __init__(self, act):
        super().__init__()
        self.act, self.up, self.down = act, nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.down(getattr(torch, self.act)(self.up(x)))


@pytest.mark.parametrize("method", ["least_squares", "regmean", "fisher"])
def test_models_of_other_operations(method):
    data = [batches(mlp, 20), batches(mlp, 20)]
    merge_with_data([Chosen("tanh"), Chosen("tanh")], data, method)
    with pytest.raises(MismatchError, match="model 1 .* computes something else.*nonlinearities"):
        merge_with_data([Chosen("relu"), Chosen("tanh")], data, method)


@pytest.mark.parametrize("align", [None, "activations"])
def test_activations_that_are_not_numbers(align):
    data = [batches(mlp, 20), batches(mlp, 20)]
    data[1][0][3, 2] = float("nan")
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        merge_with_data([mlp(0), mlp(1)], data, align=align)
