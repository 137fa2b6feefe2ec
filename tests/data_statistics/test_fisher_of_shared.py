"""Fisher information of modules and tensors with several names; the model stays as it was."""

import pytest
import torch
from statistics_networks import randomized
from torch import nn
from torch.nn import functional as F

import conjoin.data_statistics.fisher_sums as fisher_sums
from conjoin.data_statistics import collect_statistics


class SharedModule(nn.Module):
    """One layer under two names, called twice."""

    def __init__(self):
        super().__init__()
        self.first, self.shared = nn.Linear(3, 4), nn.Linear(4, 4)
        self.again = self.shared
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.again(self.shared(self.first(x).tanh()).tanh()).tanh())


class SharedTensor(SharedModule):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.again = nn.Linear(4, 4)
        self.again.weight = self.shared.weight


class KeepsOutputs(nn.Module):
    """Whose forward changes a buffer and keeps what it gave."""

    def __init__(self):
        super().__init__()
        self.head, self.seen = nn.Linear(3, 3), None
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.seen = self.head(x)
        return self.seen


def _rows(count):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(0))


def _by_hand(net, x, labels):
    total = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for row, label in zip(x, labels, strict=True):
        net.zero_grad()
        F.cross_entropy(net(row[None]), label[None]).backward()
        for name, p in net.named_parameters():
            total[name] += p.grad.square() / len(x)
    return total


@pytest.mark.parametrize("elements", [1, 1 << 26])
@pytest.mark.parametrize("kind", [SharedModule, SharedTensor])
def test_against_one_gradient_after_the_other(kind, elements, monkeypatch):
    monkeypatch.setattr(fisher_sums, "ELEMENTS", elements)
    net, x, labels = randomized(kind()), _rows(9), torch.arange(9) % 3
    found = collect_statistics(
        net, (x, labels), what=("fisher",), labels="given", batch_size=4
    )  # several batches: what the first leaves behind, the second would run on
    expected = _by_hand(net, x, labels)
    assert set(found) == {f"{name}:fisher" for name in expected}
    for name, one in expected.items():
        torch.testing.assert_close(found[f"{name}:fisher"], one.double(), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("kind", [SharedModule, SharedTensor, KeepsOutputs])
def test_the_model_is_not_touched(kind):
    net = kind().train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    state = dict(net.state_dict(keep_vars=True))
    values = {name: tensor.clone() for name, tensor in state.items()}
    collect_statistics(net, [_rows(6)], what=("fisher",))
    assert net.training
    for name, tensor in net.state_dict(keep_vars=True).items():
        assert tensor is state[name]
        assert torch.equal(tensor, values[name])
    assert getattr(net, "seen", None) is None
    net(_rows(6)).sum().backward()
    optimizer.step()
    assert not any(torch.equal(p, values[name]) for name, p in net.named_parameters())
