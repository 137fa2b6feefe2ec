"""Two networks with different tasks, and what becomes of them when their weights are combined.

One small convolutional network learns scikit-learn's digits, another the same digits inverted.
Their mean is taken, its BatchNorm statistics are re-estimated, and every combination is scored on
both tasks and on a domain that neither network has seen: digits of which only the left half is
inverted. Nothing is downloaded.

    pip install "conjoin[digits]"
    python two_networks.py                                # each from its own random weights
    python two_networks.py --shared --out runs/shared     # both from the same random weights
    conjoin report runs/two-networks runs/shared          # the two beside each other
"""

import argparse
from pathlib import Path

import torch
from rich.console import Console
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import conjoin
from conjoin.report import write_report
from conjoin.report.table import print_table

EPOCHS, BATCH, RATE = 10, 50, 0.01


def convolution(inputs: int, outputs: int) -> list[nn.Module]:
    """Give a 3 x 3 convolution with BatchNorm and ReLU."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return [layer, nn.BatchNorm2d(outputs), nn.ReLU()]


class SmallVGG(nn.Module):
    """Convolutions with BatchNorm, two poolings, one linear layer: [B, 1, 8, 8] -> [B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *convolution(1, 16), *convolution(16, 16), nn.MaxPool2d(2),
            *convolution(16, 32), *convolution(32, 32), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Linear(32 * 2 * 2, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).flatten(1))


def load_tasks() -> dict[str, dict]:
    """Give two tasks and an unseen domain, as `conjoin.compare` takes them."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16  # [1797, 1, 8, 8]
    labels = torch.tensor(digits.target)
    left = torch.arange(8) < 4
    domains = {
        "digits": images,
        "inverted": 1 - images,
        "half inverted": torch.where(left, 1 - images, images),
    }
    # The same digit is in the same part of every domain: no test digit is trained on in another.
    parts = {"train": slice(0, 1000), "validation": slice(1000, 1300), "test": slice(1300, None)}
    tasks = {
        domain: {part: (shown[which], labels[which]) for part, which in parts.items()}
        for domain, shown in domains.items()
    }
    tasks["half inverted"]["trained_on"] = False
    return tasks


def train(data: tuple[Tensor, Tensor], start: int, order: int) -> SmallVGG:
    """Train a network: `start` decides its first weights, `order` that of the examples."""
    images, labels = data
    with torch.random.fork_rng():
        torch.manual_seed(start)
        network = SmallVGG()
    generator = torch.Generator().manual_seed(order)
    optimizer = torch.optim.Adam(network.parameters())
    steps = EPOCHS * len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images), generator=generator).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def main() -> None:
    """Train, merge, measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/two-networks"), help="folder")
    parser.add_argument("--seeds", type=int, default=2, help="how many pairs of networks")
    parser.add_argument("--shared", action="store_true", help="both start from the same weights")
    options = parser.parse_args()

    tasks = load_tasks()
    pairs = []
    for seed in range(0, 2 * options.seeds, 2):
        a = train(tasks["digits"]["train"], start=seed, order=seed)
        start = seed if options.shared else seed + 1
        b = train(tasks["inverted"]["train"], start=start, order=seed + 1)
        pairs.append((a, b))

    # By hand: two calls, and one that measures.
    a, b = pairs[0]
    merged = conjoin.merge([a, b])
    inputs = [[tasks[name]["train"]] for name in ("digits", "inverted")]  # loaders of one batch
    repaired = conjoin.reestimate_batchnorm(merged, *inputs)
    test = {name: task["test"] for name, task in tasks.items()}
    for record in conjoin.evaluate({"mean": merged, "re-estimated": repaired}, test):
        if record.metric == "accuracy":
            print(f"{record.model:<13} on {record.task:<14} {record.value:5.1f} %")

    # All combinations, curves and intervals. The same call again measures only what has changed.
    run = conjoin.compare(
        {"digits": a, "inverted": b},
        tasks,
        out=options.out,
        model=SmallVGG,
        repeats=pairs[1:],
        title="Two networks of digits",
    )
    print_table(run, Console())
    print(f"The page: {write_report([options.out])}")


if __name__ == "__main__":
    main()
