import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from conjoin.errors import DataError
from conjoin.experiments.digits.sources import SPLITS, HandwrittenDigits


def test_parts_have_the_labels_in_proportion() -> None:
    whole = np.bincount(load_digits().target) / 1797
    sizes = {"train": 1197, "validation": 200, "test": 400}
    for split in SPLITS:
        labels = HandwrittenDigits().load(split).labels
        assert len(labels) == sizes[split]
        assert (np.abs(np.bincount(labels) - whole * len(labels)) < 2).all()


def test_all_labels_are_there() -> None:
    labels = torch.cat([HandwrittenDigits().load(split).labels for split in SPLITS])
    assert torch.bincount(labels).tolist() == np.bincount(load_digits().target).tolist()


def test_images_are_the_originals_enlarged() -> None:
    # The mean of each 4 x 4 block is near the original pixel, and the range is MNIST's.
    found = HandwrittenDigits().load("test")
    blocks = found.images[:, 0].float().unfold(1, 4, 4).unfold(2, 4, 4).mean((3, 4)) / 255 * 16
    originals = torch.from_numpy(load_digits().images).float()
    nearest = torch.cdist(blocks.flatten(1), originals.flatten(1)).argmin(1)
    assert torch.equal(torch.from_numpy(load_digits().target)[nearest], found.labels)
    assert len(set(nearest.tolist())) == 400
    assert found.images.min() == 0
    assert found.images.max() == 255
    assert found.images[:, :, :2].float().mean() < found.images.float().mean()  # light on dark


def test_missing_scikit_learn_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r'pip install "conjoin\[digits\]"'):
        HandwrittenDigits().load("test")
