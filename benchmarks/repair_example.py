"""What `conjoin.align` and `repair` are worth for two networks without BatchNorm.

    python benchmarks/repair_example.py [--seeds 0 1] [--hidden 400 200 100] [--epochs 60]
                                        [--tasks same|different] [--json]

Two multilayer perceptrons, each with an initialization and an order of batches of its own, are
trained on the 1,197 training images of scikit-learn's handwritten digits (8 x 8): both on all
(``same``), or one on the digits 0 to 4 and one on 5 to 9 (``different``). Their average is scored
on the 400 test images of all digits: as it is (``naive``); after the second is brought into the
first's order by activations (``aligned``); and after each kind of repair. Statistics come from the
training images; ``auto`` chooses on the 200 validation images. For different tasks, repair gets
each parent's own images, and for comparison all of them for both parents (``mixture``). One thread
(OMP_NUM_THREADS=1) gives the same numbers again.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Sequence

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

import conjoin
from conjoin.repairing import METHODS, RepairReport, repair

__all__ = ["TASKS", "digits", "main", "measured", "trained"]

Pair = tuple[Tensor, Tensor]

TASKS = {"same": (range(10), range(10)), "different": (range(5), range(5, 10))}
"""Digits that each network is trained on."""


def digits() -> dict[str, Pair]:
    """Give images [N, 64] from 0 to 1 and labels of each part, the same for every seed."""
    images, labels = load_digits(return_X_y=True)
    rest, test = train_test_split(
        range(len(labels)), test_size=400, random_state=0, stratify=labels
    )
    train, validation = train_test_split(rest, test_size=200, random_state=0, stratify=labels[rest])
    x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    parts = {"train": train, "validation": validation, "test": test}
    return {name: (x[index], y[index]) for name, index in parts.items()}


def trained(seed: int, hidden: Sequence[int], epochs: int, data: Pair) -> nn.Module:
    """Train one network with Adam (learning rate 0.001, batches of 64)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        widths = [64, *hidden, 10]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        net = nn.Sequential(*layers[:-1])
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    x, y = data
    for _ in range(epochs):
        for index in torch.randperm(len(x), generator=generator).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(x[index]), y[index]).backward()
            optimizer.step()
    return net.eval()


def accuracy(net: nn.Module, data: Pair) -> float:
    """Give the accuracy in percent."""
    with torch.no_grad():
        return 100.0 * float((net(data[0]).argmax(1) == data[1]).double().mean())


def only(data: Pair, labels: Sequence[int]) -> Pair:
    """Give the examples of some labels."""
    kept = torch.isin(data[1], torch.tensor(list(labels)))
    return data[0][kept], data[1][kept]


def measured(
    seed: int, hidden: Sequence[int], epochs: int, parts: dict[str, Pair], tasks: str = "same"
) -> tuple[dict[str, float], RepairReport]:
    """Give the test accuracy of everything for one pair, and the report of ``auto``."""
    own = [only(parts["train"], labels) for labels in TASKS[tasks]]
    first, second = (trained(2 * seed + n, hidden, epochs, own[n]) for n in (0, 1))
    images, test = parts["train"][0], parts["test"]
    data = [parts["train"]] if tasks == "same" else own
    found = conjoin.align(second, to=first, example_inputs=images[:2], data=images.split(250))
    aligned = found.apply(second)
    naive, merged = conjoin.merge([first, second]), conjoin.merge([first, aligned])
    validation = {
        name: only(parts["validation"], labels)
        for name, labels in zip(("first", "second"), TASKS[tasks], strict=True)
    }
    if tasks == "same":
        validation = {"digits": parts["validation"]}
    scores = {
        "first parent": accuracy(first, test),
        "second parent": accuracy(second, test),
        "naive": accuracy(naive, test),
    }
    repaired, _ = repair(naive, [first, second], data, method="repair", validation=validation)
    scores["naive, repair"] = accuracy(repaired, test)
    scores["aligned"] = accuracy(merged, test)
    for method in (one for one in METHODS if one != "reestimate"):
        repaired, report = repair(
            merged, [first, aligned], data, method=method, validation=validation
        )
        scores[f"aligned, {method}"] = accuracy(repaired, test)
        if method == "auto":
            chosen = report
    if tasks == "different":
        repaired, _ = repair(
            merged, [first, aligned], [parts["train"]], method="repair", validation=validation
        )
        scores["aligned, repair on the mixture"] = accuracy(repaired, test)
    return scores, chosen


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and what ``auto`` did to the last pair."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--hidden", type=int, nargs="+", default=[400, 200, 100])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--tasks", choices=list(TASKS), default="same")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    parts = digits()
    found = [measured(seed, given.hidden, given.epochs, parts, given.tasks) for seed in given.seeds]
    if given.json:
        rows = [{"accuracy": row, "report": report.as_dict()} for row, report in found]
        print(json.dumps(rows, indent=1))
        return
    for name in found[0][0]:
        values = torch.tensor([row[name] for row, _ in found], dtype=torch.float64)
        each = "  ".join(f"{value:6.2f}" for value in values)
        print(f"{name:31}  mean {float(values.mean()):6.2f}   of {each}")
    print("\nThe last pair:", found[-1][1], sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
