"""BatchNorm without weight or bias: what is fitted, what is put there, and what the report says."""

from itertools import cycle

import pytest
import torch
from torch import nn

import conjoin
from conjoin.fitting import merge_with_data


class Sum(nn.Module):
    """A BatchNorm behind a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.norm = nn.Linear(4, 6), nn.Linear(4, 6), nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.norm(self.one(x) + self.two(x)).relu())


def first():
    """A BatchNorm of the inputs."""
    return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def behind_relu():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 3))


def behind_layer():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def behind_transposed():
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.ConvTranspose2d(1, 4, 2), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Flatten(), nn.Linear(36, 3),
    )  # fmt: skip


ALONE = [Sum, first, behind_relu, behind_transposed]
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def data():
    generator = torch.Generator().manual_seed(0)
    normal = [torch.randn(200, 4, generator=generator) for _ in range(2)]
    return [2 * normal[0], 3 * normal[1] + 1]


def parents(make, without=()):
    """Two networks of which every BatchNorm has weight 1 and bias 0, or lacks them."""
    found = []
    for seed, x in enumerate(data()):
        torch.manual_seed(seed)
        net = make()
        for part in net.modules():
            if isinstance(part, NORMS):
                for name in without:
                    setattr(part, name, None)
        found.append(conjoin.reestimate_batchnorm(net, [x]).eval())
    return found


def norm_of(net):
    return next(part for part in net.modules() if isinstance(part, NORMS))


def merged(make, without=(), **options):
    return merge_with_data(parents(make, without), [[x] for x in data()], align=None, **options)


@pytest.mark.parametrize("without", [["weight", "bias"], ["weight"], ["bias"]])
@pytest.mark.parametrize(
    ("make", "weights"),
    [*((make, None) for make in ALONE), (behind_layer, None), (behind_relu, [3, 1])],
)
def test_the_function_is_that_of_weight_1_and_bias_0(make, without, weights):
    bare, report = merged(make, without, weights=weights)
    whole, known = merged(make, weights=weights)
    x = torch.cat(data())
    torch.testing.assert_close(bare(x), whole(x), rtol=1e-4, atol=1e-4)
    for one, other in zip(report.layers, known.layers, strict=True):
        assert one.left == other.left
        assert one.after == pytest.approx(other.after, rel=1e-4)


@pytest.mark.parametrize("make", ALONE)
def test_the_distance_in_the_report_is_what_is_measured(make):
    nets = parents(make, ["weight", "bias"])
    one, report = merged(make, ["weight", "bias"])
    distance = variance = 0.0
    for net, x in zip(nets, data(), strict=True):
        given, wanted = (at_norm(part, x[4::5])[1] for part in (one, net))  # one in five held out
        if make in (Sum, behind_transposed):  # a ReLU follows
            given, wanted = given.relu(), wanted.relu()
        distance += (given - wanted).square().mean().item()
        variance += wanted.var(0, correction=0).mean().item()
    name = {Sum: "norm", first: "0", behind_relu: "2", behind_transposed: "2"}[make]
    found = next(layer.after for layer in report.layers if layer.name == name)
    assert found == pytest.approx(distance / variance, rel=1e-3)


def at_norm(net, x):
    """Rows of what a network's BatchNorm reads and gives."""
    seen = []
    hook = norm_of(net).register_forward_hook(lambda _, given, made: seen.extend([*given, made]))
    with torch.no_grad():
        net(x)
    hook.remove()
    return [one.movedim(1, -1).flatten(0, -2) for one in seen]


def statistics_of_input(net, inputs):
    """Mean and variance of what a network's BatchNorm reads, each part with an equal share."""
    rows = [at_norm(net, x[torch.arange(len(x)) % 5 != 4])[0] for x in inputs]
    mean = sum(one.mean(0) for one in rows) / len(rows)
    return mean, sum((one - mean).square().mean(0) for one in rows) / len(rows)


