"""An MLP and a ResNet20 of twice the usual width, trained and kept; and pairs of different tasks.

    python benchmarks/architectures.py --cache FOLDER --task mnist:FOLDER [--seeds 0] [--json]

Here run the peers of different_tasks.py, and rows of conjoin, on pairs of MNIST and rendered street
numbers of these architectures, each trained from a start of its own. `same_task.py` takes pairs of
one task. How to read the numbers: benchmarks/README.md.

A trained network is kept in a folder, so that a later run is cheap. What decides its weights is its
name there: architecture, task, how it is trained, the seed of its images and its start.

Both see the digits' images of 32 x 32 (uint8) in a smaller form, the same for every task:

    mlp         the 28 x 28 in the middle (all that MNIST has), as 784 numbers; 784-512-512-10
    resnet20x2  means of 2 x 2, so 16 x 16; stages of 32, 64 and 128 channels at 16, 8 and 4 pixels

in -1..1. MLPs are trained by Adam, ResNets by SGD with Nesterov momentum .9 and weight decay 5e-4
under bfloat16 autocast, both under a one-cycle learning rate, in batches of 128.
"""

import argparse
import fnmatch
import itertools
import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import different_tasks
import torch
from different_tasks import Merge, Merged, Pair
from peers.otfusion import otfusion
from planted_recovery import Block
from torch import Tensor, nn
from torch.nn import functional as F

import conjoin
from conjoin.checkpoints import open_checkpoint, save
from conjoin.experiments.digits.sources import Split, open_source
from conjoin.experiments.digits.training import to_input
from conjoin.stages import Stage, StageCache

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Data",
    "Recipe",
    "main",
    "mlp",
    "pair_of",
    "resnet20x2",
    "rows_of",
    "trained",
]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Args:
        epochs: passes through the images.
        optimizer: ``adam`` or ``sgd``.
        learning_rate: the highest of the one-cycle schedule.
        images: of the task, at most.
        bfloat16: whether layers run under autocast.
        batch_size: images of a step.
    """

    epochs: int
    optimizer: Literal["adam", "sgd"]
    learning_rate: float
    images: int
    bfloat16: bool = False
    batch_size: int = 128


@dataclass(frozen=True)
class Architecture:
    """A kind of network.

    Args:
        make: gives an untrained network, of the width of its layers that the next gives.
        width: hidden units, or channels of the first stage.
        prepare: images uint8 [N, 1, 32, 32] -> its inputs.
        recipes: task -> how it is trained.
    """

    make: Callable[[int], nn.Module]
    width: int
    prepare: Callable[[Tensor], Tensor]
    recipes: Mapping[str, Recipe]


def mlp(width: int = 512) -> nn.Module:
    """Give 784 - width - width - 10, with ReLU."""
    return nn.Sequential(
        nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )


def resnet20x2(width: int = 32) -> nn.Module:
    """Give a ResNet20 for grey images: three stages of three blocks, from `width` channels on."""
    layers: list[nn.Module] = [nn.Conv2d(1, width, 3, padding=1, bias=False)]
    layers += [nn.BatchNorm2d(width), nn.ReLU()]
    channels = width
    for stage, block in itertools.product(range(3), range(3)):
        layers.append(Block(channels, width << stage, 2 if stage and not block else 1))
        channels = width << stage
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
    return nn.Sequential(*layers)


def _middle(images: Tensor) -> Tensor:
    return to_input(images[:, 0, 2:-2, 2:-2]).flatten(1)


def _halved(images: Tensor) -> Tensor:
    return F.avg_pool2d(to_input(images), 2)


_SGD = Recipe(epochs=4, optimizer="sgd", learning_rate=0.1, images=24_000, bfloat16=True)

ARCHITECTURES: dict[str, Architecture] = {
    "mlp": Architecture(
        mlp,
        512,
        _middle,
        {"mnist": Recipe(5, "adam", 1e-3, 50_000), "street": Recipe(15, "adam", 1e-3, 24_000)},
    ),
    "resnet20x2": Architecture(resnet20x2, 32, _halved, {"mnist": _SGD, "street": _SGD}),
}


@dataclass(frozen=True)
class Data:
    """The images of the two tasks.

    Args:
        sources: ``mnist`` and ``street`` -> a source, as `conjoin digits` writes it.
    """

    sources: Mapping[str, str]

    def part(
        self, task: str, split: Split, count: int | None = None, seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Give images uint8 [N, 1, 32, 32] and labels [N]; all that there are for None."""
        found = open_source(self.sources[task]).load(split, count, seed=seed)
        return found.images, found.labels


