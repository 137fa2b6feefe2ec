"""A user's networks, trained coupled or on all data, as cached stages."""

import json
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conjoin.atomic import write_bytes
from conjoin.batches import (
    Data,
    batches,
    concatenate,
    in_shape_of,
    map_inputs,
    pair_of,
    read_logits,
    run_model,
    size_of,
)
from conjoin.checkpoints import open_checkpoint, save
from conjoin.comparison.subject import Network
from conjoin.coupling.loaders import cycle
from conjoin.coupling.strength import Strength
from conjoin.coupling.training import Learner, Recipe, Trained, mixed_seed, train_models
from conjoin.errors import DataError
from conjoin.stages import Stage, StageCache
from conjoin.sweeping.points import Point, described

__all__ = ["Loss", "Trainings", "squared_error"]

Loss = Callable[[Any, Tensor], Tensor]

VERSION = 1
"""Raised whenever a change of this file changes what a training gives."""

Progress = Callable[[str], Callable[[int, int], None]]


@dataclass(frozen=True, eq=False)
class Trainings:
    """Networks of one seed, trained when they are asked for.

    Args:
        start: gives the network that all begin as.
        data: task -> its training part.
        recipe: of every training.
        losses: task -> of outputs and targets, a scalar.
        batch_size: for training parts that are a pair of tensors.
        seed: of the run.
        stages: what the start, the data and the code depend on.
        device: where to train.
        cache: finished trainings.
        progress: shows long jobs.
    """

    start: Callable[[], nn.Module]
    data: Mapping[str, Data]
    recipe: Recipe
    losses: Mapping[str, Loss]
    batch_size: int
    seed: int
    stages: Mapping[str, Stage]
    device: torch.device
    cache: StageCache
    progress: Progress

    def coupled(self, point: Point) -> dict[str, Network]:
        """Give the network of each task at a point of the continuum."""
        stage, folder = self.coupled_stage(point), partial(self._pair, point)
        return {
            task: self._network(stage, task, number, folder)
            for number, task in enumerate(self.data)
        }

    def gaps(self, point: Point) -> list[tuple[int, dict[str, float]]]:
        """Give (step, layer -> gap) over the training of a point."""
        text = (self._pair(point) / "gaps.json").read_text("utf-8")
        return [(int(step), dict(found)) for step, found in json.loads(text)]

    def all_data(self, name: str) -> Network:
        """Give the network that sees a batch of every task in each step."""
        stage = self._stage({"network": "all data"})
        return self._network(stage, name, 0, partial(self._joint, stage, name))

    def coupled_stage(self, point: Point) -> Stage:
        """Say what decides the networks of a point."""
        strength = described(point.at(self.recipe.total_steps))
        return self._stage({"strength": strength, "pooled": point.pooled})

    def _stage(self, settings: Mapping[str, Any]) -> Stage:
        known = {
            "tasks": list(self.data),
            "epochs": self.recipe.epochs,
            "steps": self.recipe.steps,
            "clip": self.recipe.clip,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "torch": torch.__version__,
            "device": self.device.type,
            "machine": platform.machine(),
        }
        return Stage("coupled", VERSION, {**known, **settings}, self.stages)

    def _network(self, stage: Stage, name: str, number: int, folder: Callable[[], Path]) -> Network:
        def load() -> nn.Module:
            network = self.start()
            stored = open_checkpoint(folder() / f"{number}.safetensors")
            network.load_state_dict(dict(stored))
            return network.to(self.device).eval()

        return Network(name, Stage("coupled-one", 1, {"name": name}, {"of": stage}), load)

    def _pair(self, point: Point) -> Path:
        learners = {
            task: Learner(
                self.start(),
                partial(_batches, data, self.batch_size),
                partial(_loss_of_batch, self.losses[task], task),
                mixed_seed(self.seed, number),
            )
            for number, (task, data) in enumerate(self.data.items())
        }
        title, spec = f"coupled: {point.name}", point.at(self.recipe.total_steps)
        recipe = replace(self.recipe, pooled=point.pooled)
        return self._trained(self.coupled_stage(point), learners, recipe, title, spec)

    def _joint(self, stage: Stage, name: str) -> Path:
        learner = Learner(
            self.start(),
            partial(_mixtures, self.data, self.batch_size, self.recipe.steps),
            partial(_loss_of_mixture, self.losses),
            mixed_seed(self.seed, len(self.data)),
        )
        return self._trained(stage, {name: learner}, self.recipe, f"training: {name}", 0.0)

    def _trained(
        self,
        stage: Stage,
        learners: Mapping[str, Learner],
        recipe: Recipe,
        title: str,
        strength: Strength,
    ) -> Path:
        def make(out: Path, work: Path) -> None:
            trained: Trained = train_models(
                learners,
                recipe,
                strength=strength,
                device=self.device,
                work=work,
                on_step=self.progress(title),
            )
            for number, module in enumerate(trained.modules.values()):
                save(module, out / f"{number}.safetensors")
            gaps = [[step, dict(found)] for step, found in trained.gaps]
            write_bytes(out / "gaps.json", json.dumps(gaps).encode())

        return self.cache.get(stage, make)


