"""Training one digit network, resumable after every epoch.

One loop serves every network of the experiment. A step takes one batch of each task and runs them
through the network together, so that BatchNorm sees the mixture:

    loss = mean over tasks of cross_entropy(logits of the task's images, labels)

One task gives a specialist; two tasks give the network on all data; two tasks and a head for each
give the two-headed network. A task with fewer images is gone through again.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conjoin.errors import InputError
from conjoin.experiments.digits.sources.source import Images
from conjoin.modules import MultiHead

__all__ = ["Precision", "Schedule", "TwoHeaded", "native_precision", "to_input", "train"]

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
    longest = max(len(images) for images in tasks.values())
    steps = longest // schedule.batch_size
    if steps == 0:
        raise InputError(f"{longest} images do not fill one batch of {schedule.batch_size}")
    # Channels last is about a fifth faster for these convolutions, on CPU and GPU alike.
    network = copy.deepcopy(network).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        network.parameters(),
        schedule.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=schedule.weight_decay,
    )
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.learning_rate, total_steps=schedule.epochs * steps, cycle_momentum=False
    )
    state = _Progress(work / "epoch.pt", network, optimizer, scheduler)
    per_step = schedule.batch_size * len(tasks)
    for epoch in range(state.restore(), schedule.epochs):
        network.train()
        cuda = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):  # nn.Dropout knows the global generator only
            torch.manual_seed(_mix(seed, epoch))
            for step, batch in enumerate(_batches(tasks, schedule.batch_size, steps, seed, epoch)):
                _step(network, batch, optimizer, schedule, device)
                scheduler.step()
                if on_batch is not None:
                    on_batch(
                        (epoch * steps + step + 1) * per_step, schedule.epochs * steps * per_step
                    )
        state.save(epoch + 1)
    network.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return network.eval()


def _step(
    network: nn.Module,
    batch: Mapping[str, tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    device: torch.device,
) -> None:
    optimizer.zero_grad(set_to_none=True)
    images = to_input(torch.cat([images for images, _ in batch.values()]).to(device))
    images = images.contiguous(memory_format=torch.channels_last)
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
    torch.stack(losses).mean().backward()
    nn.utils.clip_grad_norm_(network.parameters(), schedule.clip)
    optimizer.step()


def _batches(
    tasks: Mapping[str, Images], size: int, steps: int, seed: int, epoch: int
) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Give `steps` batches; each task in a new order, cycled when it is shorter."""
    orders = {}
    for number, (task, images) in enumerate(tasks.items()):
        generator = torch.Generator().manual_seed(_mix(seed, epoch, number + 1))
        rounds = math.ceil(steps * size / len(images))
        order = [torch.randperm(len(images), generator=generator) for _ in range(rounds)]
        orders[task] = torch.cat(order)[: steps * size].reshape(steps, size)
    for step in range(steps):
        yield {
            task: (images.images[orders[task][step]], images.labels[orders[task][step]])
            for task, images in tasks.items()
        }


@dataclass
class _Progress:
    """The state after an epoch, on disk; a kill while it is written leaves the one before."""

    path: Path
    network: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler

    def save(self, epoch: int) -> None:
        partial = self.path.with_suffix(".partial")
        torch.save(
            {"epoch": epoch, **{k: v.state_dict() for k, v in self._parts().items()}}, partial
        )
        partial.replace(self.path)

    def restore(self) -> int:
        if not self.path.exists():
            return 0
        stored = torch.load(self.path, weights_only=True, map_location="cpu")
        for name, part in self._parts().items():
            part.load_state_dict(stored[name])
        return int(stored["epoch"])

    def _parts(self) -> dict[str, Any]:
        return {"network": self.network, "optimizer": self.optimizer, "scheduler": self.scheduler}


def _mix(*numbers: int) -> int:
    """Give one seed for a tuple of numbers, so that near tuples get unrelated streams."""
    import numpy as np

    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _cpu_has_bfloat16() -> bool:
    capability = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capability.get("avx512_bf16") or capability.get("amx_bf16"))
