"""Activations of PyTorch's own encoder, whose fast path for eval mode no hook can watch."""

import copy
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "symmetry"))  # where the network lies

from padded_text import Text

from conjoin.measure.activations import activation_statistics

# PyTorch says so of its own encoder, once.
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")


@pytest.mark.parametrize("padding", [0, 2])
def test_every_layer_of_an_encoder_is_seen(padding):
    torch.manual_seed(0)
    words = torch.randint(1, 11, (40, 6))
    words[::2, 6 - padding :] = 0
    net = Text().eval()
    wider = copy.deepcopy(net)
    with torch.no_grad():
        for tensor in wider.encoder.layers[0].linear1.parameters():
            tensor *= 3
    records = activation_statistics({"a": net, "b": copy.deepcopy(net)}, wider, [words], task="t")
    found = {r.how["layer"]: r.value for r in records if r.metric == "activation variance"}
    layer = "encoder.layers.0"
    assert found[f"{layer}.linear1"] == pytest.approx(9, rel=1e-4)
    assert found["words"] == pytest.approx(1)
    assert {f"{layer}.self_attn", f"{layer}.linear2", "head"} <= set(found)
    assert torch.backends.mha.get_fastpath_enabled()
