"""Test images with every answer, and first-layer filters."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from torch import nn

import conjoin


class Net(nn.Module):
    def __init__(self, channels, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        return self.out(50 * self.conv(x)[:, :, 1, 1])  # differs from image to image


def read(path):
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, file.metadata()


def given(channels, size=8):
    torch.manual_seed(5)
    parts = ("train", "validation", "test")
    return {part: (torch.randn(9, channels, size, size), torch.arange(9) % 3) for part in parts}


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_and_filters(tiny, channels):
    models = [Net(channels, 0), Net(channels, 1)]
    data = {"x": given(channels), "y": given(channels)}
    run = tiny.compare(models, data)
    tensors, metadata = read(run.folder / "samples.safetensors")
    described = json.loads(metadata["conjoin.samples"])
    assert described["tasks"] == ["x", "x", "y", "y"]
    assert described["rows"] == [row.key for row in run.info.rows]
    shape = (4, 8, 8) if channels == 1 else (4, 8, 8, 3)
    assert (tensors["images"].shape, tensors["images"].dtype) == (shape, torch.uint8)
    # The fifth and the last of nine.
    assert tensors["labels"].tolist() == [1, 2, 1, 2]
    images = torch.cat([data[task]["test"][0][[4, 8]] for task in data])
    mean = conjoin.merge(models)
    for row, network in (("models: a alone", models[0]), ("models: mean", mean)):
        with torch.no_grad():
            confidence, prediction = network(images).softmax(1).max(1)
        at = described["rows"].index(row)
        assert torch.equal(tensors["predictions"][at], prediction)
        assert torch.allclose(tensors["confidences"][at], confidence, atol=1e-6)
    filters, metadata = read(run.folder / "filters.safetensors")
    names = json.loads(metadata["conjoin.filters"])
    assert names[:2] == [{"model": "a", "group": "models"}, {"model": "b", "group": "models"}]
    at = names.index({"row": "models: mean", "group": "models"})
    assert torch.equal(filters[str(at)], mean.conv.weight)


def test_what_is_no_picture(tiny):
    data = given(1)
    run = tiny.compare([Net(1, 0), Net(1, 1)], data)
    assert (run.folder / "samples.safetensors").exists()
    run = tiny.compare([Net(1, 0), Net(1, 1)], data, settings=replace(tiny.settings, samples=0))
    assert not (run.folder / "samples.safetensors").exists()
    run = tiny.compare([Net(2, 0), Net(2, 1)], given(2))
    assert not (run.folder / "samples.safetensors").exists()
    assert not (run.folder / "filters.safetensors").exists()
    run = tiny.compare([Net(1, 0), Net(1, 1)], {"x": data, "y": given(1, size=9)})
    assert not (run.folder / "samples.safetensors").exists()


def test_equal_filters_are_written_once(tiny):
    run = tiny.compare([Net(1, 0), Net(1, 0)], {"x": given(1)})
    filters, metadata = read(run.folder / "filters.safetensors")
    names = json.loads(metadata["conjoin.filters"])
    assert {"model": "a", "group": "models"} in names
    assert {"model": "b", "group": "models"} not in names
    assert len(filters) == len(names) == len({str(found.tolist()) for found in filters.values()})
