"""One network out of two of different tasks, without labels: conjoin beside its peers.

    python benchmarks/different_tasks.py --run FOLDER [--seeds 0 1 2] [--images 2000] [--json]

FOLDER is a finished run of `conjoin digits`, with its cache; it is only read. Each row of `ROWS` is
a function of the two specialists and of unlabelled training images of each task, and gives a module
or, for an ensemble, several. Printed are accuracies on the test images in percent: means over seeds
with the 95 % interval of the mean of both tasks, and seconds for one seed. How to read the numbers:
benchmarks/README.md.
"""

import argparse
import fnmatch
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers.pleas import pleas
from peers.regmean import regmean
from peers.zipit import zipit
from torch import Tensor, nn

import conjoin
from conjoin.checkpoints import open_checkpoint
from conjoin.errors import DataError
from conjoin.evaluation import outcomes
from conjoin.experiments.digits.network import new_network
from conjoin.experiments.digits.training import to_input
from conjoin.measure import paired_interval
from conjoin.modules import TaskNetworks

__all__ = ["ROWS", "Pair", "load", "main", "measure", "table"]

Merged = nn.Module | list[nn.Module]
"""A network, or several, whose probabilities are averaged. A `TaskNetworks` is told the task; its
row has a * in its name."""

Merge = Callable[[Sequence[nn.Module], Sequence[Tensor]], Merged]
"""Of the two specialists, and of unlabelled inputs [N, 1, 32, 32] of each task."""

Part = tuple[Tensor, Tensor]
"""Inputs and labels."""


def _mean(networks: Sequence[nn.Module], inputs: Sequence[Tensor]) -> nn.Module:
    data = [(x, torch.zeros(len(x))) for x in inputs]  # labels are not looked at
    return conjoin.reestimate_batchnorm(conjoin.merge(list(networks)), *data)


def _aligned(networks: Sequence[nn.Module], inputs: Sequence[Tensor], *, method: str) -> nn.Module:
    data = None if method == "weights" else [x[:500] for x in inputs]
    found = conjoin.align(list(networks), example_inputs=inputs[0][:2], data=data, method=method)
    return _mean([one.apply(net) for one, net in zip(found, networks, strict=True)], inputs)


def _least_squares(
    networks: Sequence[nn.Module],
    inputs: Sequence[Tensor],
    *,
    weights: Sequence[float] | None = None,
    align: str = "activations",
    private: Sequence[str] | float = (),
    batchnorm: str = "keep",
    inferred: bool = False,
) -> nn.Module:
    data = [list(x.split(250)) for x in inputs]
    merged, _ = conjoin.merge_with_data(
        networks,
        data,
        align=align,
        weights=weights,
        private=private,
        batchnorm=batchnorm,
        examples=len(inputs[0]),
    )
    return conjoin.route(merged, data)[0] if inferred else merged


ROWS: dict[str, Merge | Mapping[str, Merge]] = {
    "first specialist": lambda networks, _: networks[0],
    "second specialist": lambda networks, _: networks[1],
    "ensemble of outputs (2 networks)": lambda networks, _: list(networks),
    "mean + re-estimated": _mean,
    "RegMean": {f"ratio {r}": partial(regmean, ratio=r) for r in (0.9, 0.5)},
    "RegMean, aligned": {f"ratio {r}": partial(regmean, ratio=r, aligned=True) for r in (0.9, 0.5)},
    "ZipIt": {
        f"alpha {a}, beta {b}": partial(zipit, alpha=a, beta=b)
        for a, b in ((0.3, 0.125), (0.1, 1.0), (0.3, 1.0), (1.0, 1.0))
    },
    "PLeaS": {
        f"matched by {matching}": partial(pleas, matching=matching)
        for matching in ("activations", "weights")
    },
    **{
        f"conjoin: aligned by {method}, mean + re-estimated": partial(_aligned, method=method)
        for method in ("weights", "activations")
    },
    "conjoin: least squares, nothing chosen by labels": _least_squares,
    "conjoin: least squares": {
        f"shares 1:{n}": partial(_least_squares, weights=(1, n)) for n in (1, 2, 3)
    },
    **{
        f"conjoin: least squares, {name} per task *": partial(_least_squares, private=layers)
        for name, layers in {
            "classifier": ["classifier*"],
            "classifier and block_4.3 on": ["block_4.3", "block_4.6", "classifier*"],
            "block 1 and classifier": ["block_1*", "classifier*"],
        }.items()
    },
    **{
        f"conjoin: least squares, {name} per task *": {
            f"shares 1:{n}": partial(
                _least_squares, weights=(1, n), private=layers, batchnorm="private"
            )
            for n in (1, 2)
        }
        for name, layers in {
            "BatchNorm": (),
            "BatchNorm and 1 % of the weights": 0.01,
            "BatchNorm and 5 % of the weights": 0.05,
            "BatchNorm and 10 % of the weights": 0.1,
        }.items()
    },
    "conjoin: least squares, BatchNorm and 5 %, task inferred": {
        f"shares 1:{n}": partial(
            _least_squares, weights=(1, n), private=0.05, batchnorm="private", inferred=True
        )
        for n in (1, 2)
    },
}
"""Name -> how the row is made. Of several ways (by setting), each seed takes the best on labelled
validation images, which is more than the others may know."""