@pytest.mark.parametrize("without", [["weight", "bias"], ["bias"]])
@pytest.mark.parametrize("make", [*ALONE, behind_layer])
def test_where_the_fit_is_worse_it_has_the_statistics_of_what_it_reads(make, without, monkeypatch):
    errors = cycle([1.0, 2.0])  # of the mean of the weights, and of the fit
    monkeypatch.setattr("conjoin.fitting.least_squares._error", lambda *_: next(errors))
    one, report = merged(make, without)
    assert {layer.left for layer in report.layers} == {"the fit is worse on held-out data"}
    assert not any(layer.note for layer in report.layers)
    norm = norm_of(one)
    for wanted, found in zip(
        statistics_of_input(one, data()), (norm.running_mean, norm.running_var), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def turned(factor):
    """What it gives, multiplied by a factor, and a BatchNorm that takes that out but for its sign.

    Transposed convolutions are not fitted: that of the merged network has the mean factor.
    """
    net = nn.Sequential(
        nn.ConvTranspose2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, affine=False), nn.Flatten(),
        nn.Linear(4, 2),
    )  # fmt: skip
    with torch.no_grad():
        net[0].weight.fill_(factor)
    return net


def test_scales_that_no_variance_gives_leave_the_layer_out():
    inputs = [x.reshape(-1, 1, 2, 2) for x in data()]
    nets = [
        conjoin.reestimate_batchnorm(turned(factor), [x]).eval()
        for factor, x in zip((30.0, -1.0), inputs, strict=True)
    ]
    # The mean factor is .1 * 30 - .9 > 0, and nine tenths of the targets are -x.
    one, report = merge_with_data(
        nets, [[x] for x in inputs], align=None, weights=[1, 9], ridge=0.001
    )
    layer = report.layers[0]
    assert layer.name == "1"
    assert layer.left == "its BatchNorm has no weight, and no variance gives the scales of the fit"
    assert layer.after == layer.before
    assert f"left: {layer.left}" in str(report)
    read = [one[0](x[torch.arange(len(x)) % 5 != 4]) for x in inputs]
    mean = 0.1 * read[0].mean() + 0.9 * read[1].mean()
    variance = sum(w * (x - mean).square().mean() for w, x in zip((0.1, 0.9), read, strict=True))
    torch.testing.assert_close(one[1].running_mean, mean[None], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one[1].running_var, variance[None], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [behind_layer, Sum])
@pytest.mark.parametrize(
    ("without", "what"),
    [(["weight", "bias"], "weight and bias"), (["weight"], "weight"), (["bias"], "bias"), ([], "")],
)
def test_the_report_says_where_statistics_hold_the_fit(make, without, what):
    one, report = merged(make, without)
    notes = {layer.name: layer.note for layer in report.layers if layer.note}
    name = {behind_layer: "0", Sum: "norm"}[make]
    assert list(notes) == ([name] if what else [])
    assert [part["note"] for part in report.to_json()["layers"] if part["note"]] == [
        *notes.values()
    ]
    again = conjoin.reestimate_batchnorm(one, *[[x] for x in data()])
    x = torch.cat(data())
    change = (again(x) - one(x)).square().mean() / one(x).var()
    if what:
        assert f"{name}: its BatchNorm has no {what}, so that its statistics hold" in str(report)
        assert change > 0.01
    else:
        assert "statistics hold the fit" not in str(report)
        assert change < 0.01


@pytest.mark.parametrize("make", [Sum, behind_layer])
def test_private_layers_have_statistics_of_their_own(make):
    nets = parents(make, ["weight", "bias"])
    both, report = merged(make, ["weight", "bias"], private=["*"], ridge=1e-9, rounds=0)
    assert any(layer.note for layer in report.layers)
    for task, net, x in zip("01", nets, data(), strict=True):
        torch.testing.assert_close(both(x, task=task), net(x), rtol=1e-3, atol=1e-3)
