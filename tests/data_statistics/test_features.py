"""rows @ matrix.T + bias is what the layer gives."""

import pytest
import torch
from statistics_networks import NETWORKS, randomized
from torch import nn

import conjoin.data_statistics.features as features
from conjoin.data_statistics import (
    Execution,
    Program,
    layers_of,
    matrix_of_weight,
    rows_of_inputs,
    rows_of_outputs,
    weight_of_matrix,
)
from conjoin.symmetry.tracing import trace

CONVOLUTIONS = {
    "1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (9,)),
    "1d same, even": (nn.Conv1d(4, 6, 4, padding="same"), (9,)),
    "1d dilated groups": (nn.Conv1d(4, 6, 2, dilation=3, groups=2), (9,)),
    "2d": (nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(2, 0)), (7, 8)),
    "2d dilated groups": (nn.Conv2d(4, 8, 3, dilation=(2, 1), groups=4, padding=2), (7, 8)),
    "2d valid, no bias": (nn.Conv2d(4, 6, 3, padding="valid", bias=False), (7, 8)),
    "2d circular": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (7, 8)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4, padding="same", dilation=(1, 2)), (7, 8)),
    "3d": (nn.Conv3d(4, 6, (2, 3, 1), stride=(1, 2, 1), padding=(1, 0, 2)), (4, 5, 3)),
    "3d dilated groups": (nn.Conv3d(4, 6, 2, dilation=(1, 2, 3), groups=2, padding=1), (4, 5, 6)),
}


def _check(net, program, inputs):
    state, layers = net.state_dict(), layers_of(program.trace)
    for layer in layers:
        if layer.kind == "scale":
            continue
        execution = Execution(program, state, inputs)
        source = execution.value(layer.source)
        weight = state[layer.weight]
        parts = list(rows_of_inputs(layer, source, weight.shape))
        outputs = execution.value(layer.node)
        matrix = matrix_of_weight(layer, weight)
        bias = 0 if layer.bias is None else state[layer.bias].reshape(layer.groups, 1, -1)
        for examples, rows in parts:
            expected = rows_of_outputs(layer, outputs[examples])
            torch.testing.assert_close(rows @ matrix.mT + bias, expected, rtol=1e-4, atol=1e-4)
        assert sum(rows.shape[1] for _, rows in parts) == rows_of_outputs(layer, outputs).shape[1]
        assert torch.equal(weight_of_matrix(layer, matrix, weight.shape), weight)
    return layers


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@torch.no_grad()
@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("elements", [1, 1 << 24])
def test_convolutions(name, elements, monkeypatch):
    monkeypatch.setattr(features, "ELEMENTS", elements)  # so that examples come in parts, too
    layer, size = CONVOLUTIONS[name]
    net = randomized(nn.Sequential(layer))
    x = torch.randn(5, 4, *size, generator=torch.Generator().manual_seed(0))
    assert len(_check(net, Program(trace(net, x[:2])), x)) == 1


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_whole_networks(name, traced):
    net, program, batch = traced(name)
    assert _check(net, program, batch(3))


def test_a_few_examples_at_a_time(monkeypatch):
    net = nn.Sequential(nn.Conv1d(2, 3, 3))
    (layer,) = layers_of(trace(net, torch.zeros(2, 2, 7)))
    monkeypatch.setattr(features, "ELEMENTS", 2 * 5 * 6)  # of two examples: 5 places, 6 features
    found = [
        (examples, tuple(rows.shape))
        for examples, rows in rows_of_inputs(layer, torch.rand(5, 2, 7), net[0].weight.shape)
    ]
    expected = [(slice(0, 2), (1, 10, 6)), (slice(2, 4), (1, 10, 6)), (slice(4, 5), (1, 5, 6))]
    assert found == expected