@dataclass(frozen=True)
class Pair:
    """Two specialists of one seed, with the data of their tasks in the same order."""

    networks: tuple[nn.Module, nn.Module]
    inputs: tuple[Tensor, Tensor]
    validation: tuple[Part, Part]
    test: tuple[Part, Part]


def load(
    run: Path,
    seed: int,
    images: int,
    *,
    shared: bool = False,
    choosing: int = 1000,
    test: int | None = None,
) -> Pair:
    """Read a pair from the folder of a finished `conjoin digits` run.

    Args:
        run: the folder; only read.
        seed: one of the run's.
        images: unlabelled training images of each task.
        shared: take the second specialist that began from the first one's initialization.
        choosing: labelled validation images of each task.
        test: test images of each task; None for all.

    Raises:
        CheckpointError: the run has no networks of this seed.
        DataError: its cache has no such images.
    """
    settings = json.loads((run / "results.json").read_text("utf-8"))["run"]["settings"]

    def network(name: str) -> nn.Module:
        made = new_network(0, width=settings["width"])
        made.load_state_dict(
            dict(open_checkpoint(run / f"checkpoints/seed-{seed}/{name}.safetensors"))
        )
        return made.eval()

    def part(task: int, split: str, count: int | None = None) -> Part:
        wanted = {
            "source": settings["sources"][task],
            "split": split,
            "count": settings["counts"][task][split],
            "seed": seed if split == "train" else None,
        }
        stored = open_checkpoint(_cached(run / "cache", wanted) / "images.safetensors")
        return to_input(stored["images"][:count]), stored["labels"][:count]

    return Pair(
        (network("first"), network("second-shared-start" if shared else "second")),
        (part(0, "train", images)[0], part(1, "train", images)[0]),
        (part(0, "validation", choosing), part(1, "validation", choosing)),
        (part(0, "test", test), part(1, "test", test)),
    )


def _cached(cache: Path, settings: Mapping[str, Any]) -> Path:
    for manifest in cache.glob("images-*/stage.json"):
        if json.loads(manifest.read_text("utf-8"))["settings"] == settings:
            return manifest.parent
    name = settings["source"].partition(";")[0]
    raise DataError(
        f"{cache} has no {settings['split']} images of {name!r}, {settings['count']} of seed "
        f"{settings['seed']}: was the cache of this run removed?"
    )


def measure(row: Merge | Mapping[str, Merge], pair: Pair) -> dict[str, Any]:
    """Make one row of one seed.

    Returns:
        ``correct``: for each task, bool [N] over its test images; ``seconds`` of the chosen way;
        ``chosen``, and ``tried``: mean accuracy on validation images by setting, where there are
        several.
    """
    ways = {"": row} if callable(row) else dict(row)
    made: dict[str, tuple[Merged, float]] = {}
    for name, way in ways.items():
        start = time.perf_counter()
        merged = way(pair.networks, pair.inputs)
        made[name] = merged, time.perf_counter() - start
    tried = {}
    if len(made) > 1:
        for name, (merged, _) in made.items():
            tried[name] = float(np.mean([one.mean() for one in _of_both(merged, pair.validation)]))
    chosen = max(made, key=lambda name: tried.get(name, 0.0))
    merged, seconds = made[chosen]
    correct = _of_both(merged, pair.test)
    return {"correct": correct, "seconds": seconds, "chosen": chosen, "tried": tried}


