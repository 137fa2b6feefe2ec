import torch
from torch import nn

from conjoin.experiments.digits.network import DigitNet, new_network
from conjoin.experiments.digits.shuffling import shuffled
from conjoin.merging import merge


def _random_network() -> DigitNet:
    """A network in float64 whose every tensor is random, so that no order goes unnoticed."""
    net = new_network(0, width=1 / 16).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return net


def test_the_function_is_kept_and_the_weights_are_not():
    net = _random_network()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    other = shuffled(net, torch.Generator().manual_seed(2))
    x = torch.rand(3, 1, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(other(x), net(x), rtol=1e-10, atol=1e-10)
        averaged = merge([net, other])(x)
        assert (averaged - net(x)).norm() > 0.1 * net(x).norm()
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])
    moved = [
        name for name, tensor in other.state_dict().items() if not torch.equal(tensor, before[name])
    ]
    fixed = {name for name in before if "num_batches" in name} | {"classifier.6.bias"}
    assert set(moved) == set(before) - fixed


def test_each_layer_holds_the_same_values_in_another_order():
    net = _random_network()
    other = shuffled(net, torch.Generator().manual_seed(2))
    for one, two in zip(net.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one.flatten().sort().values, two.flatten().sort().values)
