"""How long merging in memory takes, beside what else one could do.

    python benchmarks/merge_in_memory.py [--params 5e7] [--rounds 7] [--json]

Three ways run in turn, round after round, on the same two state dicts:

    conjoin    conjoin.merge([a, b])
    naive      {name: (a[name] + b[name]) / 2 for name in a}
    copy       {name: a[name].clone() for name in a}: the least that making a result can cost

How to read the numbers: benchmarks/README.md.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import conjoin

State = dict[str, Tensor]

WIDTH = 1024
"""Rows and columns of a weight: 4 MB in float32, as in many linear layers."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Time the three ways and print a table, or JSON."""
    parser = argparse.ArgumentParser(description="Time merging of two state dicts in memory.")
    parser.add_argument("--params", type=float, default=5e7, help="of each model (default: 5e7)")
    parser.add_argument("--rounds", type=int, default=7, help="medians are over these (default: 7)")
    parser.add_argument("--json", action="store_true", help="print JSON in the place of a table")
    options = parser.parse_args(arguments)
    if options.params < 1 or options.rounds < 1:
        parser.error("--params and --rounds must be at least 1")
    generator = torch.Generator().manual_seed(0)
    a, b = (state_dict(round(options.params), generator) for _ in range(2))
    check(a, b)
    ways = {
        "conjoin": lambda: conjoin.merge([a, b]),
        "naive": lambda: naive(a, b),
        "copy": lambda: {name: a[name].clone() for name in a},
    }
    seconds = interleaved(ways, options.rounds)
    report = {
        "params": sum(tensor.numel() for tensor in a.values()),
        "tensors": len(a),
        "rounds": options.rounds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "conjoin": conjoin.__version__,
        "machine": platform.machine(),
        "seconds": seconds,
        "median": {name: statistics.median(times) for name, times in seconds.items()},
        "ratio to naive": ratios(seconds, "naive"),
        "ratio to copy": ratios(seconds, "copy"),
    }
    print(json.dumps(report, indent=1) if options.json else table(report))
    return 0


def state_dict(params: int, generator: torch.Generator) -> State:
    """Make weights of 1024 x 1024 and biases of 1024, and one smaller tensor for the rest."""
    sizes = {"rest": params}
    block = WIDTH * WIDTH + WIDTH
    for layer in range(params // block):
        sizes[f"layers.{layer}.weight"] = WIDTH * WIDTH
        sizes[f"layers.{layer}.bias"] = WIDTH
        sizes["rest"] -= block
    state = {name: torch.randn(size, generator=generator) for name, size in sizes.items() if size}
    return {n: t.view(WIDTH, WIDTH) if n.endswith("weight") else t for n, t in state.items()}


def naive(a: State, b: State) -> State:
    """Average as one would without a library: no checks, and sums for everything."""
    return {name: (a[name] + b[name]) / 2 for name in a}


def check(a: State, b: State) -> None:
    """Raise unless both ways give the same numbers; this also warms everything up."""
    expected, found = naive(a, b), conjoin.merge([a, b])
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor)


def interleaved(ways: dict[str, Callable[[], State]], rounds: int) -> dict[str, list[float]]:
    """Run every way once in each round, so that whatever slows the machine slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            result = way()
            seconds[name].append(time.perf_counter() - start)
            del result  # memory is given back outside of the measured time
    return seconds


def ratios(seconds: dict[str, list[float]], peer: str) -> dict[str, float]:
    """Median over rounds of each way's time divided by the peer's in the same round."""
    return {
        name: statistics.median(t / p for t, p in zip(times, seconds[peer], strict=True))
        for name, times in seconds.items()
    }


def table(report: dict) -> str:
    """Show medians and ratios, one line for each way."""
    lines = [
        "two state dicts of {params:,} float32 values in {tensors} tensors; medians of {rounds} "
        "rounds, {threads} threads, torch {torch}, {machine}".format(**report),
        "",
        f"{'':<10}{'seconds':>10}{'/ naive':>10}{'/ copy':>10}",
    ]
    for name, median in report["median"].items():
        beside, least = report["ratio to naive"][name], report["ratio to copy"][name]
        lines.append(f"{name:<10}{median:>10.4f}{beside:>10.2f}{least:>10.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