def _of_both(merged: Merged, parts: Sequence[Part]) -> list[np.ndarray]:
    told = isinstance(merged, TaskNetworks)
    chosen = [merged.for_task(str(k)) if told else merged for k in range(len(parts))]
    return [_correct(one, part) for one, part in zip(chosen, parts, strict=True)]


def _correct(merged: Merged, part: Part) -> np.ndarray:
    correct = outcomes(merged, part, "task").correct
    assert correct is not None
    return correct.numpy()


def _summary(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Give what is shown of one row: percent, over seeds."""
    tasks = [
        100.0 * np.stack([one["correct"][k] for one in found]) for k in range(2)
    ]  # each [seeds, test images]
    count = min(scores.shape[1] for scores in tasks)
    both = (tasks[0][:, :count] + tasks[1][:, :count]) / 2
    interval = paired_interval(both, np.zeros_like(both))
    return {
        "accuracy": [float(scores.mean()) for scores in tasks],
        "mean": float(np.mean([scores.mean() for scores in tasks])),
        "interval": [interval.low, interval.high],
        "by seed": [[float(scores[k].mean()) for scores in tasks] for k in range(len(found))],
        "seconds": statistics.median(one["seconds"] for one in found),
        "chosen": [one["chosen"] for one in found],
        "tried": [one["tried"] for one in found],
    }


def table(report: Mapping[str, Any]) -> str:
    """Show one line for each row."""
    lines = [
        "{images} unlabelled images of each task, {test images} test images, seeds {seeds}, "
        "{start}; {threads} threads, torch {torch}, {machine}".format(**report),
        "",
        f"{'':<58}{'first':>8}{'second':>8}{'mean':>8}{'95 %':>16}{'seconds':>9}",
    ]
    for name, row in report["rows"].items():
        first, second = row["accuracy"]
        interval = "{:.1f} - {:.1f}".format(*row["interval"])
        lines.append(
            f"{name:<58}{first:>8.1f}{second:>8.1f}{row['mean']:>8.1f}{interval:>16}"
            f"{row['seconds']:>9.1f}"
        )
        if row["chosen"][0]:
            lines.append(f"{'':<4}chosen on validation images: " + "; ".join(row["chosen"]))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all rows and print a table, or JSON."""
    parser = argparse.ArgumentParser(description="Merge specialists of different tasks.")
    parser.add_argument("--run", type=Path, required=True, help="finished `conjoin digits` run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the run")
    parser.add_argument("--images", type=int, default=2000, help="of each task (default: 2000)")
    parser.add_argument("--test", type=int, help="test images of each task (default: all)")
    parser.add_argument("--only", default="*", help="pattern of the rows, such as 'ZipIt*'")
    parser.add_argument(
        "--shared-start", action="store_true", help="specialists of one initialization"
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--json", action="store_true", help="print JSON in the place of a table")
    options = parser.parse_args(arguments)
    if min(options.images, options.threads) < 1 or (options.test or 2) < 2:
        parser.error("--images and --threads must be at least 1, and --test at least 2")
    rows = {name: row for name, row in ROWS.items() if fnmatch.fnmatch(name, options.only)}
    if not rows:
        parser.error(f"--only {options.only!r} is none of: {', '.join(ROWS)}")
    torch.set_num_threads(options.threads)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in rows}
    for seed in options.seeds:
        pair = load(
            options.run, seed, options.images, shared=options.shared_start, test=options.test
        )
        for name, row in rows.items():
            found[name].append(measure(row, pair))
            last = found[name][-1]
            accuracy = " / ".join(f"{100 * correct.mean():.1f}" for correct in last["correct"])
            print(f"seed {seed}  {name}: {accuracy}  {last['chosen']}", file=sys.stderr, flush=True)
    report = {
        "run": str(options.run),
        "images": options.images,
        "test images": options.test or "all",
        "seeds": options.seeds,
        "start": "one initialization" if options.shared_start else "different initializations",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "conjoin": conjoin.__version__,
        "machine": platform.machine(),
        "rows": {name: _summary(of_seeds) for name, of_seeds in found.items()},
    }
    print(json.dumps(report, indent=1) if options.json else table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
