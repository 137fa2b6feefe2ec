"""Where models and data are."""

import pytest
import torch
from torch import nn

from conjoin import merge_with_data
from conjoin.errors import MismatchError
from conjoin.fitting.prepared import one_device

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def _net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def _data():
    generator = torch.Generator().manual_seed(0)
    return [[torch.randn(40, 4, generator=generator)] for _ in range(2)]


@on_gpu
@pytest.mark.parametrize("method", ["least_squares", "regmean", "fisher"])
def test_a_gpu_gives_what_a_cpu_gives(method):
    expected, _ = merge_with_data([_net(0), _net(1)], _data(), method)
    one, two = _data()
    found, _ = merge_with_data([_net(0).cuda(), _net(1).cuda()], [one, [two[0].cuda()]], method)
    assert found[0].weight.is_cuda
    x = _data()[0][0]
    # Fisher labels are drawn, and a draw at an edge may fall on either side.
    tolerance = 0.1 if method == "fisher" else 1e-3
    torch.testing.assert_close(found(x.cuda()).cpu(), expected(x), atol=tolerance, rtol=tolerance)


@on_gpu
def test_models_on_two_devices_are_refused():
    with pytest.raises(MismatchError, match=r"cpu, and model 1 on cuda:0.*model.to"):
        merge_with_data([_net(0), _net(1).cuda()], _data())


def test_what_is_said_of_models_on_two_devices():
    with pytest.raises(MismatchError, match=r"cpu, and model 1 on meta.*model.to"):
        one_device([_net(0), _net(1).to("meta")])
    assert one_device([_net(0), nn.ReLU()]) == torch.device("cpu")  # one has no tensors
