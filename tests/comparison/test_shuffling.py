import pytest
import torch
from torch import nn

from conjoin.comparison.rows import SHUFFLED
from conjoin.comparison.shuffling import shuffled
from conjoin.errors import TraceError
from conjoin.experiments.digits.network import DigitNet, new_network
from conjoin.merging import merge


def _random_network() -> DigitNet:
    """A network in float64 whose every tensor is random, so that no order goes unnoticed."""
    net = new_network(0, width=1 / 16).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return net


@pytest.fixture(scope="module")
def pair():
    net = _random_network()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    other = shuffled(net, torch.rand(2, 1, 32, 32, dtype=torch.float64), 2)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])
    return net, other


def test_the_function_is_kept_and_the_weights_are_not(pair):
    net, other = pair
    x = torch.rand(3, 1, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(other(x), net(x), rtol=1e-10, atol=1e-10)
        averaged = merge([net, other])(x)
        assert (averaged - net(x)).norm() > 0.1 * net(x).norm()
    found = other.state_dict()
    moved = {name for name, old in net.state_dict().items() if not torch.equal(old, found[name])}
    # All but the order of the classes.
    fixed = {name for name in found if "num_batches" in name} | {"classifier.6.bias"}
    assert moved == set(found) - fixed


def test_each_layer_holds_the_same_values_in_another_order(pair):
    for one, two in zip(*(net.state_dict().values() for net in pair), strict=True):
        assert torch.equal(one.flatten().sort().values, two.flatten().sort().values)


def test_the_seed_decides_the_order():
    net, x = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3)), torch.rand(3, 4)
    one, again, other = (shuffled(net, x, seed)[0].weight for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x):
        return self.inner(x) if x.sum() > 0 else self.inner(-x)


class AlwaysRandom(Branching):
    def forward(self, x):
        return self.inner(nn.functional.dropout(x, 0.5))


CASES = {
    "no hidden units": (nn.Linear(4, 3), "nothing in Linear can be reordered"),
    "a branch": (Branching(), "cannot be traced"),
    "random": (AlwaysRandom(), "no order of its units can be proved.*switch off what is random"),
}


@pytest.mark.parametrize(("network", "message"), CASES.values(), ids=CASES)
def test_what_cannot_be_reordered_is_said(network, message):
    with pytest.raises(TraceError, match=message):
        shuffled(network, torch.rand(5, 4), 0)


@pytest.mark.parametrize(("network", "message"), CASES.values(), ids=CASES)
def test_a_comparison_goes_on_without_the_row(tiny, network, message):
    run = tiny.compare([network, network])
    assert SHUFFLED not in [row.name for row in run.info.rows]
    (reason,) = (left_out.reason for left_out in run.info.skipped if left_out.name == SHUFFLED)
    assert message.split(".*")[0] in reason


def test_what_a_trained_network_loses_is_lost_to_the_order(tiny, value_of):
    """Three bumps, which a narrow network needs its units at their places for."""
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    labels = (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2].abs() > 1).long()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    optimizer = torch.optim.AdamW(net.parameters(), 0.01)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), labels).backward()
        optimizer.step()
    run = tiny.compare([net, net], {"validation": (x, labels), "test": (x, labels)})
    assert value_of(run, "mean")["task"] > 95  # the mean of a network with itself
    assert value_of(run, SHUFFLED)["task"] < value_of(run, "mean")["task"] - 10
    assert not run.rows[f"models: {SHUFFLED}"].uses_task_label
