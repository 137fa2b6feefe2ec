import pytest
import torch

from conjoin.errors import InputError
from conjoin.experiments.digits.network import BLOCKS, DigitNet, new_network


def test_full_width_is_the_threads_network():
    net = DigitNet()
    convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [64, 64, 128, 128, *[256] * 3, *[512] * 3]
    linear = [m for m in net.modules() if isinstance(m, torch.nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [
        (2048, 4096),
        (4096, 4096),
        (4096, 10),
    ]
    assert [m.p for m in net.modules() if isinstance(m, torch.nn.Dropout)] == [0.25, 0.25]
    assert sum(m.num_features for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)) == sum(
        channels * depth for channels, depth in BLOCKS
    )


@pytest.mark.parametrize("width", [1 / 16, 1 / 8, 1 / 4])
def test_width_scales_every_layer(width):
    net = DigitNet(width, classes=7)
    assert net(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
    assert net.features(torch.zeros(2, 1, 32, 32)).shape == (2, 2048 * width)


def test_the_seed_alone_decides_the_start():
    torch.manual_seed(1)
    first = new_network(5, width=1 / 16).state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = new_network(5, width=1 / 16).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = new_network(6, width=1 / 16).state_dict()
    assert not torch.equal(first["block_1.0.weight"], other["block_1.0.weight"])


def test_a_width_without_channels_is_refused():
    with pytest.raises(InputError, match="width"):
        DigitNet(1 / 128)
