"""Run folders as `conjoin compare` writes them, with numbers that no network made."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from synthetic_views import (
    FEW,
    TEST,
    World,
    activations,
    depth,
    distances,
    interpolation,
    interval,
    plane,
    transfer,
    value_at,
)

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
            world = World(key, number, models, trained, metrics[:2], seeds, layers, rng)
            records += interpolation(world, batchnorm)
            records += plane(world, batchnorm)
            records += depth(world)
            records += activations(world, batchnorm)
            records += distances(world)
        if unseen:
            found, more = transfer(named, starts, domains[-1], metrics[:2], seeds, batchnorm, rng)
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
                        value = value_at(metric, quality, noise + shift)
                        yield Record(row.key, task, split, seed, metric, value, count, how)
    for row in rows:
        if row.kind == "parent":
            how = {"view": "specialist", "group": row.group}
            for seed in range(seeds):
                for task, quality in zip(trained, row.quality, strict=False):
                    for metric in metrics[:2]:
                        value = value_at(metric, quality, rng.normal(0, 0.8))
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
                    yield interval(row.key, other, task, metric, found)


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
    confidences = rng.random(right.shape, dtype=np.float32)
    predictions[0, 0], confidences[0, 0] = -1, np.nan  # an output with NaN
    tensors = {
        "images": torch.from_numpy(rng.integers(0, 256, (len(tasks), 16, 16), dtype=np.uint8)),
        "labels": torch.from_numpy(labels),
        "predictions": torch.from_numpy(predictions),
        "confidences": torch.from_numpy(confidences),
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
