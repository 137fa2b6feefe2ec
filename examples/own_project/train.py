"""Train a network for each task, from the same random weights; write a.pth and b.pth."""

from collections.abc import Iterable

import torch
from data import loaders
from net import SmallResNet
from torch.nn import functional as F

EPOCHS = 8


def train(batches: Iterable, seed: int) -> SmallResNet:
    """Train a network: the seed decides the order of the examples."""
    torch.manual_seed(0)  # the same first weights for every network
    network = SmallResNet()
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(EPOCHS):
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
    return network.eval()


def main() -> None:
    """Train both networks."""
    tasks = loaders()
    for seed, (path, task) in enumerate({"a.pth": "digits", "b.pth": "inverted"}.items()):
        torch.save(train(tasks[task]["train"], seed).state_dict(), path)
        print(f"{path}: a network for {task}")


if __name__ == "__main__":
    main()
