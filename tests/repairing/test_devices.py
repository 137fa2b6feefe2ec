"""Data of several devices are one mixture."""

import itertools

import pytest
import torch
from torch import nn

from conjoin import reestimate_batchnorm

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
PLACES = list(itertools.product(["cpu", "cuda"], repeat=3))


@on_gpu
@pytest.mark.parametrize("places", PLACES, ids=str)
def test_statistics_of_data_on_any_device(places):
    model, *where = places
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    data = [torch.randn(6, 3), 1 + torch.randn(6, 3)]
    expected = reestimate_batchnorm(net, [torch.cat(data)])[1]
    found = reestimate_batchnorm(
        net.to(model), *([x.to(device)] for x, device in zip(data, where, strict=True))
    )[1]
    assert found.running_mean.device.type == model
    torch.testing.assert_close(found.running_mean.cpu(), expected.running_mean)
    torch.testing.assert_close(found.running_var.cpu(), expected.running_var)