def trained(
    name: str,
    task: str,
    seed: int,
    start: int,
    *,
    data: Data,
    cache: Path,
    smaller: Mapping[str, int] = MappingProxyType({}),
) -> nn.Module:
    """Give a trained network in eval mode; train it if the folder does not have it.

    Args:
        name: of `ARCHITECTURES`.
        task: ``mnist`` or ``street``.
        seed: chooses the training images.
        start: with the seed, decides the initialization and the order of the images.
        data: where images come from.
        cache: folder of trained networks.
        smaller: ``width``, ``images`` or ``epochs`` in the place of the usual.
    """
    kind = ARCHITECTURES[name]
    width = smaller.get("width", kind.width)
    recipe = replace(
        kind.recipes[task], **{key: value for key, value in smaller.items() if key != "width"}
    )
    settings = {
        "architecture": name,
        "width": width,
        "task": open_source(data.sources[task]).identity(),
        "recipe": asdict(recipe),
        "seed": seed,
        "start": start,
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    random = 1000 * seed + start
    with torch.random.fork_rng(devices=[]):  # initializers know the global generator only
        torch.manual_seed(random)
        network = kind.make(width)

    def make(out: Path, _: Path) -> None:
        images, labels = data.part(task, "train", recipe.images, seed)
        save(_train(network, kind.prepare(images), labels, recipe, random), out / "net.safetensors")

    folder = StageCache(cache).get(Stage("trained", 1, settings), make)
    network.load_state_dict(dict(open_checkpoint(folder / "net.safetensors")))
    return network.eval()


_OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
}


def _train(
    network: nn.Module, inputs: Tensor, labels: Tensor, recipe: Recipe, seed: int
) -> nn.Module:
    """Train in place, on whole batches in a new order in each epoch."""
    steps = len(labels) // recipe.batch_size
    optimizer = _OPTIMIZERS[recipe.optimizer](network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.epochs * steps, cycle_momentum=False
    )
    generator = torch.Generator().manual_seed(seed)
    if inputs.dim() == 4:
        network.to(memory_format=torch.channels_last)
    network.train()
    for _ in range(recipe.epochs):
        order = torch.randperm(len(labels), generator=generator)
        for batch in order[: steps * recipe.batch_size].reshape(steps, -1):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
                logits = network(inputs[batch])
            F.cross_entropy(logits.float(), labels[batch]).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            schedule.step()
    return network.to(memory_format=torch.contiguous_format).eval()


def pair_of(
    name: str,
    seed: int,
    *,
    data: Data,
    cache: Path,
    images: int = 2000,
    choosing: int = 1000,
    test: int | None = None,
    smaller: Mapping[str, int] = MappingProxyType({}),
) -> Pair:
    """Give specialists of the two tasks, from different starts.

    Args:
        name: of `ARCHITECTURES`.
        seed: of the training images and starts.
        data: where images come from.
        cache: folder of trained networks.
        images: unlabelled training images of each task.
        choosing: labelled validation images of each task.
        test: test images of each task; None for all of the first, and as many of the second.
        smaller: as `trained` takes it.
    """
    prepare = ARCHITECTURES[name].prepare
    first, second = (
        trained(name, task, seed, start, data=data, cache=cache, smaller=smaller)
        for task, start in (("mnist", 0), ("street", 3))
    )

    def part(task: str, split: Split, count: int | None) -> tuple[Tensor, Tensor]:
        x, y = data.part(task, split, count, seed)
        return prepare(x), y

    tested = part("mnist", "test", test)
    return Pair(
        (first, second),
        (part("mnist", "train", images)[0], part("street", "train", images)[0]),
        (part("mnist", "validation", choosing), part("street", "validation", choosing)),
        (tested, part("street", "test", len(tested[1]))),
    )


