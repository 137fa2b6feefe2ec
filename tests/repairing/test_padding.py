"""PyTorch's own encoder with a padding mask, whose fast path makes zeros of padded places."""

import pytest
import torch
from torch import nn

import conjoin

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")


class Tagger(nn.Module):
    """Gives outputs for each word, those of padding too; word 0 is padding."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(11, 8, padding_idx=0)
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 1), nn.Linear(8, 4)

    def forward(self, words):
        return self.head(self.encoder(self.words(words), src_key_padding_mask=words == 0))


def test_it_is_repaired():
    torch.manual_seed(0)
    parents = [Tagger().eval(), Tagger().eval()]
    texts = torch.randint(1, 11, (20, 6))
    texts[:10, 4:] = 0
    before = torch.backends.mha.get_fastpath_enabled()
    _, report = conjoin.repair(conjoin.merge(parents), parents, [[texts]], method="bias")
    assert report.layers
    assert torch.backends.mha.get_fastpath_enabled() is before
