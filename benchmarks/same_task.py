"""How far networks of one task, trained from different starts, lose when they are combined.

    CONJOIN_MNIST=FOLDER python benchmarks/same_task.py --cache FOLDER [--run FOLDER] [--json]

Two networks of `architectures.py`, or two of a finished run of `conjoin digits` (--run; read only),
are put into one order, combined and repaired. Nothing sees a label but the training of the networks
and the final count. Printed are, in points of accuracy on test images, over seeds:

    barrier    the largest drop below the line between the ends, at t = .1, .2, ... .9
    midpoint   the drop of the mean of both

with 95 % intervals; that of the barrier is at the t that was worst for each seed. Then three
networks are combined: once in the order that `align` finds for all, once with each of them as the
reference of the two others. How to read the numbers: benchmarks/README.md.
"""

import argparse
import fnmatch
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from architectures import ARCHITECTURES, Data, trained
from different_tasks import load
from torch import Tensor, nn

import conjoin
from conjoin.checkpoints import open_checkpoint
from conjoin.evaluation import outcomes
from conjoin.experiments.digits.network import new_network
from conjoin.measure import paired_interval
from conjoin.measure.interpolation import barriers
from conjoin.records import Record
from conjoin.repairing import has_batchnorm

__all__ = ["ORDERS", "REPAIRS", "Case", "case_of", "main", "measure_pair", "measure_three", "table"]

Correct = np.ndarray
"""Bool [N]: which test images are classified right."""


@dataclass(frozen=True)
class Case:
    """Networks of one task and seed.

    Args:
        networks: two or three, trained from different starts, in eval mode.
        inputs: of training images, without labels.
        test: inputs and labels.
    """

    networks: tuple[nn.Module, ...]
    inputs: Tensor
    test: tuple[Tensor, Tensor]


ORDERS: dict[str, str | None] = {"naive": None, "weights": "weights", "activations": "activations"}
"""Name -> method of `align`."""

Repair = Callable[[nn.Module, Sequence[nn.Module], Sequence[float], Tensor], nn.Module]
"""Of the combined network, the aligned parents, their shares, and inputs."""


def _reestimated(
    merged: nn.Module, _: Sequence[nn.Module], __: Sequence[float], inputs: Tensor
) -> nn.Module:
    return conjoin.reestimate_batchnorm(merged, _unlabelled(inputs))


def _repaired(
    merged: nn.Module, parents: Sequence[nn.Module], shares: Sequence[float], inputs: Tensor
) -> nn.Module:
    return conjoin.repair(merged, parents, [_unlabelled(inputs)], weights=shares)[0]


REPAIRS: dict[str, Repair | None] = {"": None, "re-estimated": _reestimated, "repair": _repaired}
"""Name -> what is done to each combined network. With BatchNorm, statistics are re-estimated, and
`repair`, which tries that and more and takes long, is done in the middle alone."""


def case_of(
    name: str,
    seed: int,
    *,
    data: Data,
    cache: Path,
    run: Path | None = None,
    count: int = 2,
    images: int = 2000,
    test: int | None = None,
    smaller: Mapping[str, int] = MappingProxyType({}),
) -> Case:
    """Give the networks of a seed.

    Args:
        name: of `ARCHITECTURES`, or ``vgg`` for those of `run`.
        seed: of the training images and starts.
        data: where images come from.
        cache: folder of trained networks.
        run: a finished run of `conjoin digits`. It has two networks of each seed; the third is the
            first one of the next seed, which was trained on other images of the same data set.
        count: 2 or 3 networks.
        images: unlabelled training images.
        test: test images; None for all.
        smaller: as `architectures.trained` takes them.
    """
    if name == "vgg":
        if run is None:
            raise ValueError("the networks of vgg are those of a run: give its folder by --run")
        pair = load(run, seed, images, test=test)
        networks = [_of_run(run, seed, "first"), _of_run(run, seed, "first-again")]
        if count == 3:
            seeds = len(list((run / "checkpoints").glob("seed-*")))
            networks.append(_of_run(run, (seed + 1) % seeds, "first"))
        return Case(tuple(networks), pair.inputs[0], pair.test[0])
    prepare = ARCHITECTURES[name].prepare
    one = partial(trained, name, "mnist", seed, data=data, cache=cache, smaller=smaller)
    inputs, _ = data.part("mnist", "train", images, seed)
    held, labels = data.part("mnist", "test", test)
    networks = [one(start) for start in range(count)]
    return Case(tuple(networks), prepare(inputs), (prepare(held), labels))


