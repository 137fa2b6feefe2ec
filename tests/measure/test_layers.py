"""Layers of all kinds of modules: by hand, and always a partition of the state."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from conjoin.errors import InputError
from conjoin.measure.layers import Layer, group_layers, layers_of


class Block(nn.Module):
    """A residual block whose skip connection has weights."""

    def __init__(self, width, out):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, out, 3, padding=1), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, padding=1), nn.BatchNorm2d(out)
        self.skip = nn.Sequential(nn.Conv2d(width, out, 1), nn.BatchNorm2d(out))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.norm = nn.LayerNorm(3)
        self.hidden = nn.Linear(3, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embed.weight


class Root(nn.Module):
    """Parameters and buffers of the root itself, and names with brackets."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.positions = nn.Parameter(torch.ones(1, 4, 3))
        self.register_buffer("mask", torch.zeros(4, 4))
        self.parts = nn.ModuleDict({"fc[0]": nn.Linear(3, 3), "fc*": nn.Linear(3, 3)})
        self.temperature = nn.Module()
        self.temperature.value = nn.Parameter(torch.zeros(2))
        self.temperature.register_buffer("table", torch.zeros(2, 2))


class TiedFirst(nn.Module):
    """The second name of a tie comes before what would be its layer; the norm is shared too."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.a = nn.Linear(3, 3, bias=False)
        self.b = nn.Sequential(nn.Linear(3, 3), self.norm, self.a)


MODULES = {
    "residual": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), Block(2, 2), Block(2, 4), nn.Flatten()),
    "tied": Tied,
    "tied modules": TiedFirst,
    "root": Root,
    "no parameters": nn.ReLU,
    "vectors only": lambda: nn.Sequential(nn.BatchNorm1d(2), nn.LayerNorm(2)),
    "BatchNorm first": lambda: nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 2, 3)),
    "linear": lambda: nn.Linear(2, 3),
    "lstm": lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True),
    "attention": lambda: nn.MultiheadAttention(4, 2),
    "other attention": lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=2, add_bias_kv=True),
    "transformer": lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
    "weight norm": lambda: nn.Sequential(
        parametrizations.weight_norm(nn.Linear(2, 3)), nn.PReLU(), nn.Linear(3, 2)
    ),
}


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
@pytest.mark.parametrize("count", [1, 2, 3, 12])
def test_layers_are_a_partition_of_the_state(make, count):
    module = make()
    layers = layers_of(module)
    for parts in (layers, group_layers(layers, count)):
        named = [name for part in parts for name in part.tensors]
        assert sorted(named) == sorted(module.state_dict())
        assert len({part.name for part in parts}) == len(parts)
        assert all(part.name and part.tensors for part in parts)
        where = {name: part.name for part in parts for name in part.tensors}
        for name, tensor in module.state_dict().items():
            for other, partner in module.state_dict().items():
                if tensor.data_ptr() == partner.data_ptr() and tensor.numel():
                    assert where[name] == where[other]
    assert len(group_layers(layers, count)) == min(count, len(layers))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (
            "residual",
            ["0", *(f"{b}.{part}" for b in (1, 2) for part in ("conv1", "conv2", "skip.0"))],
        ),
        ("tied", ["embed", "hidden"]),
        ("tied modules", ["a", "b.0"]),
        ("root", ["positions", "parts.fc[0]", "parts.fc*"]),
        ("no parameters", []),
        ("vectors only", ["0"]),
        ("BatchNorm first", ["1"]),
        ("linear", ["weight"]),
        ("lstm", ["weight_ih_l0"]),
        ("attention", ["in_proj_weight", "out_proj"]),
        ("other attention", ["q_proj_weight", "out_proj"]),
        ("transformer", ["self_attn", "self_attn.out_proj", "linear1", "linear2"]),
        ("weight norm", ["0", "2"]),
    ],
)
def test_layers_by_hand(kind, expected):
    assert [layer.name for layer in layers_of(MODULES[kind]())] == expected


def test_where_vectors_and_ties_belong():
    tied = {layer.name: layer.tensors for layer in layers_of(Tied())}
    assert tied["embed"] == ("embed.weight", "head.weight", "norm.weight", "norm.bias")
    assert tied["hidden"] == ("hidden.weight", "hidden.bias", "head.bias")
    (only,) = layers_of(MODULES["BatchNorm first"]())
    assert only.tensors[0] == "0.weight"
    assert only.tensors[-1] == "1.bias"
    root = {layer.name: layer.tensors for layer in layers_of(Root())}
    assert root["positions"] == ("scale", "positions", "mask")
    assert root["parts.fc*"][2:] == ("temperature.value", "temperature.table")
    normed = {layer.name: layer.tensors for layer in layers_of(MODULES["weight norm"]())}
    assert normed["0"][0] == "0.bias"
    assert normed["0"][-1] == "1.weight"
    blocks = {layer.name: layer.tensors for layer in layers_of(MODULES["residual"]())}
    assert "1.bn2.running_var" in blocks["1.conv2"]


@given(st.integers(0, 40), st.integers(1, 45))
def test_groups_are_neighbours_of_nearly_equal_numbers(count, most):
    layers = [Layer(f"m{i}", (f"m{i}.weight", f"m{i}.bias")) for i in range(count)]
    groups = group_layers(layers, most)
    sizes = [len(group.tensors) // 2 for group in groups]
    assert len(groups) == min(count, most)
    assert not sizes or max(sizes) - min(sizes) <= 1
    assert [n for group in groups for n in group.tensors] == [n for x in layers for n in x.tensors]
    start = 0
    for group, size in zip(groups, sizes, strict=True):
        first, last = f"m{start}", f"m{start + size - 1}"
        assert group.name == (first if size == 1 else f"{first} ... {last}")
        start += size


def test_groups_need_a_number():
    with pytest.raises(InputError, match="1 group or more, not 0"):
        group_layers([], 0)
