"""Two networks with different tasks, pulled together while they train.

One network learns scikit-learn's digits, the other the same digits inverted, of which it has half
as many. They train in three ways, from the same first weights: without each other; pulled together,
strongly in the first layers and weakly in the last; and with one trunk and a head for each task.
Then the networks of each way are merged, and scored on digits that no network has seen.

The loop has what training loops have: mixed precision with a gradient scaler, accumulation,
clipping, schedules, data sets of different length, and a checkpoint after each epoch from which the
same call goes on, to the same bits. The lines that couple the networks are marked. Nothing is
downloaded.

    pip install "conjoin[digits]"
    python coupled_training.py
    python coupled_training.py --stop-after 3 --out runs/two-parts   # interrupted
    python coupled_training.py --out runs/two-parts                  # goes on
"""

import argparse
import math
from collections.abc import Iterable
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

import conjoin
from conjoin.coupling import by_depth, copies_of, cycle

EPOCHS, BATCH, RATE, LARGEST_NORM = 6, 25, 0.1, 5.0
ACCUMULATED = 2  # batches of each network for one step

WAYS = {
    "apart": 0.0,
    "pulled": by_depth(10.0, 0.1),
    "one trunk": {"trunk.*": math.inf, "head.*": 0.0},
}


def convolution(inputs: int, outputs: int) -> list[nn.Module]:
    """Give a 3 x 3 convolution with BatchNorm and ReLU."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return [layer, nn.BatchNorm2d(outputs), nn.ReLU()]


class SmallNet(nn.Module):
    """Three convolutions and a linear head: [B, 1, 8, 8] -> [B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *convolution(1, 16), nn.MaxPool2d(2),
            *convolution(16, 32), nn.MaxPool2d(2), *convolution(32, 32), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(32 * 2 * 2, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.trunk(images))


def load_tasks() -> dict[str, dict[str, tuple[Tensor, Tensor]]]:
    """Give training and test part of each task; the same digit is in the same part of both."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16  # [1797, 1, 8, 8]
    labels = torch.tensor(digits.target)
    test = slice(1300, None)
    return {
        "digits": {
            "train": (images[:1000], labels[:1000]),
            "test": (images[test], labels[test]),
        },
        "inverted": {
            "train": (1 - images[:500], labels[:500]),
            "test": (1 - images[test], labels[test]),
        },
    }


def loader(data: tuple[Tensor, Tensor], seed: int) -> DataLoader:
    """Give batches in an order that the seed decides."""
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(
        TensorDataset(*data), BATCH, shuffle=True, drop_last=True, generator=generator
    )


class Training:
    """All that a training is made of, so that it can be saved and loaded."""

    def __init__(self, start: nn.Module, way: str, names: Iterable[str], steps: int) -> None:
        self.nets = copies_of(start, names)
        self.optimizers = {
            name: torch.optim.SGD(
                net.parameters(), RATE, momentum=0.9, nesterov=True, weight_decay=5e-4
            )
            for name, net in self.nets.items()
        }
        self.schedulers = {n: OneCycleLR(o, RATE, steps) for n, o in self.optimizers.items()}
        # One scaler for all: gradients with different scales have no mean. (Of bfloat16 nothing
        # overflows; the scaler is here because float16 needs it.)
        self.scaler = torch.amp.GradScaler("cpu")
        models = {name: (net, self.optimizers[name]) for name, net in self.nets.items()}
        self.coupling = conjoin.Coupling(models, WAYS[way])  # <-- coupling

    def step(self, batches: list[dict[str, tuple[Tensor, Tensor]]]) -> None:
        """Make one step of every network, from several batches of each."""
        for name, net in self.nets.items():
            self.optimizers[name].zero_grad()
            for batch in batches:
                images, labels = batch[name]
                with torch.autocast("cpu", torch.bfloat16):
                    loss = F.cross_entropy(net(images), labels) / len(batches)
                self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optimizers[name])
            nn.utils.clip_grad_norm_(net.parameters(), LARGEST_NORM)
        # <-- coupling: does something where the strength is infinite. With the scaler, the overflow
        # of one network makes all skip the step.
        self.coupling.share_gradients(self.scaler)
        for optimizer in self.optimizers.values():
            self.scaler.step(optimizer)
        self.coupling.pull()  # <-- coupling: does something where it is finite
        self.scaler.update()
        for scheduler in self.schedulers.values():
            scheduler.step()

    def parts(self) -> dict[str, object]:
        """Give everything that has a state, by name."""
        kinds = {"net": self.nets, "optimizer": self.optimizers, "scheduler": self.schedulers}
        found = {f"{k} {name}": part for k, parts in kinds.items() for name, part in parts.items()}
        return {**found, "scaler": self.scaler, "coupling": self.coupling}

    def save(self, path: Path, epoch: int) -> None:
        """Write all states."""
        states = {name: part.state_dict() for name, part in self.parts().items()}
        torch.save({"epoch": epoch, "states": states}, path)

    def load(self, path: Path) -> int:
        """Read all states; give how many epochs are done."""
        stored = torch.load(path, weights_only=True)
        for name, part in self.parts().items():
            part.load_state_dict(stored["states"][name])
        return stored["epoch"]


def train(way: str, tasks: dict, out: Path, stop_after: int) -> Training:
    """Train a network for each task, or go on with the training that is stored."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        start = SmallNet()
    batches = max(len(loader(task["train"], 0)) for task in tasks.values())
    training = Training(start, way, tasks, EPOCHS * (batches // ACCUMULATED))
    checkpoint = out / f"{way.replace(' ', '-')}.pt"
    epoch = training.load(checkpoint) if checkpoint.exists() else 0
    while epoch < min(EPOCHS, stop_after):
        loaders = {name: loader(task["train"], epoch) for name, task in tasks.items()}
        waiting = []
        for batch in cycle(loaders):  # the shorter data set is gone through twice
            waiting.append(batch)
            if len(waiting) == ACCUMULATED:
                training.step(waiting)
                waiting = []
        epoch += 1
        training.save(checkpoint, epoch)
    return training


def show(models: dict[str, nn.Module], test: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Print the accuracy of each model on each task."""
    for record in conjoin.evaluate(models, test):
        if record.metric == "accuracy":
            print(f"  {record.model:<27}on {record.task:<10}{record.value:5.1f} %")


def main() -> None:
    """Train in every way, merge, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/coupled"), help="folder")
    parser.add_argument("--stop-after", type=int, default=EPOCHS, help="epochs of each training")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    tasks = load_tasks()
    train_parts = [loader(task["train"], 0) for task in tasks.values()]
    test = {name: task["test"] for name, task in tasks.items()}
    for way in WAYS:
        training = train(way, tasks, options.out, options.stop_after)
        gaps = ", ".join(f"{name} {gap:.2g}" for name, gap in training.coupling.gap().items())
        print(f"{way}: gap of each layer: {gaps}")
        specialists = {f"specialist of {name}": net for name, net in training.nets.items()}
        # All tensors in one network: their mean, with BatchNorm's statistics estimated anew.
        merged = training.coupling.merge(*train_parts, heads=False)
        show({**specialists, "merged": merged}, test)
        if way == "one trunk":
            # The head is private, so that the default is a trunk with a head for each task.
            both = training.coupling.merge(*train_parts)
            print(f"  {type(both).__name__} with heads for {', '.join(both.heads)}")
            for name in tasks:
                show({f"trunk and head of {name}": both.for_task(name)}, {name: test[name]})
            conjoin.save(both, options.out / "two-heads.safetensors", overwrite=True)


if __name__ == "__main__":
    main()
