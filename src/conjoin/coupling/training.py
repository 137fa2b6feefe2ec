"""A training loop for one model or several that are coupled, resumable after every epoch."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from conjoin.coupling.coupling import Coupling
from conjoin.coupling.normalization import pooled_normalization
from conjoin.coupling.strength import Strength
from conjoin.errors import DataError, InputError, TrainingError

__all__ = ["Learner", "Recipe", "Trained", "mixed_seed", "train_models"]

GAPS = 40
"""How often the gap is measured in a training."""


@dataclass(frozen=True)
class Recipe:
    """How models are trained.

    Args:
        epochs: how many.
        steps: optimizer steps of an epoch.
        optimizer: makes one, given the parameters.
        scheduler: makes a schedule, stepped after every optimizer step, given the optimizer and
            the number of all steps; None keeps the rate.
        clip: largest norm of a model's gradient; None does not clip.
        pooled: whether BatchNorm normalizes by the mixture of all models' data; see
            `conjoin.coupling.pooled_normalization`.
    """

    epochs: int
    steps: int
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    scheduler: Callable[[Optimizer, int], LRScheduler] | None = None
    clip: float | None = None
    pooled: bool = False

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.epochs * self.steps


@dataclass(frozen=True, eq=False)
class Learner:
    """A model with its own data, loss and random numbers.

    Args:
        module: is copied, not changed.
        batches: gives the batches of an epoch, counted from 0; gone through again if they end.
        loss: of the module on a batch, a scalar.
        seed: of what it draws: dropout, shuffling, augmentation.
    """

    module: nn.Module
    batches: Callable[[int], Iterable[Any]]
    loss: Callable[[nn.Module, Any], Tensor]
    seed: int


@dataclass(frozen=True)
class Trained:
    """What a training gives.

    Args:
        modules: by name, on the CPU and in eval mode.
        gaps: (step, layer -> gap) over the training, see `Coupling.gap`; empty for one model.
    """

    modules: Mapping[str, nn.Module]
    gaps: tuple[tuple[int, Mapping[str, float]], ...]


def train_models(
    learners: Mapping[str, Learner],
    recipe: Recipe,
    *,
    strength: Strength = 0.0,
    device: torch.device | None = None,
    work: Path | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Trained:
    """Train copies of models side by side, coupled if there are several.

    A step takes one batch of each learner. Each draws from a generator of its own, so that at
    strength 0 every model gets, bit for bit, what it would get alone.

    Args:
        learners: name -> model with its data.
        recipe: of all of them.
        strength: of the coupling; see `Coupling`.
        device: where to train; None is the CPU.
        work: a folder for the state after each epoch; a later call with the same arguments goes on
            from there and ends with the same bits.
        on_step: called with (steps done, steps in all).

    Raises:
        InputError: no learner, or no step.
        TrainingError: weights are no longer finite after an epoch.
    """
    if not learners:
        raise InputError("training needs at least one model")
    if recipe.epochs < 1 or recipe.steps < 1:
        raise InputError(f"{recipe.epochs} epochs of {recipe.steps} steps are no training")
    device = device or torch.device("cpu")
    # Channels last is about a fifth faster for small convolutions, on CPU and GPU alike.
    modules = {
        name: _to(copy.deepcopy(learner.module), device, torch.channels_last)
        for name, learner in learners.items()
    }
    optimizers = {name: recipe.optimizer(module.parameters()) for name, module in modules.items()}
    schedulers = {
        name: recipe.scheduler(optimizer, recipe.total_steps)
        for name, optimizer in optimizers.items()
        if recipe.scheduler is not None
    }
    pairs = {name: (module, optimizers[name]) for name, module in modules.items()}
    coupling = Coupling(pairs, strength) if len(pairs) > 1 else None
    state = _State(work, modules, optimizers, schedulers, coupling)
    pooling = pooled_normalization(modules) if recipe.pooled and coupling else nullcontext()
    with pooling:
        for epoch in range(state.restore(), recipe.epochs):
            streams = {name: _Stream(learner, epoch, device) for name, learner in learners.items()}
            for module in modules.values():
                module.train()
            for step in range(epoch * recipe.steps, (epoch + 1) * recipe.steps):
                for name, module in modules.items():
                    optimizers[name].zero_grad(set_to_none=True)
                    with streams[name].drawing() as batches:
                        loss = learners[name].loss(module, next(batches))
                        loss.backward()
                    if recipe.clip is not None:
                        nn.utils.clip_grad_norm_(module.parameters(), recipe.clip)
                if coupling is None:
                    for optimizer in optimizers.values():
                        optimizer.step()
                else:
                    coupling.step()
                for scheduler in schedulers.values():
                    scheduler.step()
                if coupling is not None and _is_measured(step + 1, recipe.total_steps):
                    state.gaps.append((step + 1, coupling.gap()))
                if on_step is not None:
                    on_step(step + 1, recipe.total_steps)
            _check_finite(modules, epoch)
            state.save(epoch + 1)
    cpu = torch.device("cpu")
    made = {n: _to(m, cpu, torch.contiguous_format).eval() for n, m in modules.items()}
    return Trained(made, tuple(state.gaps))


def mixed_seed(*numbers: int) -> int:
    """Give one seed for a tuple of numbers, so that near tuples get unrelated streams."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


