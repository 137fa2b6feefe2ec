"""Data that a small network learns in seconds: the label is where the bright bar is."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def _bars(count: int, seed: int, size: int, *, upright: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count).astype(np.uint8)
    images = rng.integers(0, 60, (count, size, size)).astype(np.uint8)
    width = size // 10
    for image, label in zip(images, labels, strict=True):
        start = int(label) * width + (size - 10 * width) // 2
        image[:, start : start + width] = 255
    return (images if upright else images.transpose(0, 2, 1)), labels


def _write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    with gzip.open(path, "wb") as file:
        file.write(header + array.tobytes())


@pytest.fixture(scope="session")
def easy_mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in MNIST's format with upright bars."""
    folder = tmp_path_factory.mktemp("easy-mnist")
    for part, count, seed in (("train", 900, 1), ("t10k", 200, 2)):
        images, labels = _bars(count, seed, 28, upright=True)
        _write_idx(folder / f"{part}-images-idx3-ubyte.gz", images)
        _write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels)
    return folder


@pytest.fixture(scope="session")
def easy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images per class with level bars."""
    folder = tmp_path_factory.mktemp("lying-bars")
    images, labels = _bars(900, 3, 32, upright=False)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        part = ("train", "train", "train", "train", "validation", "test")[number % 6]
        path = folder / part / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(image)).save(path)
    return folder