def rows_of(name: str, pair: Pair) -> dict[str, Merge | Mapping[str, Merge]]:
    """Give specialists and peers of different_tasks.py, and conjoin's rows for any architecture."""
    rows = {
        title: row
        for title, row in different_tasks.ROWS.items()
        # Those know the layers of the digit network, or re-estimate BatchNorm, which an MLP lacks.
        if not title.startswith("conjoin") and title != "mean + re-estimated"
    }
    rows["mean + repair"] = partial(_repaired, method=None)
    rows["aligned + repair"] = {
        f"by {method}": partial(_repaired, method=method) for method in ("weights", "activations")
    }
    if name == "mlp":
        rows["OTFusion"] = {
            "weights": partial(otfusion, metric="weights"),
            "activations": partial(otfusion, metric="activations"),
        }
    rows["conjoin, least squares"] = partial(_fitted, validation=None)
    rows["conjoin, least squares, weights auto"] = partial(_fitted, validation=pair.validation)
    return rows


def _repaired(
    networks: Sequence[nn.Module], inputs: Sequence[Tensor], *, method: str | None
) -> Merged:
    first, second = networks
    if method is not None:
        batches = None if method == "weights" else [b for x in inputs for b in x.split(250)]
        example = inputs[0][:2]
        second = conjoin.align(second, first, example, method=method, data=batches).apply(second)
    merged = conjoin.merge([first, second])
    data = [(x, torch.zeros(len(x))) for x in inputs]  # labels are not looked at
    return conjoin.repair(merged, [first, second], data)[0]


def _fitted(
    networks: Sequence[nn.Module],
    inputs: Sequence[Tensor],
    *,
    validation: Sequence[tuple[Tensor, Tensor]] | None,
) -> Merged:
    batches = [list(x.split(250)) for x in inputs]
    if validation is None:
        return conjoin.merge_with_data(networks, batches)[0]
    return conjoin.merge_with_data(networks, batches, weights="auto", validation=validation)[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, measure all rows, print a table for each architecture, or JSON."""
    parser = argparse.ArgumentParser(description="Merge specialists of other architectures.")
    parser.add_argument("--cache", type=Path, required=True, help="folder of trained networks")
    parser.add_argument("--task", required=True, help="first task: mnist:FOLDER, handwritten, ...")
    parser.add_argument("--other", default="street", help="second task (default: street)")
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=2000, help="of each task (default: 2000)")
    parser.add_argument("--choosing", type=int, default=1000, help="validation images of each task")
    parser.add_argument("--test", type=int, help="test images of each task (default: all)")
    parser.add_argument("--only", default="*", help="pattern of the rows, such as 'ZipIt*'")
    for name in ("width", "epochs", "train-images"):
        parser.add_argument(f"--{name}", type=int, help="of training, in the place of the usual")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--json", action="store_true", help="print JSON in the place of tables")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    given = {"width": options.width, "epochs": options.epochs, "images": options.train_images}
    smaller = {name: value for name, value in given.items() if value is not None}
    data = Data({"mnist": options.task, "street": options.other})
    reports: dict[str, Any] = {}
    for name in options.architectures:
        found: dict[str, list[dict[str, Any]]] = {}
        for seed in options.seeds:
            pair = pair_of(
                name, seed, data=data, cache=options.cache, images=options.images,
                choosing=options.choosing, test=options.test, smaller=smaller,
            )  # fmt: skip
            for title, row in rows_of(name, pair).items():
                if not fnmatch.fnmatch(title, options.only):
                    continue
                last = different_tasks.measure(row, pair)
                found.setdefault(title, []).append(last)
                scores = " / ".join(f"{100 * one.mean():.1f}" for one in last["correct"])
                said = f"{name}, seed {seed}  {title}: {scores}  {last['chosen']}"
                print(said, file=sys.stderr, flush=True)
        reports[name] = {
            "images": options.images,
            "test images": options.test or "all",
            "seeds": options.seeds,
            "start": f"{name}, different initializations",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "conjoin": conjoin.__version__,
            "machine": platform.machine(),
            "rows": {title: different_tasks._summary(seeds) for title, seeds in found.items()},
        }
    shown = [different_tasks.table(report) for report in reports.values()]
    print(json.dumps(reports, indent=1) if options.json else "\n\n".join(shown))
    return 0


if __name__ == "__main__":
    sys.exit(main())
