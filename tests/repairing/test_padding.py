"""PyTorch's own encoder with a padding mask, whose fast path makes zeros of padded places."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "symmetry"))  # where the network lies

from padded_text import Text

import conjoin

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")


def test_it_is_repaired():
    torch.manual_seed(0)
    parents = [Text(of_words=True).eval(), Text(of_words=True).eval()]
    texts = torch.randint(1, 11, (20, 6))
    texts[:10, 4:] = 0
    before = torch.backends.mha.get_fastpath_enabled()
    _, report = conjoin.repair(conjoin.merge(parents), parents, [[texts]], method="bias")
    assert report.layers
    assert torch.backends.mha.get_fastpath_enabled() is before
