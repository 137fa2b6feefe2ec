"""Tiny networks and data; a user's project that lies outside of conjoin."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import conjoin
from conjoin.comparison import Settings

SMALL = Settings(
    statistics=30, curve_examples=20, points=3, resolution=3, layers=2, labels=(0, 6),
    transfer_steps=2, samples=2,
)  # fmt: skip


def network(seed, *, norm=True, width=8, outputs=3):
    """A network whose statistics are no longer those of a new one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        middle = [nn.BatchNorm1d(width)] if norm else []
        net = nn.Sequential(nn.Linear(4, width), *middle, nn.ReLU(), nn.Linear(width, outputs))
        with torch.no_grad():
            for _ in range(20):
                net(torch.randn(20, 4))
    return net.eval()


def examples(count, seed, *, classes=3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator)
    return x, torch.arange(count) % classes


def parts(seed=0, **sizes):
    counts = {"train": 30, "validation": 21, "test": 24} | sizes
    return {part: examples(count, seed + i) for i, (part, count) in enumerate(counts.items())}


@dataclass
class Tiny:
    network: Any
    examples: Any
    parts: Any
    settings: Settings
    folder: Path

    def compare(self, models=None, data=None, out="run", **options):
        """Run `conjoin.compare` on small things; whatever is not given is a default."""
        models = [self.network(0), self.network(1)] if models is None else models
        data = self.parts() if data is None else data
        options = {"settings": self.settings, "out": self.folder / out} | options
        return conjoin.compare(models, data, **options)


@pytest.fixture
def tiny(tmp_path):
    return Tiny(network, examples, parts, SMALL, tmp_path)


def values(run, row, metric="accuracy", split="test"):
    """Task -> value of a row by name, of the first seed."""
    found = [r for r in run.view("row") if r.how["row"] == row and r.split == split]
    return {r.task: r.value for r in found if r.metric == metric and r.seed == 0}


@pytest.fixture
def value_of():
    return values


@pytest.fixture
def reasons():
    """``reasons(run)``: what was left out -> why."""
    return lambda run: {skipped.name: skipped.reason for skipped in run.info.skipped}
