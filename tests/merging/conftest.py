"""Networks and checkpoints that the tests of merging share."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conjoin.checkpoints import Checkpoint, MemoryCheckpoint, Spec

# With --import-mode=importlib a test folder is not importable; `merged_states` lies here.
sys.path.insert(0, str(Path(__file__).parent))


class Net(nn.Module):
    """A little of everything: convolution, BatchNorm, a tied pair, constants, a cache."""

    def __init__(self, seed: int, steps: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.encoder = nn.Linear(3, 2, bias=False)
        self.decoder = nn.Linear(3, 2)
        self.decoder.weight = self.encoder.weight
        self.register_buffer("mask", torch.tensor([1.0, 0.0]))
        self.register_buffer("index", torch.tensor([3, 1, 2]))
        self.register_buffer("cache", torch.full((2,), float(seed)), persistent=False)
        for _ in range(steps):
            self.norm(self.conv(torch.randn(4, 1, 5, 5)))


class Spy(Checkpoint):
    """A checkpoint that notes what was read."""

    def __init__(self, inner: Checkpoint) -> None:
        self.inner = inner
        self.asked: list[tuple[str, int, int | None]] = []

    @property
    def specs(self) -> Mapping[str, Spec]:
        return self.inner.specs

    def __getitem__(self, name: str) -> Tensor:
        self.asked.append((name, 0, None))
        return self.inner[name]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        self.asked.append((name, start, stop))
        return self.inner.read(name, start, stop)


def _bits(tensor: Tensor) -> tuple[object, ...]:
    if tensor.is_meta:
        return tuple(tensor.shape), tensor.dtype, "meta"
    flat = tensor.detach().contiguous().reshape(-1)
    data = bytes(flat.view(torch.uint8).tolist()) if flat.numel() else b""
    return tuple(tensor.shape), tensor.dtype, data


@pytest.fixture
def net() -> Callable[..., Net]:
    """``net(seed, steps=0)``: a network that has seen `steps` batches."""
    return lambda seed, steps=0: Net(seed, steps)


@pytest.fixture
def spy() -> Callable[..., Spy]:
    return lambda tensors: Spy(
        tensors if isinstance(tensors, Checkpoint) else MemoryCheckpoint(tensors)
    )


@pytest.fixture(scope="session")
def bits() -> Callable[[Tensor], tuple[object, ...]]:
    """Everything about a tensor, comparable: NaNs equal themselves, and -0.0 differs from 0.0."""
    return _bits


@pytest.fixture(scope="session")
def all_bits() -> Callable[[Mapping[str, Tensor]], dict[str, tuple[object, ...]]]:
    return lambda tensors: {name: _bits(tensor) for name, tensor in tensors.items()}
