"""What coupling costs: time of a training step, and memory of a pull.

    python benchmarks/coupling_overhead.py [--width 1 1/4] [--rounds 21] [--json]

Two networks of the digits experiment train side by side on random images, in three ways that run
in turn, round after round, each on networks of its own:

    uncoupled   two training loops without conjoin
    coupled     the same, and `Coupling.pull` at strength 1 on every tensor
    shared      the same, and `Coupling.share_gradients` at infinite strength on every tensor

How to read the table:

- A time ratio is the median, over rounds, of the time of a way divided by that of ``uncoupled`` in
  the same round. So what slows the machine down slows both, and the ratio stays. The aim is 1.05.
  On a busy machine ``--clock cpu`` is steadier: it counts the processor's time of all threads of
  this program, and leaves out the time in which others had the processor.
- Extra memory is the most that is allocated at once during the calls of conjoin in one step, beside
  what was there before, in units of the largest coupled tensor. The aim is 1: one more copy.
- Under bfloat16, weights and gradients are float32 all the same (autocast), so that the memory is
  that of float32, and the time of conjoin's part too. The networks' own part is what differs.
"""

import argparse
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from fractions import Fraction
from itertools import product
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer

import conjoin
from conjoin.coupling import copies_of
from conjoin.experiments.digits.network import new_network

WAYS = {"uncoupled": None, "coupled": 1.0, "shared": float("inf")}
"""Strength on every tensor; None is no coupling at all."""

ARITHMETICS = ("float32", "bfloat16")

OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "SGD": lambda net: SGD(net.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4),
    "AdamW": lambda net: AdamW(net.parameters(), 1e-3),
}

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

WARM_UP = 2
"""Steps before anything is timed: optimizers make their states in the first."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Time the three ways in every setting and print a table, or JSON."""
    parser = argparse.ArgumentParser(description="Measure what coupling two networks costs.")
    widths = {"type": Fraction, "nargs": "+", "default": [Fraction(1), Fraction(1, 4)]}
    parser.add_argument("--width", **widths, help="of the networks (default: 1 1/4)")
    parser.add_argument("--batch", type=int, default=64, help="images of a step (default: 64)")
    parser.add_argument("--steps", type=int, default=2, help="in each round (default: 2)")
    parser.add_argument("--rounds", type=int, default=21, help="medians are over these")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="what time is (wall)")
    parser.add_argument("--json", action="store_true", help="print JSON in the place of a table")
    options = parser.parse_args(arguments)
    if min(options.batch, options.steps, options.rounds) < 1 or min(options.width) <= 0:
        parser.error("--width, --batch, --steps and --rounds must be positive")
    # The profiler that measures memory writes lines of its own to stderr otherwise.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    settings = product(options.width, ARITHMETICS, OPTIMIZERS)
    report = {
        "batch": options.batch,
        "steps": options.steps,
        "rounds": options.rounds,
        "clock": options.clock,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "conjoin": conjoin.__version__,
        "machine": platform.machine(),
        "settings": [
            measured(float(width), arithmetic, optimizer, options)
            for width, arithmetic, optimizer in settings
        ],
    }
    print(json.dumps(report, indent=1) if options.json else table(report))
    return 0


def measured(width: float, arithmetic: str, optimizer: str, options: argparse.Namespace) -> dict:
    """Give times, their ratios, and extra memory of every way in one setting."""
    pairs = {way: Pair(way, width, arithmetic, optimizer, options.batch) for way in WAYS}
    check(pairs)
    seconds = interleaved(pairs, options.steps, options.rounds, CLOCKS[options.clock])
    largest = max(p.numel() * p.element_size() for p in pairs["uncoupled"].nets[0].parameters())
    memory = {way: pair.extra_bytes() for way, pair in pairs.items() if pair.coupling}
    return {
        "width": width,
        "arithmetic": arithmetic,
        "optimizer": optimizer,
        "seconds": seconds,
        "median of a step": {
            way: statistics.median(times) / options.steps for way, times in seconds.items()
        },
        "time / uncoupled": ratios(seconds, "uncoupled"),
        "largest tensor, bytes": largest,
        "extra bytes": memory,
        "extra / largest": {way: extra / largest for way, extra in memory.items()},
    }