class _Stream:
    """The batches of a learner in an epoch, and the random numbers that it draws meanwhile.

    Loaders, augmentation and `nn.Dropout` know the global generators only, so their states are put
    in place while this learner has its turn.
    """

    def __init__(self, learner: Learner, epoch: int, device: torch.device) -> None:
        self._learner, self._epoch = learner, epoch
        self._cuda = [device] if device.type == "cuda" else []
        self._seed: int | None = mixed_seed(learner.seed, epoch)
        self._states: tuple[Tensor, ...] = ()
        self._batches = self._cycled()

    @contextmanager
    def drawing(self) -> Iterator[Iterator[Any]]:
        with torch.random.fork_rng(devices=self._cuda):
            if self._seed is not None:
                torch.manual_seed(self._seed)
                self._seed = None
            else:
                torch.set_rng_state(self._states[0])
                for device, state in zip(self._cuda, self._states[1:], strict=True):
                    torch.cuda.set_rng_state(state, device)
            yield self._batches
            cuda = [torch.cuda.get_rng_state(device) for device in self._cuda]
            self._states = (torch.get_rng_state(), *cuda)

    def _cycled(self) -> Iterator[Any]:
        while True:
            empty = True
            for batch in self._learner.batches(self._epoch):
                empty = False
                yield batch
            if empty:
                raise DataError("a training part gave no batch; a loader can be used up")


@dataclass
class _State:
    """The state after an epoch, on disk; a kill while it is written leaves the one before."""

    work: Path | None
    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, Optimizer]
    schedulers: Mapping[str, LRScheduler]
    coupling: Coupling | None
    gaps: list[tuple[int, Mapping[str, float]]] = field(default_factory=list)

    def save(self, epoch: int) -> None:
        if self.work is None:
            return
        states = {key: part.state_dict() for key, part in self._parts()}
        document = {"epoch": epoch, "gaps": [[s, dict(g)] for s, g in self.gaps], "states": states}
        partial = self.work / "epoch.partial"
        torch.save(document, partial)
        partial.replace(self.work / "epoch.pt")

    def restore(self) -> int:
        if self.work is None or not (self.work / "epoch.pt").exists():
            return 0
        stored = torch.load(self.work / "epoch.pt", weights_only=True, map_location="cpu")
        for key, part in self._parts():
            part.load_state_dict(stored["states"][key])
        self.gaps.extend((step, gaps) for step, gaps in stored["gaps"])
        return int(stored["epoch"])

    def _parts(self) -> Iterator[tuple[str, Any]]:
        for name in self.modules:
            yield f"module {name}", self.modules[name]
            yield f"optimizer {name}", self.optimizers[name]
            if name in self.schedulers:
                yield f"scheduler {name}", self.schedulers[name]
        if self.coupling is not None:
            yield "coupling", self.coupling


def _to(module: nn.Module, device: torch.device, layout: torch.memory_format) -> nn.Module:
    return module.to(device, memory_format=layout)  # type: ignore[call-overload, no-any-return]


def _is_measured(step: int, total: int) -> bool:
    """Whether the gap is measured after a step: at equal distances, and at the end."""
    return step * GAPS // total > (step - 1) * GAPS // total


def _check_finite(modules: Mapping[str, nn.Module], epoch: int) -> None:
    for name, module in modules.items():
        if not all(math.isfinite(float(p.detach().sum())) for p in module.parameters()):
            raise TrainingError(
                f"the weights of {name!r} are no longer finite after epoch {epoch + 1}: lower the "
                "learning rate, or clip the gradient"
            )
