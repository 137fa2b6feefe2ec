"""What a run without networks measured: curves, planes, layers and transfer, made up."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from conjoin.records import Interval, Record

LABELS = (0, 10, 20, 50, 100)
SCRATCH = "a new network, never trained"
SHARES = tuple(round(0.1 * i, 1) for i in range(11))
GRID = 13
TEST, FEW = 2000, 500


def value_at(metric: str, quality: float, noise: float) -> float:
    """Turn a share of a specialist's quality into a number of a metric."""
    if metric == "accuracy":
        return float(np.clip(10 + 88 * quality + noise, 0, 100))
    if metric == "loss":
        return float(max(0.08, 2.3 * (1 - quality) + 0.1) * (1 + 0.02 * noise))
    return float(abs(14 * (1 - quality) + 1.5 + noise / 2))


def interval(
    model: str, other: str, task: str, metric: str, found: dict[tuple[str, str], list[float]]
) -> Interval:
    pairs = np.subtract(found[model, task], found[other, task])
    value, seeds = float(pairs.mean()), len(pairs)
    spread = float(pairs.std(ddof=1)) if seeds > 1 else 0.0
    half = (0.9 if metric == "accuracy" else 0.03) + spread
    return Interval(
        model, other, task, metric, value, value - half, value + half, 0.95, seeds, TEST
    )


@dataclass(frozen=True)
class World:
    key: str
    number: int
    models: list[str]
    tasks: list[str]
    metrics: tuple[str, ...]
    seeds: int
    layers: list[str]
    rng: np.random.Generator

    @property
    def dip(self) -> float:
        """How much quality is lost halfway, without fresh statistics."""
        return 0.75 - 0.15 * self.number

    def records(
        self, model: str, seed: int, quality: float, how: dict[str, object], task: str
    ) -> Iterator[Record]:
        noise = self.rng.normal(0, 0.4)
        how = {"group": self.key, **how}
        for metric in self.metrics:
            value = value_at(metric, quality, noise)
            yield Record(model, task, "test", seed, metric, value, FEW, how)


def interpolation(world: World, batchnorm: bool) -> Iterator[Record]:
    pairs = list(combinations(range(len(world.models)), 2))
    for first, second in pairs:
        names = world.models[first], world.models[second]
        model = f"{world.key}: {names[0]} to {names[1]}"
        for fresh in (False, True) if batchnorm else (False,):
            made = {"from": names[0], "to": names[1], "reestimated": fresh}
            for number, task in enumerate(world.tasks):
                ends = [1.0 if number == end else 0.4 for end in (first, second)]
                dip = world.dip * (0.25 if fresh else 1.0)
                for seed in range(world.seeds):
                    for t in SHARES:
                        quality = (1 - t) * ends[0] + t * ends[1] - dip * 4 * t * (1 - t)
                        how = {"view": "interpolation", **made, "t": t}
                        yield from world.records(model, seed, max(quality, 0.0), how, task)
                    how = {"view": "barrier", "group": world.key, **made}
                    for metric in world.metrics:
                        size = 88 * dip if metric == "accuracy" else 2.3 * dip
                        value = float(size * (1 + world.rng.normal(0, 0.02)))
                        name = f"{metric} barrier"
                        yield Record(model, task, "test", seed, name, value, FEW, how)


def plane(world: World, batchnorm: bool) -> Iterator[Record]:
    # A plane needs three: with two networks, a second one of the first's kind is the third.
    names = [*world.models, f"{world.models[0]} once more"]
    corners = dict(zip(names, ([0.0, 0.0], [1.0, 0.0], [0.5, 0.9]), strict=False))
    for task in world.tasks:
        for x in np.linspace(-0.3, 1.3, GRID):
            for y in np.linspace(-0.4, 1.2, GRID):
                away = min(math.dist((x, y), corner) for corner in corners.values())
                how = {
                    "view": "plane",
                    "x": round(float(x), 4),
                    "y": round(float(y), 4),
                    "reestimated": batchnorm,
                    "corners": corners,
                }
                quality = max(0.0, 1 - away)
                yield from world.records(f"{world.key}: plane", 0, quality, how, task)


