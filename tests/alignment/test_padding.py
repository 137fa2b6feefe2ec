"""PyTorch's own encoder with a padding mask, of which the fast path gives nested tensors."""

import sys
from pathlib import Path

import pytest
import torch
from alignment_networks import new

sys.path.insert(0, str(Path(__file__).parents[1] / "symmetry"))  # where the network lies

from padded_text import Text

from conjoin.alignment import align
from conjoin.errors import NonFiniteError
from conjoin.symmetry import find_symmetries

# PyTorch says so of its own encoder, once.
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")


def _data():
    words = torch.randint(1, 11, (40, 6), generator=torch.Generator().manual_seed(0))
    words[::2, 4:] = 0
    return words


@pytest.mark.parametrize("method", ["activations", "learned"])
def test_a_shuffled_encoder_is_put_back(method):
    net, x = new(Text, 0), _data()
    found = find_symmetries(net, x[:2])
    shuffled = found.sample(torch.Generator().manual_seed(1)).apply(net)
    result = align(shuffled, to=net, symmetries=found, method=method, data=list(x.split(10)))
    back = result.apply(shuffled)
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], tensor, msg=name)
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_fast_path_is_put_back_after_an_error():
    net, x = new(Text, 0), _data()
    found = find_symmetries(net, x[:2])
    other = new(Text, 1)
    with torch.no_grad():
        other.words.weight[3] = float("nan")
    for before in (True, False):
        torch.backends.mha.set_fastpath_enabled(before)
        try:
            with pytest.raises(NonFiniteError):
                align(other, to=net, symmetries=found, method="activations", data=[x])
            assert torch.backends.mha.get_fastpath_enabled() is before
        finally:
            torch.backends.mha.set_fastpath_enabled(True)
