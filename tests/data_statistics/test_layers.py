"""Layers are found where a weight meets activations, and nowhere else."""

import pytest
import torch
from statistics_networks import NETWORKS, images
from torch import nn

from conjoin.data_statistics import layers_of
from conjoin.symmetry.tracing import trace


def _by_name(found):
    return {layer.name: layer for layer in layers_of(found)}


def _layers(net, inputs):
    return _by_name(trace(net, inputs))


def _kinds(net, inputs):
    return {name: layer.kind for name, layer in _layers(net, inputs).items()}


def test_a_vgg_and_its_batchnorms(traced):
    found = _by_name(traced("vgg")[1].trace)
    assert list(found) == ["0", "4", "8", "11"]  # in the order of execution
    assert [layer.kind for layer in found.values()] == [*["convolution"] * 2, *["linear"] * 2]
    norms = [layer.norm and layer.norm.mean for layer in found.values()]
    assert norms == ["1.running_mean", "5.running_mean", "9.running_mean", None]
    first = found["0"]
    assert (first.norm.weight, first.norm.bias, first.norm.eps) == ("1.weight", "1.bias", 1e-5)
    assert (first.weight, first.bias, first.axis) == ("0.weight", None, 1)
    assert found["8"].bias == "8.bias"
    assert found["11"].end is found["11"].node


def test_a_batchnorm_before_a_layer_is_one_of_its_own(traced):
    found = _by_name(traced("concatenating")[1].trace)
    norm = found["features.denseblock1.denselayer1.norm1"]
    assert (norm.kind, norm.axis) == ("scale", 1)
    assert norm.norm.variance == "features.denseblock1.denselayer1.norm1.running_var"
    assert found["features.conv0"].norm.mean == "features.norm0.running_mean"


def test_every_matrix_of_a_transformer_is_found_once(traced):
    found = _by_name(traced("attention")[1].trace)
    assert {name: layer.kind for name, layer in found.items()} == {
        "attention.in_proj_weight": "linear",
        "attention.out_proj": "linear",
    }
    net, program, _ = traced("llama")
    found = {name: layer.kind for name, layer in _by_name(program.trace).items()}
    expected = {n.removesuffix(".weight") for n, p in net.named_parameters() if "embed" not in n}
    assert set(found) == expected
    assert found["model.norm"] == found["model.layers.0.input_layernorm"] == "scale"


def test_gpt2_has_transposed_weights_and_a_tied_head_that_is_no_layer(traced):
    found = _by_name(traced("gpt2")[1].trace)
    assert found["transformer.h.0.mlp.c_fc"].transposed
    assert found["transformer.h.0.mlp.c_fc"].bias == "transformer.h.0.mlp.c_fc.bias"
    assert "lm_head" not in found


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.twice, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.once, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
        self.other.bias = self.once.bias

    def forward(self, x):
        x = self.norm(self.twice(self.twice(x)))
        return self.other(x.relu()) + self.once(x)


def test_shared_weights_are_no_layer_nor_are_shared_biases():
    assert _kinds(Shared().eval(), torch.zeros(2, 4)) == {"norm": "scale"}


class OneNorm(nn.Module):
    """Two layers with one BatchNorm."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(self.two(self.norm(self.one(x)).relu()))


def test_a_shared_batchnorm_belongs_to_no_layer():
    found = _layers(OneNorm().eval(), torch.zeros(2, 4))
    assert {name: layer.norm for name, layer in found.items()} == {"one": None, "two": None}
    assert all(layer.end is layer.node for layer in found.values())


class Read(nn.Module):
    """A layer that the BatchNorm is not the only one to read."""

    def __init__(self):
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.one(x)
        return x + self.norm(x)


def test_a_batchnorm_that_others_read_beside_is_one_of_its_own():
    found = _layers(Read().eval(), images(2))
    assert found["one"].norm is None
    assert found["norm"].kind == "scale"
    assert found["norm"].norm is not None


def test_a_batchnorm_over_places_is_one_of_its_own():
    # [B, 4, 6]: channels are axis 1, and the outputs of the layer are axis 2.
    net = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(4)).eval()
    found = _layers(net, torch.zeros(2, 4, 5))
    assert found["0"].norm is None
    assert found["1"].kind == "scale"


class Odd(nn.Module):
    """What looks like a layer."""

    def __init__(self):
        super().__init__()
        self.stack = nn.Parameter(torch.randn(3, 4, 5))
        self.square = nn.Parameter(torch.randn(4, 4))
        self.stretched = nn.Parameter(torch.ones(5))
        self.up = nn.ConvTranspose1d(3, 3, 2)

    def forward(self, x):  # [B, 3, 4]
        x = self.up(x)[..., :4] @ self.stack  # [3, 3, 5]
        x = x[..., :1] * self.stretched
        return x, (self.square * 2) @ self.square


def test_what_is_no_layer():
    with pytest.raises(ValueError, match="batch"):
        trace(Odd(), torch.zeros(3))
    assert _layers(Odd(), torch.zeros(3, 3, 4)) == {}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_of_a_matrix_or_kernel_is_of_a_layer(name, traced):
    net, program, _ = traced(name)
    weights = {n for n, p in net.named_parameters() if p.dim() > 1}
    found = {layer.weight for layer in layers_of(program.trace)}
    embeddings = {n for n in weights if any(part in n for part in ("embed", "wte", "wpe"))}
    assert weights - found == embeddings
