"""A user's project outside of conjoin: code of networks, data, checkpoints."""

import importlib.util
import sys

import torch

NET = """
import torch
from torch import nn
from torch.nn import functional as F

from blocks import Block


class SmallResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6))
        self.blocks = nn.Sequential(Block(6, 6, 1), Block(6, 12, 2))
        self.head = nn.Linear(12, 10)

    def forward(self, x):
        return self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


def sized(width):
    return SmallResNet()


def nothing():
    return None
"""

BLOCKS = """
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)])
        self.skip = nn.Identity()
        if stride > 1:
            self.skip = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        y = F.relu(self.norms[0](self.first(x)))
        return F.relu(self.norms[1](self.second(y)) + self.skip(x))
"""

DATA = '''
import time

import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split


class Shifted(Dataset):
    """Augmented: drawn anew each time."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        x, y = self.data[index]
        return x.roll(int(torch.randint(-1, 2, ())), 2), y


def images(sign, count=500):
    digits = load_digits()
    x = torch.tensor(digits.images[:count, None] / 8 - 1, dtype=torch.float32)
    return TensorDataset(sign * x, torch.tensor(digits.target[:count]))


def parts(sign, workers=0):
    train, validation, test = random_split(images(sign), [0.6, 0.2, 0.2])
    return {
        "train": DataLoader(Shifted(train), batch_size=50, shuffle=True, num_workers=workers),
        "validation": DataLoader(validation, batch_size=64),
        "test": DataLoader(test, batch_size=64),
    }


def loaders():
    return {"digits": parts(1), "inverted": parts(-1)}


def in_workers():
    return parts(1, workers=1)


def few():
    x, y = images(1, 40).tensors
    return {part: (x, y) for part in ("train", "validation", "test")}


class Slow:
    def __iter__(self):
        time.sleep(0.2)
        return iter([few()["test"]])


def slow():
    return {**few(), "validation": Slow()}


def no_validation():
    return {"train": few()["train"], "test": few()["test"]}


def misspelled():
    return {**no_validation(), "val": few()["test"]}


def channels():
    x, y = few()["test"]
    return {part: (x.expand(-1, 3, -1, -1), y) for part in ("train", "validation", "test")}


def beyond():
    x, y = few()["test"]
    return {**few(), "test": (x, y + 1)}


def as_dicts():
    x, y = few()["test"]
    return {**few(), "test": [{"image": x, "label": y}]}


def raising():
    raise RuntimeError("my own mistake")


class Missing(Dataset):
    def __len__(self):
        return 30

    def __getitem__(self, index):
        if index == 20:
            raise FileNotFoundError("image 20 is gone")
        return torch.zeros(1, 8, 8), 0


def gone():
    return {**few(), "test": DataLoader(Missing(), batch_size=8)}


def none():
    return None


not_a_function = 3
'''


def _trained(net, x, y, seed):
    torch.manual_seed(seed)
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(8):
        for at in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[at]), y[at]).backward()
            optimizer.step()
    return model.eval()


def write_project(folder):
    """Two small residual networks, one trained on digits and one on inverted digits."""
    package = folder / "mynets"
    package.mkdir()
    for place, block in ((folder, "blocks"), (package, ".blocks")):
        (place / "net.py").write_text(NET.replace("from blocks", f"from {block}"))
        (place / "blocks.py").write_text(BLOCKS)
        (place / "data.py").write_text(DATA)
    (package / "__init__.py").write_text("")
    (folder / "broken.py").write_text("def loaders(:\n    pass\n")
    spec = importlib.util.spec_from_file_location(
        "mynets_for_training", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with torch.random.fork_rng():
        net = importlib.import_module("mynets_for_training.net").SmallResNet
        data = importlib.import_module("mynets_for_training.data")
        for name, sign, seed in (("a", 1, 0), ("b", -1, 1)):
            x, y = data.images(sign).tensors
            torch.save(_trained(net, x[:300], y[:300], seed).state_dict(), folder / f"{name}.pth")
    for name in [name for name in sys.modules if name.startswith("mynets_for_training")]:
        del sys.modules[name]
