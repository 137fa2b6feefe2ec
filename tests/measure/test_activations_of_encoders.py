"""Activations of PyTorch's own encoder, whose fast path for eval mode no hook can watch."""

import copy

import pytest
import torch
from torch import nn

from conjoin.measure.activations import activation_statistics

# PyTorch says so of its own encoder, once.
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")


class Text(nn.Module):
    """The encoder as it comes; word 0 is padding."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(11, 8, padding_idx=0)
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 1), nn.Linear(8, 4)

    def forward(self, words):
        padding = words == 0
        found = self.encoder(self.words(words), src_key_padding_mask=padding)
        return self.head(found.masked_fill(padding[..., None], 0).sum(1))


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
