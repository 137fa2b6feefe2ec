"""The networks that the experiment trains, as cached stages.

Every combination is made from these; each is trained once per seed.
"""

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from conjoin.atomic import write_bytes
from conjoin.checkpoints import open_checkpoint, save
from conjoin.coupling.training import Recipe, train_models
from conjoin.experiments.digits.network import DigitNet, new_network
from conjoin.experiments.digits.sources.source import Images, Source, Split
from conjoin.experiments.digits.training import (
    TRAINING_VERSION,
    Schedule,
    TwoHeaded,
    in_images,
    learner_of,
    recipe_of,
    train,
)
from conjoin.stages import Stage, StageCache
from conjoin.sweeping import Point
from conjoin.sweeping.points import described

__all__ = ["COUPLED", "FINE_TUNED", "TRAININGS", "Task", "Trainer", "Training", "Trunk"]

Progress = Callable[[str], Callable[[int, int], None]]
"""Given the title of a long job, gives what to call with (images done, images in all)."""


@dataclass(frozen=True)
class Task:
    """One of the two tasks: a source and how many of its images are used."""

    source: Source
    counts: Mapping[Split, int | None]

    @property
    def name(self) -> str:
        """The name that people are shown."""
        return self.source.name

    @cached_property
    def identity(self) -> str:
        """Which images the source has; found once, since a folder of images is read for it."""
        return self.source.identity()


@dataclass(frozen=True)
class Training:
    """A network to train.

    Args:
        tasks: 0 for the first task, 1 for the second.
        start: which of the seed's initializations; the same number is the same weights.
        heads: whether each task has a classifier of its own.
        base: the network of `FINE_TUNED` that it goes on from, for half as long; None is an
            initialization.
        half: whether only half of each task's images are used.
    """

    tasks: tuple[Literal[0, 1], ...]
    start: int
    heads: bool = False
    base: str | None = None
    half: bool = False


TRAININGS: Mapping[str, Training] = {
    "first": Training((0,), start=0),
    "second": Training((1,), start=1),
    "second, shared start": Training((1,), start=0),
    "first again": Training((0,), start=1),
    "all data": Training((0, 1), start=0),
    "two-headed": Training((0, 1), start=0, heads=True),
}


FINE_TUNED: Mapping[str, Training] = {
    "base": Training((0, 1), start=0, half=True),
    "first, fine-tuned": Training((0,), start=0, base="base"),
    "second, fine-tuned": Training((1,), start=0, base="base"),
}
"""A network of half of both tasks, and specialists that go on from it: what methods that merge
changes of a common ancestor are for."""

_ALL = {**TRAININGS, **FINE_TUNED}


COUPLED = ("first", "second, shared start")
"""The trainings that are coupled: what they are at strength 0, to the bit."""

COUPLED_VERSION = 1
"""Raised whenever a change of the code changes what a coupled training gives."""