def _of_run(run: Path, seed: int, name: str) -> nn.Module:
    settings = json.loads((run / "results.json").read_text("utf-8"))["run"]["settings"]
    network = new_network(0, width=settings["width"])
    stored = open_checkpoint(run / f"checkpoints/seed-{seed}/{name}.safetensors")
    network.load_state_dict(dict(stored))
    return network.eval()


def measure_pair(case: Case, only: str = "*", points: int = 11) -> dict[str, dict[str, Any]]:
    """Measure the line between the first two networks, in every way that `only` matches.

    Returns:
        Name of the way -> ``correct`` by t, each bool [N], and ``seconds`` for one network. Least
        squares has the middle alone.
    """
    first, second = case.networks[:2]
    ends = {0.0: _correct(first, case.test), 1.0: _correct(second, case.test)}
    batches = list(case.inputs.split(250))
    symmetries = conjoin.find_symmetries(first, case.inputs[:2])
    found = {}
    for order, method in ORDERS.items():
        began = time.perf_counter()
        other = second
        if method is not None:
            data = None if method == "weights" else batches
            given = conjoin.align(second, to=first, symmetries=symmetries, method=method, data=data)
            other = given.apply(second)
        aligning = time.perf_counter() - began
        for repair_name, repair in REPAIRS.items():
            name = f"{order} + {repair_name}" if repair_name else order
            missing = repair is _reestimated and not has_batchnorm(first)
            if missing or not fnmatch.fnmatch(name, only):
                continue
            inner = [n / (points - 1) for n in range(1, points - 1)]
            if repair is _repaired and has_batchnorm(first):
                inner = [0.5]
            line, took = dict(ends), []
            for t in inner:
                began = time.perf_counter()
                network = _combined([first, other], [1 - t, t], repair, case.inputs)
                took.append(time.perf_counter() - began)
                line[t] = _correct(network, case.test)
            found[name] = {"correct": line, "seconds": aligning + statistics.median(took)}
    if fnmatch.fnmatch("least squares", only):
        began = time.perf_counter()
        fitted, _ = conjoin.merge_with_data([first, second], [batches, batches])
        seconds = time.perf_counter() - began
        line = {**ends, 0.5: _correct(fitted, case.test)}
        found["least squares"] = {"correct": line, "seconds": seconds}
    return found


def measure_three(case: Case) -> dict[str, Correct]:
    """Combine three networks, in their common order and in that of each of them.

    Returns:
        ``METHOD common`` and ``METHOD reference N`` -> bool [N], of the mean of three, repaired.
    """
    networks = list(case.networks)
    batches = list(case.inputs.split(250))
    symmetries = conjoin.find_symmetries(networks[0], case.inputs[:2])
    repair = _reestimated if has_batchnorm(networks[0]) else _repaired
    found = {}
    for method in ("weights", "activations"):
        align = partial(
            conjoin.align,
            symmetries=symmetries,
            method=method,
            data=None if method == "weights" else batches,
        )
        orders = {"common": [g.apply(n) for g, n in zip(align(networks), networks, strict=True)]}
        for number, reference in enumerate(networks):
            orders[f"reference {number}"] = [
                n if n is reference else align(n, to=reference).apply(n) for n in networks
            ]
        for order, aligned in orders.items():
            network = _combined(aligned, [1 / 3] * 3, repair, case.inputs)
            found[f"{method} {order}"] = _correct(network, case.test)
    return found