def squared_error(outputs: Any, targets: Tensor) -> Tensor:
    """Give the mean squared error, as `conjoin.evaluate` measures it.

    Args:
        outputs: of the targets' shape, or [..., 1] for targets [...].
        targets: floating-point numbers.

    Raises:
        DataError: outputs of another shape.

    >>> squared_error(torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 1.0]))
    tensor(2.)
    """
    outputs = read_logits(outputs)
    outputs = in_shape_of(outputs if outputs.dtype == torch.float64 else outputs.float(), targets)
    if outputs.shape != targets.shape:
        raise DataError(
            f"a regression needs targets of the outputs' shape {list(outputs.shape)}; the training "
            f"part has {list(targets.shape)}. Give loss= for another loss than the squared error"
        )
    return F.mse_loss(outputs, targets.to(outputs.device, outputs.dtype))


def _batches(data: Data, size: int, epoch: int = 0) -> Iterable[Any]:  # noqa: ARG001
    """Give a loader as it is, and a pair of tensors in a new order; a last part is dropped."""
    found = batches(data, size)
    if found is data:
        return data
    inputs, targets = pair_of(data, "the training part")
    order = torch.randperm(len(targets))  # within the stream of the learner
    return _shuffled(inputs, targets, order, min(size, len(targets)))


def _shuffled(inputs: Any, targets: Tensor, order: Tensor, size: int) -> Iterator[Any]:
    for start in range(0, len(order) - size + 1, size):
        rows = order[start : start + size]
        yield map_inputs(inputs, lambda tensor, rows=rows: tensor[rows]), targets[rows]


@dataclass(frozen=True, eq=False)
class _Part:
    """A training part that can be gone through again, each time in a new order."""

    data: Data
    size: int

    def __iter__(self) -> Iterator[Any]:
        return iter(_batches(self.data, self.size))


def _mixtures(
    data: Mapping[str, Data],
    size: int,
    steps: int,
    epoch: int,  # noqa: ARG001
) -> Iterator[dict[str, Any]]:
    return cycle({task: _Part(part, size) for task, part in data.items()}, steps)


def _loss_of_batch(loss: Loss, task: str, module: nn.Module, batch: Any) -> Tensor:
    inputs, targets = pair_of(batch, task)
    outputs = run_model(module, inputs)
    return loss(outputs, _beside(targets, outputs))


def _loss_of_mixture(
    losses: Mapping[str, Loss], module: nn.Module, batch: Mapping[str, Any]
) -> Tensor:
    """Run the batches of all tasks together, so that BatchNorm sees the mixture."""
    pairs = [pair_of(found, task) for task, found in batch.items()]
    outputs = run_model(module, concatenate([inputs for inputs, _ in pairs]))
    parts = outputs.split([size_of(inputs) for inputs, _ in pairs])
    found = [
        losses[task](part, _beside(targets, part))
        for task, part, (_, targets) in zip(batch, parts, pairs, strict=True)
    ]
    return torch.stack(found).mean()


def _beside(targets: Tensor, outputs: Any) -> Tensor:
    return targets.to(outputs.device) if isinstance(outputs, Tensor) else targets