@dataclass(frozen=True)
class Trainer:
    """Images and trained networks of one run and one seed, made when they are asked for.

    Args:
        tasks: the two tasks; a third, if there is one, is a domain that nothing is trained on.
        width: of the network.
        schedule: of every training; epochs are those of the longest task.
        device: where to train.
        seed: of the run.
        cache: finished stages.
        progress: shows long jobs.
    """

    tasks: tuple[Task, ...]
    width: float
    schedule: Schedule
    device: torch.device
    seed: int
    cache: StageCache
    progress: Progress

    def images(self, task: int, split: Split) -> Images:
        """Give one part of a task's images."""
        source, stage = self.tasks[task].source, self.images_stage(task, split)

        def make(out: Path, work: Path) -> None:  # noqa: ARG001 - quick to make again
            title = f"{source.name}: {split} images"
            images = source.load(
                split,
                self._count(task, split),
                seed=self.seed,
                progress=self.progress(title),
            )
            tensors = {"images": images.images, "labels": images.labels}
            save(tensors, out / "images.safetensors", metadata={"classes": str(images.classes)})

        stored = open_checkpoint(self.cache.get(stage, make) / "images.safetensors")
        return Images(stored["images"], stored["labels"], int(stored.metadata["classes"]))

    def network(self, name: str) -> nn.Module:
        """Give a trained network of `TRAININGS` or `FINE_TUNED`, in eval mode on the CPU."""
        network = self.untrained(name)
        stored = open_checkpoint(self.network_file(name))
        network.load_state_dict(dict(stored))
        return network.eval()

    def network_file(self, name: str) -> Path:
        """Give the file with the weights of a trained network; train it if need be."""
        training = _ALL[name]

        def make(out: Path, work: Path) -> None:
            trained = train(
                self.untrained(name),
                {f"task_{task}": self._training_images(training, task) for task in training.tasks},
                self._schedule(training),
                seed=_seed(self.seed, "order", name),
                device=self.device,
                work=work,
                on_batch=self.progress(f"training: {self.title(name)}"),
            )
            save(trained, out / "network.safetensors")

        return self.cache.get(self.network_stage(name), make) / "network.safetensors"

    def network_stage(self, name: str) -> Stage:
        """Say what decides the weights of a trained network."""
        training = _ALL[name]
        parts: dict[str, Stage] = {
            str(task): self.images_stage(task, "train") for task in training.tasks
        }
        if training.base is not None:
            parts["base"] = self.network_stage(training.base)
        # What only some trainings have is left out of the others, whose networks may lie in caches.
        extra = {key: value for key in ("base", "half") if (value := getattr(training, key))}
        settings = {
            "network": name,
            "tasks": list(training.tasks),
            "start": training.start,
            "heads": training.heads,
            **extra,
            "width": self.width,
            "classes": self.classes,
            "seed": self.seed,
            "schedule": asdict(self._schedule(training)),
            "torch": torch.__version__,
            "device": self.device.type,
            "machine": platform.machine(),
        }
        return Stage("network", TRAINING_VERSION, settings, parts)

    def coupled_network(self, point: Point, task: int) -> nn.Module:
        """Give the network of a task of a coupled training, in eval mode on the CPU."""
        network = self.untrained(COUPLED[task])
        stored = open_checkpoint(self.coupled_folder(point) / f"task_{task}.safetensors")
        network.load_state_dict(dict(stored))
        return network.eval()

    def coupled_gaps(self, point: Point) -> list[tuple[int, dict[str, float]]]:
        """Give (step, layer -> gap) over a coupled training."""
        text = (self.coupled_folder(point) / "gaps.json").read_text("utf-8")
        return [(int(step), dict(gaps)) for step, gaps in json.loads(text)]

    def coupled_folder(self, point: Point) -> Path:
        """Give the folder with both networks of a point and their gaps; train them if need be."""
        schedule, recipe = self.schedule, self._coupled_recipe(point)

        def make(out: Path, work: Path) -> None:
            learners = {
                f"task_{task}": learner_of(
                    self.untrained(name),
                    {f"task_{task}": self.images(task, "train")},
                    schedule,
                    recipe,
                    seed=_seed(self.seed, "order", name),
                    device=self.device,
                )
                for task, name in enumerate(COUPLED)
            }
            progress = self.progress(f"coupled: {point.name}")
            trained = train_models(
                learners,
                recipe,
                strength=point.at(recipe.total_steps),
                device=self.device,
                work=work,
                on_step=in_images(progress, schedule.batch_size * len(learners)),
            )
            for name, module in trained.modules.items():
                save(module, out / f"{name}.safetensors")
            gaps = [[step, dict(found)] for step, found in trained.gaps]
            write_bytes(out / "gaps.json", json.dumps(gaps).encode())

        return self.cache.get(self.coupled_stage(point), make)

    def coupled_stage(self, point: Point) -> Stage:
        """Say what decides the networks of a coupled training."""
        parts = {str(task): self.images_stage(task, "train") for task in range(len(COUPLED))}
        recipe = self._coupled_recipe(point)
        settings = {
            "strength": described(point.at(recipe.total_steps)),
            **({"pooled": True} if recipe.pooled else {}),
            "width": self.width,
            "classes": self.classes,
            "seed": self.seed,
            "schedule": asdict(self.schedule),
            "torch": torch.__version__,
            "device": self.device.type,
            "machine": platform.machine(),
        }
        return Stage("coupled", COUPLED_VERSION, settings, parts)

    def _coupled_recipe(self, point: Point) -> Recipe:
        recipe = recipe_of(self.schedule, max(self._sizes()))
        return replace(recipe, pooled=point.pooled)

    def title(self, name: str) -> str:
        """Say what a network of `TRAININGS` is, with the names of the tasks."""
        first, second = (task.name for task in self.tasks[:2])
        return {
            "first": first,
            "second": second,
            "second, shared start": f"{second}, from the same start",
            "first again": f"{first}, from another start",
            "base": "half of both tasks",
            "first, fine-tuned": f"{first}, fine-tuned",
            "second, fine-tuned": f"{second}, fine-tuned",
        }.get(name, name)

    @cached_property
    def classes(self) -> int:
        """How many classes the tasks have."""
        return max(self.images(task, "train").classes for task in range(2))

    def untrained(self, name: str) -> nn.Module:
        """Give a network of `TRAININGS` as it is before training."""
        training = _ALL[name]
        if training.base is not None:
            return self.network(training.base).train()
        start = _seed(self.seed, "start", str(training.start))
        network = new_network(start, width=self.width, classes=self.classes)
        if not training.heads:
            return network
        other = new_network(_seed(start, "head", "1"), width=self.width, classes=self.classes)
        return _two_headed(network, other)

    def _schedule(self, training: Training) -> Schedule:
        """Give every network as many steps as the longest task asks for."""
        sizes = self._sizes()
        own = max(sizes[task] for task in training.tasks)
        epochs = round(self.schedule.epochs * max(sizes) / own)
        if training.base is not None:
            epochs = max(1, epochs // 2)  # it has learned from half of the images already
        return replace(self.schedule, epochs=epochs)

    def _training_images(self, training: Training, task: int) -> Images:
        images = self.images(task, "train")
        if not training.half:
            return images
        count = (len(images) + 1) // 2
        return Images(images.images[:count], images.labels[:count], images.classes)

    def _sizes(self) -> list[int]:
        return [self._count(task, "train") or len(self.images(task, "train")) for task in (0, 1)]

    def _count(self, task: int, split: Split) -> int | None:
        return self.tasks[task].counts[split]

    def images_stage(self, task: int, split: Split) -> Stage:
        """Say what decides one part of a task's images."""
        settings = {
            "source": self.tasks[task].identity,
            "split": split,
            "count": self._count(task, split),
            # Only the training images depend on the seed: every seed is judged on the same ones.
            "seed": self.seed if split == "train" else None,
        }
        return Stage("images", 1, settings)


class Trunk(nn.Module):
    """The four blocks of a `DigitNet`: [B, 1, 32, 32] -> [B, 2048w]."""

    def __init__(self, network: DigitNet) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(block for _, block in list(network.named_children())[:-1]))
        self.flatten = nn.Flatten()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Give the features."""
        return self.flatten(self.blocks(x))  # type: ignore[no-any-return]


def _two_headed(network: DigitNet, other: DigitNet) -> TwoHeaded:
    return TwoHeaded(Trunk(network), {"task_0": network.classifier, "task_1": other.classifier})


def _seed(seed: int, purpose: str, name: str) -> int:
    """Give an unrelated seed for each purpose, the same on every machine."""
    words = [seed, *f"{purpose}/{name}".encode()]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)