class Pair:
    """Two networks from one start, with data and optimizers, coupled in one of the ways."""

    def __init__(self, way: str, width: float, arithmetic: str, optimizer: str, batch: int) -> None:
        nets = copies_of(new_network(0, width=width), ["a", "b"])
        self.nets = list(nets.values())
        self.optimizers = [OPTIMIZERS[optimizer](net) for net in self.nets]
        generator = torch.Generator().manual_seed(0)
        self.data = [
            (
                torch.rand(batch, 1, 32, 32, generator=generator),
                torch.randint(10, (batch,), generator=generator),
            )
            for _ in self.nets
        ]
        self.arithmetic = arithmetic
        strength = WAYS[way]
        self.coupling = None
        if strength is not None:
            models = dict(zip(nets, zip(self.nets, self.optimizers, strict=True), strict=True))
            self.coupling = conjoin.Coupling(models, strength)

    def gradients(self) -> None:
        """Give every parameter its gradient."""
        for net, optimizer, (images, labels) in zip(
            self.nets, self.optimizers, self.data, strict=True
        ):
            optimizer.zero_grad()
            low = self.arithmetic == "bfloat16"
            with torch.autocast("cpu", torch.bfloat16) if low else nullcontext():
                loss = F.cross_entropy(net(images), labels)
            loss.backward()

    def step(self) -> None:
        """Make one training step of both networks."""
        self.gradients()
        if self.coupling is not None:
            self.coupling.share_gradients()
        for optimizer in self.optimizers:
            optimizer.step()
        if self.coupling is not None:
            self.coupling.pull()

    def extra_bytes(self) -> int:
        """Give the peak of what conjoin's two calls of a step allocate."""
        self.gradients()
        shared = peak_bytes(self.coupling.share_gradients)
        for optimizer in self.optimizers:
            optimizer.step()
        return max(shared, peak_bytes(self.coupling.pull))

    def gap(self) -> float:
        """Give the distance between the two networks' weights, all tensors together."""
        ones, others = (net.parameters() for net in self.nets)
        with torch.no_grad():
            squares = [float((a - b).square().sum()) for a, b in zip(ones, others, strict=True)]
        return math.sqrt(sum(squares))


def check(pairs: dict[str, Pair]) -> None:
    """Warm up, and raise unless each way does what its name says."""
    for number in range(WARM_UP):
        for pair in pairs.values():
            torch.manual_seed(number)  # whatever the networks draw, all ways draw the same
            pair.step()
    gaps = {way: pair.gap() for way, pair in pairs.items()}
    if not gaps["shared"] == 0 < gaps["coupled"] < gaps["uncoupled"]:
        raise RuntimeError(f"expected shared = 0 < coupled < uncoupled, found the gaps {gaps}")


def interleaved(
    pairs: dict[str, Pair],
    steps: int,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Run every way in each round, each time beginning with another one."""
    seconds: dict[str, list[float]] = {way: [] for way in pairs}
    ways = list(pairs)
    for number in range(rounds):
        first = number % len(ways)
        for way in ways[first:] + ways[:first]:
            start = clock()
            for _ in range(steps):
                pairs[way].step()
            seconds[way].append(clock() - start)
    return seconds


def ratios(seconds: dict[str, list[float]], peer: str) -> dict[str, float]:
    """Median over rounds of each way's time divided by the peer's in the same round."""
    return {
        way: statistics.median(t / p for t, p in zip(times, seconds[peer], strict=True))
        for way, times in seconds.items()
        if way != peer
    }


def peak_bytes(call: Callable[[], object]) -> int:
    """Give the most that PyTorch's allocator has given out at once during a call (CPU).

    What is freed and was there before does not count against it.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    memory = [event for event in events if event["name"] == "[memory]"]
    held: dict[int, int] = {}
    peak = 0
    for event in sorted(memory, key=lambda event: event["ts"]):
        size, address = event["args"]["Bytes"], event["args"]["Addr"]
        if size > 0:
            held[address] = size
        else:
            held.pop(address, None)
        peak = max(peak, sum(held.values()))
    return peak


def table(report: dict) -> str:
    """Show ratios of time and memory, one line for each setting."""
    lines = [
        "two networks, batch {batch}; {clock} time, medians of {rounds} rounds of {steps} steps, "
        "{threads} threads, torch {torch}, {machine}".format(**report),
        "",
        f"{'':<27}{'a step':>12}{'time / uncoupled':>19}{'extra / largest tensor':>25}",
        f"{'width':<7}{'arithmetic':<12}{'optimizer':<8}{'uncoupled':>12}"
        f"{'coupled':>11}{'shared':>8}{'coupled':>16}{'shared':>9}",
    ]
    for row in report["settings"]:
        cost, memory = row["time / uncoupled"], row["extra / largest"]
        lines.append(
            f"{Fraction(row['width'])!s:<7}{row['arithmetic']:<12}{row['optimizer']:<8}"
            f"{row['median of a step']['uncoupled'] * 1000:>9.1f} ms"
            f"{cost['coupled']:>11.3f}{cost['shared']:>8.3f}"
            f"{memory['coupled']:>16.2f}{memory['shared']:>9.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
