"""What nobody has trained stays as it is: buffers that scale or filter activations."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from conjoin import merge
from conjoin.fitting import merge_with_data


class Masked(nn.Module):
    """Hidden units times a fixed buffer, which looks like the weight of a norm."""

    def __init__(self, *, persistent=True):
        super().__init__()
        self.body, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        mask = (torch.arange(8) % 2).float()
        self.register_buffer("mask", mask, persistent=persistent)

    def forward(self, x):
        return self.head(self.body(x).relu() * self.mask)


class Scaled(Masked):
    """The same with a weight that is trained."""

    def __init__(self):
        super().__init__()
        mask = self.mask
        del self.mask
        self.mask = nn.Parameter(mask)


class Blurred(nn.Module):
    """A fixed filter, as for downsampling, before what is trained."""

    def __init__(self):
        super().__init__()
        self.register_buffer("blur", torch.tensor([[[0.25, 0.5, 0.25]]]))
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(F.conv1d(x[:, None], self.blur, padding=1)[:, 0])


CONSTANTS = {
    "mask": (Masked, "mask", ["body", "head"]),
    "unsaved": (lambda: Masked(persistent=False), "mask", ["body", "head"]),
    "blur": (Blurred, "blur", ["head"]),
}


def _networks(make):
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(make().eval())
    return found


def _data():
    return [[torch.randn(80, 5, generator=torch.Generator().manual_seed(n))] for n in (0, 1)]


@pytest.mark.parametrize("kind", CONSTANTS)
def test_a_buffer_is_kept(kind):
    make, name, layers = CONSTANTS[kind]
    nets = _networks(make)
    merged, report = merge_with_data(nets, _data(), align=None)
    assert [layer.name for layer in report.layers] == layers
    assert torch.equal(getattr(merged, name), getattr(nets[0], name))
    merge([nets[0], merged])  # which asks for equal constants
    tasks, _ = merge_with_data(nets, _data(), align=None, private=0.5, names=["p", "q"])
    for task in "pq":
        assert torch.equal(getattr(tasks.for_task(task), name), getattr(nets[0], name))


def test_a_parameter_is_fitted():
    nets = _networks(Scaled)
    _, report = merge_with_data(nets, _data(), align=None)
    assert [layer.name for layer in report.layers] == ["body", "mask", "head"]