def depth(world: World) -> Iterator[Record]:
    losses = np.array([0.05, 0.3, 0.2, 0.1, 0.02])[: len(world.layers)]
    for task in world.tasks:
        for seed in range(world.seeds):
            for mode in ("first", "only"):
                for index in range(0 if mode == "first" else 1, len(world.layers) + 1):
                    lost = losses[:index].sum() if mode == "first" else losses[index - 1]
                    how = {
                        "view": "depth",
                        "mode": mode,
                        "index": index,
                        "layer": "none" if index == 0 else world.layers[index - 1],
                        "uses_task_label": True,
                    }
                    model = f"{world.key}: depth"
                    yield from world.records(model, seed, float(1 - lost), how, task)


def activations(world: World, batchnorm: bool) -> Iterator[Record]:
    model = f"{world.key}: activations"
    for task in world.tasks:
        for seed in range(world.seeds):
            for index, layer in enumerate(world.layers, start=1):
                how = {"view": "activations", "group": world.key, "layer": layer, "index": index}
                for fresh in (False, True) if batchnorm else (False,):
                    left = 0.9 if fresh else 0.62**index
                    value = float(left + world.rng.normal(0, 0.01))
                    made = {**how, "reestimated": fresh}
                    name = "activation variance"
                    yield Record(model, task, "test", seed, name, value, FEW, made)
                value = float(0.5 / index + 0.3 * world.number + world.rng.normal(0, 0.01))
                name = "activation correlation"
                yield Record(model, task, "test", seed, name, value, FEW, how)


def distances(world: World) -> Iterator[Record]:
    for first, second in combinations(world.models, 2):
        for seed in range(world.seeds):
            for index, layer in enumerate(world.layers, start=1):
                how = {"view": "distances", "group": world.key, "layer": layer, "index": index}
                far = 1.4 - 0.6 * world.number + float(world.rng.normal(0, 0.02))
                values = {"relative distance": far, "cosine": max(-1.0, 1 - far**2 / 2)}
                how |= {"from": first, "to": second}
                for metric, value in values.items():
                    model = f"{world.key}: {first} to {second}"
                    yield Record(model, "weights", "none", seed, metric, value, 0, how)


def transfer(
    named: Callable[[str], str],
    parents: list[str],
    task: str,
    metrics: tuple[str, ...],
    seeds: int,
    batchnorm: bool,
    rng: np.random.Generator,
) -> tuple[list[Record], list[Interval]]:
    merged = "mean + re-estimated statistics" if batchnorm else "mean"
    starts = {name: 0.5 + 0.03 * n for n, name in enumerate(parents)}
    starts |= {named(merged): 0.6, SCRATCH: 0.05}
    records, intervals = [], []
    for start, begin in starts.items():
        for number, labels in enumerate(LABELS):
            share = number / (len(LABELS) - 1)
            for seed in range(seeds):
                quality = begin + (0.97 - begin) * share**0.7
                noise = rng.normal(0, 0.5)
                how = {
                    "view": "transfer",
                    "start": start,
                    "labels": labels,
                    "rate": 10.0 ** (-2 - number % 2),
                }
                records += [
                    Record(start, task, "test", seed, m, value_at(m, quality, noise), TEST, how)
                    for m in metrics
                ]
    values: dict[tuple[str, str], list[float]] = {}
    for record in records:
        if record.metric == metrics[0]:
            name = f"transfer: {record.how['start']} at {record.how['labels']} labels"
            values.setdefault((name, task), []).append(record.value)
    for start in list(starts)[:-1]:
        for labels in LABELS:
            pair = [f"transfer: {name} at {labels} labels" for name in (start, SCRATCH)]
            intervals.append(interval(pair[0], pair[1], task, metrics[0], values))
    return records, intervals
