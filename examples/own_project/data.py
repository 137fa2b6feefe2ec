"""The data: scikit-learn's digits as they are, inverted, and half inverted."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

PARTS = {"train": range(1000), "validation": range(1000, 1300), "test": range(1300, 1797)}
"""The same digit is in the same part of every domain: no test digit is trained on in another."""


def loaders() -> dict[str, dict[str, object]]:
    """Give what `conjoin compare --data data.py:loaders` asks for.

    For each task a loader for each part; only the one for training shuffles. No network is
    trained on the last task: it shows whether a merged network generalizes to it.
    """
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16  # [1797, 1, 8, 8]
    labels = torch.tensor(digits.target)
    left = torch.arange(8) < 4
    return {
        "digits": _parts(images, labels),
        "inverted": _parts(1 - images, labels),
        "half inverted": {
            **_parts(torch.where(left, 1 - images, images), labels),
            "trained_on": False,
        },
    }


def _parts(images: Tensor, labels: Tensor) -> dict[str, object]:
    found: dict[str, object] = {}
    for part, which in PARTS.items():
        examples = TensorDataset(images[which.start : which.stop], labels[which.start : which.stop])
        found[part] = DataLoader(examples, batch_size=50, shuffle=part == "train")
    return found