def _combined(
    networks: Sequence[nn.Module], shares: Sequence[float], repair: Repair | None, inputs: Tensor
) -> nn.Module:
    merged = conjoin.merge(list(networks), "linear", weights=tuple(shares))
    return merged if repair is None else repair(merged, networks, shares, inputs)


def _unlabelled(inputs: Tensor) -> tuple[Tensor, Tensor]:
    return inputs, torch.zeros(len(inputs))  # what stands in the place of labels is not looked at


def _correct(network: nn.Module, test: tuple[Tensor, Tensor]) -> Correct:
    correct = outcomes(network, test, "task").correct
    assert correct is not None
    return correct.numpy()


def pair_summary(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Give what is shown of one way: points of accuracy, over seeds."""
    records, worst, middle = [], [], []
    for seed, one in enumerate(found):
        line = one["correct"]
        below = {t: _drop(line, t) for t in line if 0 < t < 1}  # each [N], percent
        worst.append(max(below.values(), key=np.mean))
        middle.append(below[0.5])
        how = {"view": "interpolation", "from": "a", "to": "b", "reestimated": False}
        records += [
            Record(
                "line", "task", "test", seed, "accuracy", 100.0 * c.mean(), len(c), how | {"t": t}
            )
            for t, c in line.items()
        ]
    whole = len(found[0]["correct"]) > 3
    return {
        "barriers": [float(record.value) for record in barriers(records)] if whole else None,
        "barrier": _interval(worst) if whole else None,
        "middles": [float(one.mean()) for one in middle],
        "middle": _interval(middle),
        "seconds": statistics.median(one["seconds"] for one in found),
    }


def _drop(line: Mapping[float, Correct], t: float) -> np.ndarray:
    return 100.0 * ((1 - t) * line[0.0] + t * line[1.0] - line[t])


def three_summary(found: Sequence[Mapping[str, Correct]]) -> dict[str, Any]:
    """Compare the common order with the reference that is best on the test images, by seed."""
    report: dict[str, Any] = {}
    for method in ("weights", "activations"):
        common = [100.0 * one[f"{method} common"] for one in found]
        best = [
            100.0 * max((one[f"{method} reference {n}"] for n in range(3)), key=np.mean)
            for one in found
        ]
        report[method] = {
            "common": [float(one.mean()) for one in common],
            "references": [
                [float(100.0 * one[f"{method} reference {n}"].mean()) for n in range(3)]
                for one in found
            ],
            "better by": _interval([c - b for c, b in zip(common, best, strict=True)]),
        }
    return report


def _interval(differences: Sequence[np.ndarray]) -> tuple[float, float, float]:
    scores = np.stack(differences)
    found = paired_interval(scores, np.zeros_like(scores))
    return found.value, found.low, found.high


def table(report: Mapping[str, Any]) -> str:
    """Show one line for each way and architecture."""
    lines = [
        "{images} unlabelled images, {test images} test images, seeds {seeds}; torch {torch}, "
        "{threads} threads".format(**report)
    ]
    for name, part in report["architectures"].items():
        ends = " / ".join(f"{a:.2f}" for a in part["ends"])
        lines += ["", f"{name}: ends {ends} %"]
        lines.append(f"{'':<28}{'barrier':>8}{'95 %':>16}{'midpoint':>10}{'95 %':>16}{'sec':>7}")
        for way, row in part["rows"].items():
            barrier = (
                ("", "") if row["barrier"] is None else _shown(row["barriers"], row["barrier"])
            )
            middle = _shown(row["middles"], row["middle"])
            lines.append(
                f"{way:<28}{barrier[0]:>8}{barrier[1]:>16}{middle[0]:>10}{middle[1]:>16}"
                f"{row['seconds']:>7.1f}"
            )
        for method, row in (part["three"] or {}).items():
            better = row["better by"]
            references = "; ".join(
                " ".join(f"{one:.2f}" for one in seed) for seed in row["references"]
            )
            lines.append(
                f"three, {method}: common {' '.join(f'{one:.2f}' for one in row['common'])}, "
                f"references {references}; common - best reference "
                f"{better[0]:.2f} ({better[1]:.2f} to {better[2]:.2f})"
            )
    return "\n".join(lines)


def _shown(by_seed: Sequence[float], interval: Sequence[float]) -> tuple[str, str]:
    return f"{statistics.mean(by_seed):.2f}", f"{interval[1]:.2f} to {interval[2]:.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, measure, print a table, or JSON."""
    parser = argparse.ArgumentParser(description="Combine networks of one task.")
    parser.add_argument("--cache", type=Path, required=True, help="folder of trained networks")
    parser.add_argument("--run", type=Path, help="finished `conjoin digits` run, for vgg")
    folder = os.environ.get("CONJOIN_MNIST")
    parser.add_argument(
        "--task",
        default=f"mnist:{folder}" if folder else None,
        help="mnist:FOLDER, or another source of `conjoin digits` (default: MNIST of the folder "
        "that CONJOIN_MNIST names)",
    )
    parser.add_argument("--architectures", nargs="+", choices=["vgg", *ARCHITECTURES])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=2000, help="unlabelled (default: 2000)")
    parser.add_argument("--test", type=int, help="test images (default: all)")
    parser.add_argument("--only", default="*", help="pattern of the ways, such as 'weights*'")
    parser.add_argument("--points", type=int, default=11, help="of a line (default: 11)")
    parser.add_argument("--three", nargs="*", default=["vgg", "mlp"], help="combine three of these")
    for name in ("width", "epochs", "train-images"):
        parser.add_argument(f"--{name}", type=int, help="of training, in the place of the usual")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--json", action="store_true", help="print JSON in the place of a table")
    options = parser.parse_args(arguments)
    if options.task is None:
        parser.error("give --task, or the folder of MNIST in CONJOIN_MNIST")
    if options.points < 3 or options.points % 2 == 0:
        parser.error("--points must be odd, so that the midpoint is one of them, and at least 3")
    torch.set_num_threads(options.threads)
    given = {"width": options.width, "epochs": options.epochs, "images": options.train_images}
    smaller = {name: value for name, value in given.items() if value is not None}
    data = Data({"mnist": options.task, "street": "street"})
    usual = [*(["vgg"] if options.run else []), *ARCHITECTURES]
    parts: dict[str, Any] = {}
    for name in options.architectures or usual:
        pairs, threes = [], []
        for seed in options.seeds:
            case = case_of(
                name, seed, data=data, cache=options.cache, run=options.run,
                count=3 if name in options.three else 2,
                images=options.images, test=options.test, smaller=smaller,
            )  # fmt: skip
            pairs.append(measure_pair(case, options.only, options.points))
            _say(name, seed, {way: pair_summary([one]) for way, one in pairs[-1].items()})
            if name in options.three:
                threes.append(measure_three(case))
                _say(name, seed, three_summary(threes[-1:]))
        ways = {way: [one[way] for one in pairs] for way in pairs[0]}
        line = next(iter(ways.values()), [])
        parts[name] = {
            "ends": [float(100 * np.mean([s["correct"][t] for s in line])) for t in (0.0, 1.0)],
            "rows": {way: pair_summary(found) for way, found in ways.items()},
            "three": three_summary(threes) if threes else None,
        }
    report = {
        "task": options.task,
        "images": options.images,
        "test images": options.test or "all",
        "seeds": options.seeds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "conjoin": conjoin.__version__,
        "architectures": parts,
    }
    print(json.dumps(report, indent=1) if options.json else table(report))
    return 0


def _say(name: str, seed: int, found: Mapping[str, Any]) -> None:
    for way, row in found.items():
        print(f"{name}, seed {seed}, {way}: {json.dumps(row)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
