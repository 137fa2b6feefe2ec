"""Small sources of every kind, in files that the tests write in the real formats."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from conjoin.experiments.digits.sources import (
    HandwrittenDigits,
    ImageFolder,
    Mnist,
    RenderedStreetNumbers,
    Source,
    Svhn,
)


def idx(array: NDArray[np.uint8]) -> bytes:
    """The bytes of an IDX file, written down from the format's description."""
    header = bytes([0, 0, 8, array.ndim])
    return header + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def write_mnist(folder: Path, train: int = 60, test: int = 20) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(idx(labels))
    return folder


def write_svhn(folder: Path, **counts: int) -> Path:
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (counts or {"train": 60, "test": 20, "extra": 30}).items():
        images = rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = (np.arange(count, dtype=np.uint8) % 10 + 1)[:, None]
        savemat(folder / f"{part}_32x32.mat", {"X": images, "y": labels}, do_compression=True)
    return folder


def write_images(folder: Path, classes: int = 3, each: int = 40) -> Path:
    rng = np.random.default_rng(2)
    for label in range(classes):
        (folder / f"class {label}").mkdir(parents=True)
        for i in range(each):
            grey = rng.integers(0, 256, (32, 32), dtype=np.uint8)
            Image.fromarray(grey).save(folder / f"class {label}" / f"{i:03d}.png")
    return folder


@pytest.fixture(
    params=["handwritten", "rendered", "mnist", "svhn", "svhn extra", "folder"],
)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    """Each kind of source in turn, with at least 30 images for training, 5 in each other part."""
    make: dict[str, Callable[[], Source]] = {
        "handwritten": HandwrittenDigits,
        "rendered": RenderedStreetNumbers,
        "mnist": lambda: Mnist(write_mnist(tmp_path)),
        "svhn": lambda: Svhn(write_svhn(tmp_path)),
        "svhn extra": lambda: Svhn(write_svhn(tmp_path), extra=True),
        "folder": lambda: ImageFolder(write_images(tmp_path)),
    }
    return make[request.param]()


@pytest.fixture
def real_mnist() -> Mnist:
    folder = os.environ.get("CONJOIN_MNIST")
    if not folder:
        pytest.skip("CONJOIN_MNIST does not name a folder with MNIST's files")
    return Mnist(Path(folder))
