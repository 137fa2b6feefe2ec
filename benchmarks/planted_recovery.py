"""How much of a planted order `conjoin.align` finds, and how long that takes.

    python benchmarks/planted_recovery.py [--settings resnet20 ...] [--seeds 0 1 2] [--json]

A network A has random weights; of each tensor, B = rho * A + sqrt(1 - rho^2) * N, with N of the
same standard deviation, so that rho is the correlation of the weights; then the units of B are put
into a random order. Of how many units does `align(B, to=A)` find the place, over all groups?

The lower rho, the more easily a search locks into orders that fit noise.

How to read the table:

- ``align`` is the share of units, of all groups together, that the default alignment puts back into
  their place, and ``start`` is the one of its starts that it kept. It keeps the one with the best
  objective, without knowing what is planted.
- The last columns are the shares that one start of each kind finds on its own: how much luck is in
  it, and why there are several. That of ``random`` is one draw.
- ``seconds`` are those of the default alignment, ``cpu`` those of all threads together, which is
  steadier on a busy machine. The aim is under 60 seconds for ``vgg16-fc4096`` with two threads.

A setting is small with ``--settings resnet20 --seeds 0``: a second.
"""

import argparse
import itertools
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import conjoin
from conjoin.alignment.matching import STARTS
from conjoin.symmetry import Permutations

__all__ = ["SETTINGS", "main", "planted", "resnet20", "table", "vgg16"]

WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
"""Channels of the convolutions of a VGG16; 0 is a pooling."""


def vgg16(hidden: Sequence[int], share: int = 1) -> nn.Module:
    """Give a VGG16 with BatchNorm for images of 32 x 32 and 10 classes.

    Args:
        hidden: widths of the linear layers before the last.
        share: every convolution has the usual number of channels, divided by this.
    """
    layers: list[nn.Module] = []
    channels = 3
    for width in WIDTHS:
        if not width:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(channels, width // share, 3, padding=1)]
        layers += [nn.BatchNorm2d(width // share), nn.ReLU()]
        channels = width // share
    layers.append(nn.Flatten())
    for one, two in itertools.pairwise([channels, *hidden]):
        layers += [nn.Linear(one, two), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], 10))


class Block(nn.Module):
    """Two convolutions beside a shortcut, which has a convolution where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.two = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))
        self.shortcut = nn.Sequential()
        if channels != width:
            conv = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[1](self.two(F.relu(self.norms[0](self.one(x)))))
        return F.relu(y + self.shortcut(x))


def resnet20(width: int = 16) -> nn.Module:
    """Give a ResNet20 for images of 32 x 32 and 10 classes."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False)]
    layers += [nn.BatchNorm2d(width), nn.ReLU()]
    channels = width
    for stage, block in itertools.product(range(3), range(3)):
        layers.append(Block(channels, width << stage, 2 if stage and not block else 1))
        channels = width << stage
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
    return nn.Sequential(*layers)


SETTINGS: dict[str, Callable[[], nn.Module]] = {
    "vgg16-fc512": lambda: vgg16([512]),
    "vgg16/4-fc1024x2": lambda: vgg16([1024, 1024], 4),
    "vgg16/4-fc128": lambda: vgg16([128], 4),
    "resnet20": resnet20,
    "vgg16-fc4096": lambda: vgg16([4096, 4096]),
}


def planted(
    net: nn.Module, layout: Any, rho: float, generator: torch.Generator
) -> tuple[nn.Module, Permutations]:
    """Give a noisy, shuffled copy of a network, and what puts it back."""
    noise = {
        name: torch.randn(tensor.shape, generator=generator) * tensor.std().nan_to_num()
        for name, tensor in net.named_parameters()
    }
    order = layout.sample(generator)
    copy = order.apply(net)
    with torch.no_grad():
        for (name, tensor), original in zip(copy.named_parameters(), net.parameters(), strict=True):
            mixed = rho * original + math.sqrt(1 - rho**2) * noise[name]
            tensor.copy_(order.tensor(name, mixed))
    return copy, order.inverse()


def found_share(one: Permutations, two: Permutations) -> float:
    """Give the share of units that two orders put into the same place."""
    same = [order == two.orders[name] for name, order in one.orders.items()]
    return sum(int(each.sum()) for each in same) / max(sum(each.numel() for each in same), 1)


def measured(setting: str, rho: float, seed: int, *, alone: bool) -> dict[str, Any]:
    """Align one planted pair; with ``alone``, once more with each kind of start on its own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = SETTINGS[setting]()
    example = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1000 + seed))
    symmetries = conjoin.find_symmetries(net, example)
    other, answer = planted(net, symmetries, rho, torch.Generator().manual_seed(1000 + seed))
    clocks = time.perf_counter(), time.process_time()
    found = conjoin.align(other, to=net, symmetries=symmetries)
    seconds = time.perf_counter() - clocks[0]
    cpu = time.process_time() - clocks[1]
    starts = {}
    for start in dict.fromkeys(STARTS) if alone else ():
        one = conjoin.align(other, to=net, symmetries=symmetries, starts=[start])
        starts[start] = found_share(one.permutations, answer)
    return {
        "setting": setting,
        "rho": rho,
        "seed": seed,
        "units": sum(order.numel() for order in answer.orders.values()),
        "found": found_share(found.permutations, answer),
        "start": found.starts[0][0],
        "objective": found.objective,
        "seconds": seconds,
        "cpu seconds": cpu,
        "alone": starts,
    }


def table(report: Mapping[str, Any]) -> str:
    """Show a line for each planted pair."""
    kinds = list(dict.fromkeys(STARTS))
    lines = [
        "{threads} threads, torch {torch}, {machine}".format(**report),
        "",
        f"{'':<26}{'found by':>22}{'':>10}  " + "of one start alone",
        f"{'setting':<18}{'rho':>5}{'seed':>5}{'align':>8}  {'start':<12}{'seconds':>8}{'cpu':>7}  "
        + "".join(f"{kind:>11}" for kind in kinds),
    ]
    for row in report["pairs"]:
        alone = (f"{row['alone'][kind]:>11.3f}" for kind in kinds if kind in row["alone"])
        lines.append(
            f"{row['setting']:<18}{row['rho']:>5.2f}{row['seed']:>5}{row['found']:>8.3f}  "
            f"{row['start']:<12}{row['seconds']:>8.1f}{row['cpu seconds']:>7.1f}  " + "".join(alone)
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Plant, align, and print a table, or JSON."""
    parser = argparse.ArgumentParser(description="Measure how much of a planted order is found.")
    parser.add_argument(
        "--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="default: all"
    )
    parser.add_argument("--rho", type=float, nargs="+", default=[0.5, 0.3], help="default: .5 .3")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument(
        "--no-alone", action="store_true", help="leave out what each start finds on its own"
    )
    parser.add_argument("--json", action="store_true", help="print JSON in the place of a table")
    options = parser.parse_args(arguments)
    if any(not 0 <= rho <= 1 for rho in options.rho):
        parser.error("--rho takes correlations from 0 to 1")
    report = {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "conjoin": conjoin.__version__,
        "machine": platform.machine(),
        "pairs": [
            measured(setting, rho, seed, alone=not options.no_alone)
            for setting in options.settings
            for rho in options.rho
            for seed in options.seeds
        ],
    }
    print(json.dumps(report, indent=1) if options.json else table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
