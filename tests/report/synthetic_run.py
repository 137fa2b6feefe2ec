"""Run folders as `conjoin compare` writes them, with numbers that no network made."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from conjoin.records import Interval, Record, write_csv, write_json

HOSTILE = (
    "<script>alert(1)</script>",
    "\"quotes' & \\back` ",
    '"]]>',
    "{{x}} {% y %} ${z}",
    "</style></script>",
    "\N{RIGHT-TO-LEFT OVERRIDE}reversed",
    " ",
    "long " * 150,
    "a|b*c_d`e\n# f [bold]g[/bold] <b>h",
    "-->\t\N{ZERO WIDTH SPACE}",
)
"""What a name may contain, and nothing may interpret."""

LABELS = (0, 10, 20, 50, 100)
SCRATCH = "a new network, never trained"
SHARES = tuple(round(0.1 * i, 1) for i in range(11))
GRID = 13
TEST, FEW = 2000, 500


@dataclass(frozen=True)
class Row:
    """A row, and how good it is: the share of a specialist's quality that is left."""

    key: str
    group: str
    name: str
    about: str
    kind: str
    quality: tuple[float, ...]  # for each task, 0..1
    uses_task_label: bool = False
    networks: int = 1


def write_synthetic_run(
    folder: Path,
    *,
    seeds: int = 3,
    tasks: int = 2,
    unseen: bool = True,
    regression: bool = False,
    groups: int = 2,
    hostile: bool = False,
    views: bool = True,
    batchnorm: bool = True,
) -> Path:
    """Write a run folder after docs/run-folder.md and give it back.

    Args:
        folder: made if it is missing.
        seeds: how many.
        tasks: that networks were trained on.
        unseen: whether there is a further task that no network was trained on.
        regression: whether tasks are judged by their loss.
        groups: of networks that are combined, besides the group of references.
        hostile: whether every name is one of `HOSTILE`, and a number.
        views: whether there is anything besides the rows of the table.
        batchnorm: whether networks have statistics to re-estimate.
    """
    folder.mkdir(parents=True, exist_ok=True)
    named = _namer(hostile)
    rng = np.random.default_rng(0)
    trained = [named(name) for name in ("digits", "street numbers", "letters", "signs")[:tasks]]
    domains = [*trained, *([named("handwriting")] if unseen else [])]
    metrics = ("loss",) if regression else ("accuracy", "loss", "calibration error")
    count = max(2, tasks)  # one task has two networks, from two seeds
    models = [f"{place} network" for place in ("first", "second", "third", "fourth")[:count]]
    starts, models = [named(f"{name} alone") for name in models], [named(n) for n in models]
    keys = [named(key) for key in ("different", "shared", "third", "fourth")[:groups]]
    rows = list(_rows(named, trained, models, keys, unseen=unseen, batchnorm=batchnorm))
    records = list(_row_records(rows, domains, trained, metrics, seeds, rng))
    intervals = list(_intervals(rows, domains, tasks, metrics[0], records, named("mean")))
    layers = [named(name) for name in ("stage 1", "stage 2", "stage 3", "stage 4", "head")]
    if views:
        for number, key in enumerate(keys):
            world = _World(key, number, models, trained, metrics[:2], seeds, layers, rng)
            records += _interpolation(world, batchnorm)
            records += _plane(world, batchnorm)
            records += _depth(world)
            records += _activations(world, batchnorm)
            records += _distances(world)
        if unseen:
            found, more = _transfer(named, starts, domains[-1], metrics[:2], seeds, batchnorm, rng)
            records, intervals = records + found, intervals + more
    run = {
        "experiment": "compare",
        "title": named("Two kinds of digits"),
        "command": named("conjoin compare first.safetensors second.safetensors"),
        "seeds": list(range(seeds)),
        "tasks": [
            {
                "name": task,
                "metric": metrics[0],
                "trained_on": number < tasks,
                "classes": None if regression else [named(f"class {c}") for c in range(10)],
                "counts": {"train": 9000, "validation": 1000, "test": TEST},
            }
            for number, task in enumerate(domains)
        ],
        "groups": [
            {
                "key": named("references"),
                "title": named("networks to compare with"),
                "models": models,
                "tasks": domains,
            },
            *(
                {
                    "key": key,
                    "title": named(f"networks number {n}, combined"),
                    "models": models,
                    "tasks": domains,
                }
                for n, key in enumerate(keys)
            ),
        ],
        "rows": [
            {name: value for name, value in asdict(row).items() if name != "quality"}
            for row in rows
        ],
        "skipped": _skipped(named, keys, views=views, batchnorm=batchnorm),
        "specialists": {task: rows[number].key for number, task in enumerate(trained)},
        "settings": {"examples for curves": FEW, named("odd setting"): {"a": [1, math.inf]}},
        "versions": {"conjoin": "0.1.0", "torch": "2.13.0", "Python": "3.11.2"},
        "hashes": {named("first.safetensors"): "0" * 64},
    }
    write_json(folder / "results.json", records, run=run, intervals=intervals)
    write_csv(folder / "results.csv", records)
    _write_costs(folder, rows, seeds, rng)
    if views:
        shown = [row.key for row in rows if not row.uses_task_label][:6]
        if not regression:
            _write_samples(folder, shown, domains, rng)
        _write_filters(folder, keys, models, rng, named)
    return folder


