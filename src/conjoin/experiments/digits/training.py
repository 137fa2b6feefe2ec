"""Training the digit networks.

One loop serves every network of the experiment (`conjoin.coupling.training`). A step takes one
batch of each task and runs them through the network together, so that BatchNorm sees the mixture:

    loss = mean over tasks of cross_entropy(logits of the task's images, labels)

One task gives a specialist; two tasks give the network on all data; two tasks and a head for each
give the two-headed network. A task with fewer images is gone through again.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conjoin.coupling.training import Learner, Recipe, mixed_seed, train_models
from conjoin.errors import InputError
from conjoin.experiments.digits.sources.source import Images
from conjoin.modules import MultiHead

__all__ = [
    "Precision",
    "Schedule",
    "TwoHeaded",
    "in_images",
    "learner_of",
    "native_precision",
    "recipe_of",
    "to_input",
    "train",
]

Precision = Literal["float32", "bfloat16"]

TRAINING_VERSION = 1
"""Raised whenever a change of this file changes what a training gives."""


@dataclass(frozen=True)
class Schedule:
    """How a network is trained: SGD with Nesterov momentum .9 under a one-cycle learning rate.

    Args:
        epochs: passes through the longest task.
        batch_size: images of each task in a step.
        learning_rate: the highest of the cycle.
        weight_decay: of SGD (added to the gradient).
        clip: largest norm of the gradient.
        precision: ``bfloat16`` runs the layers under autocast; weights stay float32.
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float = 0.05
    weight_decay: float = 5e-4
    clip: float = 5.0
    precision: Precision = "float32"


class TwoHeaded(MultiHead):
    """The digit network with one trunk (the four blocks) and a classifier for each task."""


def native_precision(device: torch.device) -> Precision:
    """Give ``bfloat16`` where the device computes it natively, else ``float32``."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu" and _cpu_has_bfloat16():
        return "bfloat16"
    return "float32"


def to_input(images: Tensor) -> Tensor:
    """Grey values 0..255 (uint8) -> float32 in -1..1, the same for every task."""
    return images.to(torch.float32).div_(127.5).sub_(1.0)


def train(
    network: nn.Module,
    tasks: Mapping[str, Images],
    schedule: Schedule,
    *,
    seed: int,
    device: torch.device,
    work: Path,
    on_batch: Callable[[int, int], None] | None = None,
) -> nn.Module:
    """Train a copy of `network` and give it back on the CPU, in eval mode.

    Args:
        network: a module of images, or a `MultiHead` with a head per task.
        tasks: training images by task.
        schedule: epochs, batch, learning rate...
        seed: decides the order of the images and the dropout.
        device: where to train.
        work: a folder for the state after each epoch; a later call with the same arguments goes on
            from there and ends with the same bits.
        on_batch: called with (images done, images in all).
    """
    if not tasks:
        raise InputError("training needs at least one task")
    recipe = recipe_of(schedule, max(len(images) for images in tasks.values()))
    learner = learner_of(network, tasks, schedule, recipe, seed=seed, device=device)
    per_step = schedule.batch_size * len(tasks)
    trained = train_models(
        {"network": learner},
        recipe,
        device=device,
        work=work,
        on_step=in_images(on_batch, per_step),
    )
    return trained.modules["network"]


def recipe_of(schedule: Schedule, longest: int) -> Recipe:
    """Give the loop's own form of a schedule.

    Args:
        schedule: epochs are those of the longest task.
        longest: images of that task.

    Raises:
        InputError: they do not fill a batch.
    """
    steps = longest // schedule.batch_size
    if steps == 0:
        raise InputError(f"{longest} images do not fill one batch of {schedule.batch_size}")
    return Recipe(
        schedule.epochs, steps, partial(_optimizer, schedule), partial(_one_cycle, schedule),
        schedule.clip,
    )  # fmt: skip


def learner_of(
    network: nn.Module,
    tasks: Mapping[str, Images],
    schedule: Schedule,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
) -> Learner:
    """Give a network with the images that it is trained on; see `train`."""
    return Learner(
        network,
        partial(_batches, tasks, schedule.batch_size, recipe.steps, seed),
        partial(_loss, schedule, device),
        seed,
    )


def in_images(
    on_batch: Callable[[int, int], None] | None, per_step: int
) -> Callable[[int, int], None] | None:
    """Turn what is told of images into what is told of steps."""
    if on_batch is None:
        return None
    return lambda done, total: on_batch(done * per_step, total * per_step)


def _optimizer(schedule: Schedule, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        parameters,
        schedule.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=schedule.weight_decay,
    )


def _one_cycle(
    schedule: Schedule, optimizer: torch.optim.Optimizer, total: int
) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.learning_rate, total_steps=total, cycle_momentum=False
    )


def _inputs(device: torch.device, batch: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
    images = to_input(torch.cat([images for images, _ in batch.values()]).to(device))
    return images.contiguous(memory_format=torch.channels_last)


def _loss(
    schedule: Schedule,
    device: torch.device,
    network: nn.Module,
    batch: Mapping[str, tuple[Tensor, Tensor]],
) -> Tensor:
    images = _inputs(device, batch)
    with torch.autocast(device.type, torch.bfloat16, enabled=schedule.precision == "bfloat16"):
        if isinstance(network, MultiHead):
            parts = network.trunk(images).chunk(len(batch))
            logits = [network.head(task)(part) for task, part in zip(batch, parts, strict=True)]
        else:
            logits = list(network(images).chunk(len(batch)))
    losses = [
        F.cross_entropy(task_logits.float(), labels.to(device))
        for task_logits, (_, labels) in zip(logits, batch.values(), strict=True)
    ]
    return torch.stack(losses).mean()


def _batches(
    tasks: Mapping[str, Images], size: int, steps: int, seed: int, epoch: int
) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Give `steps` batches; each task in a new order, cycled when it is shorter."""
    orders = {}
    for number, (task, images) in enumerate(tasks.items()):
        generator = torch.Generator().manual_seed(mixed_seed(seed, epoch, number + 1))
        rounds = math.ceil(steps * size / len(images))
        order = [torch.randperm(len(images), generator=generator) for _ in range(rounds)]
        orders[task] = torch.cat(order)[: steps * size].reshape(steps, size)
    for step in range(steps):
        yield {
            task: (images.images[orders[task][step]], images.labels[orders[task][step]])
            for task, images in tasks.items()
        }


def _cpu_has_bfloat16() -> bool:
    capability = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capability.get("avx512_bf16") or capability.get("amx_bf16"))