def without(folder: Path, keep: Callable[[Record], bool]) -> Path:
    """Leave in a written folder only the records that `keep` is true of."""
    document = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    document["records"] = [row for row in document["records"] if keep(Record(**row))]
    (folder / "results.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def _namer(hostile: bool) -> Callable[[str], str]:
    """Give a function of names; the same name gives the same, different names different ones."""
    given: dict[str, str] = {}

    def named(text: str) -> str:
        if hostile and text not in given:
            odd = HOSTILE[len(given) % len(HOSTILE)]
            given[text] = odd if odd not in given.values() else f"{odd}{len(given)}"
        return given.get(text, text)

    return named


def _rows(
    named: Callable[[str], str],
    trained: list[str],
    models: list[str],
    keys: list[str],
    *,
    unseen: bool,
    batchnorm: bool,
) -> Iterator[Row]:
    count = len(trained)
    references = named("references")

    def quality(*own: float, other: float) -> tuple[float, ...]:
        return (*own, *([other] if unseen else []))

    def row(group: str, name: str, about: str, kind: str, *rest: object) -> Row:
        return Row(f"{group}: {named(name)}", group, named(name), named(about), kind, *rest)

    for number in range(len(models)):
        own = tuple(
            1.0 if other == number or count == 1 else 0.35 + 0.05 * number for other in range(count)
        )
        name = f"{('first', 'second', 'third', 'fourth')[number]} network alone"
        yield row(references, name, "as it was trained", "parent", quality(*own, other=0.45))
    best = tuple(1.0 if other == count - 1 else 0.3 + 0.05 * count for other in range(count))
    yield row(
        references,
        "best single parent (chosen on validation data)",
        "the network with the best mean over all tasks",
        "reference",
        quality(*best, other=0.45),
    )
    heads = ("two-headed network", "a shared trunk, a head for each task", "reference")
    yield row(references, *heads, (0.99,) * count, True)
    for number, group in enumerate(keys):
        up = 0.12 * number
        ensemble = ("ensemble of outputs", "mean of the probabilities", "ensemble")
        yield row(group, *ensemble, quality(*[0.96] * count, other=0.5), False, len(models))
        sum_ = ("sum", "all weights added", "merge")
        yield row(group, *sum_, quality(*[0.15 + up] * count, other=0.12))
        mean = ("mean", "all weights averaged", "merge")
        yield row(group, *mean, quality(*[0.2 + up] * count, other=0.15))
        if batchnorm:
            again = ("mean + re-estimated statistics", "fresh BatchNorm statistics", "merge")
            yield row(group, *again, quality(*[0.8 + up / 2] * count, other=0.55))
        weighted = [0.7 + up / 2] + [0.6 + up / 2] * (count - 1)
        name = ("weighted mean", "weights chosen on validation data", "merge")
        yield row(group, *name, quality(*weighted, other=0.4))


def _value(metric: str, quality: float, noise: float) -> float:
    """Turn a share of a specialist's quality into a number of a metric."""
    if metric == "accuracy":
        return float(np.clip(10 + 88 * quality + noise, 0, 100))
    if metric == "loss":
        return float(max(0.08, 2.3 * (1 - quality) + 0.1) * (1 + 0.02 * noise))
    return float(abs(14 * (1 - quality) + 1.5 + noise / 2))


def _row_records(
    rows: list[Row],
    domains: list[str],
    trained: list[str],
    metrics: tuple[str, ...],
    seeds: int,
    rng: np.random.Generator,
) -> Iterator[Record]:
    for row in rows:
        how = {
            "view": "row",
            "group": row.group,
            "row": row.name,
            "uses_task_label": row.uses_task_label,
            "networks": row.networks,
        }
        for seed in range(seeds):
            for task, quality in zip(domains, row.quality, strict=False):
                noise = rng.normal(0, 0.8)
                unseen = task not in trained
                for split, count in (("validation", 1000), ("test", TEST))[unseen:]:
                    shift = rng.normal(0, 0.3)
                    measured = metrics if split == "test" else metrics[:2]
                    for metric in measured:
                        value = _value(metric, quality, noise + shift)
                        yield Record(row.key, task, split, seed, metric, value, count, how)
    for row in rows:
        if row.kind == "parent":
            how = {"view": "specialist", "group": row.group}
            for seed in range(seeds):
                for task, quality in zip(trained, row.quality, strict=False):
                    for metric in metrics[:2]:
                        value = _value(metric, quality, rng.normal(0, 0.8))
                        yield Record(row.name, task, "validation", seed, metric, value, 1000, how)


def _intervals(
    rows: list[Row], domains: list[str], tasks: int, metric: str, records: list[Record], mean: str
) -> Iterator[Interval]:
    found: dict[tuple[str, str], list[float]] = {}
    for record in records:
        if record.split == "test" and record.metric == metric:
            found.setdefault((record.model, record.task), []).append(record.value)
    best = [row.kind for row in rows].index("reference")
    means = {row.group: row.key for row in rows if row.name == mean}
    for number, task in enumerate(domains):
        parent = rows[number if number < tasks else best].key
        for row in rows:
            against = [parent, means.get(row.group, parent), rows[best].key]
            for other in dict.fromkeys(against):
                if other != row.key and (row.key, task) in found:
                    yield _interval(row.key, other, task, metric, found)


def _interval(
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
class _World:
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
            value = _value(metric, quality, noise)
            yield Record(model, task, "test", seed, metric, value, FEW, how)


def _interpolation(world: _World, batchnorm: bool) -> Iterator[Record]:
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


def _plane(world: _World, batchnorm: bool) -> Iterator[Record]:
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


def _depth(world: _World) -> Iterator[Record]:
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


def _activations(world: _World, batchnorm: bool) -> Iterator[Record]:
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


def _distances(world: _World) -> Iterator[Record]:
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


def _transfer(
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
                    Record(start, task, "test", seed, m, _value(m, quality, noise), TEST, how)
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
            intervals.append(_interval(pair[0], pair[1], task, metrics[0], values))
    return records, intervals


def _skipped(
    named: Callable[[str], str], keys: list[str], *, views: bool, batchnorm: bool
) -> list[dict[str, str]]:
    found = [(keys[0], "quantized mean", "the networks have no integer weights")]
    if not batchnorm:
        found += [(key, "mean + re-estimated statistics", "no BatchNorm") for key in keys]
    if not views:
        found += [("", "every view", "only the table was asked for")]
    return [{"group": g, "name": named(n), "reason": named(r)} for g, n, r in found]


def _write_costs(folder: Path, rows: list[Row], seeds: int, rng: np.random.Generator) -> None:
    costs = [
        {
            "row": row.key,
            "seed": seed,
            "make_seconds": round(float(rng.uniform(0.01, 2)), 4),
            "test_seconds": round(float(rng.uniform(1, 2)) * row.networks, 4),
            "peak_bytes": None if row.kind == "parent" else int(rng.integers(10**6, 10**8)),
            "parameters": 290_000 * row.networks,
        }
        for row in rows
        for seed in range(seeds)
    ]
    document = {"format": 1, "rows": costs, "seconds": 321.5, "device": "cpu"}
    (folder / "costs.json").write_text(json.dumps(document), encoding="utf-8")


def _write_samples(
    folder: Path, rows: list[str], domains: list[str], rng: np.random.Generator
) -> None:
    tasks = [task for task in domains for _ in range(8)]
    labels = rng.integers(0, 10, len(tasks))
    right = rng.random((len(rows), len(tasks))) < 0.7
    predictions = np.where(right, labels, rng.integers(-1, 10, right.shape))
    tensors = {
        "images": torch.from_numpy(rng.integers(0, 256, (len(tasks), 16, 16), dtype=np.uint8)),
        "labels": torch.from_numpy(labels),
        "predictions": torch.from_numpy(predictions),
        "confidences": torch.from_numpy(rng.random(right.shape, dtype=np.float32)),
    }
    metadata = {"conjoin.samples": json.dumps({"tasks": tasks, "rows": rows})}
    save_file(tensors, folder / "samples.safetensors", metadata)


def _write_filters(
    folder: Path,
    keys: list[str],
    models: list[str],
    rng: np.random.Generator,
    named: Callable[[str], str],
) -> None:
    owners = [
        *({"model": model, "group": key} for key in keys for model in models),
        *({"row": f"{key}: {named('mean')}", "group": key} for key in keys),
    ]
    tensors = {
        str(n): torch.from_numpy(rng.normal(0, 0.3, (8, 1, 3, 3)).astype(np.float32))
        for n in range(len(owners))
    }
    save_file(tensors, folder / "filters.safetensors", {"conjoin.filters": json.dumps(owners)})
