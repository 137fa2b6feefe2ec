"""MNIST: 70,000 handwritten digits, read from the four files in which it is distributed.

LeCun, Cortes and Burges, The MNIST database of handwritten digits, 1998.
"""

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from conjoin.errors import DataError
from conjoin.experiments.digits.sources.finite import choose, digest, split_off
from conjoin.experiments.digits.sources.source import SIZE, Images, Progress, Split, check_split

__all__ = ["Mnist", "read_idx"]

_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_VALIDATION = 10_000  # of the 60,000 official training images
_LARGEST = 1 << 28  # bytes; no file of this family of data sets comes near


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, compressed if its name ends in ``.gz``.

    Args:
        path: The file.
        dimensions: How many dimensions it must have: 3 for images, 1 for labels.

    Returns:
        uint8, of the shape that the file's header states.

    Raises:
        DataError: If the file cannot be read or is not such a file, to its last byte.
    """
    again = "fetch it again"
    content = _content(path)
    header = 4 + 4 * dimensions
    expected = bytes([0, 0, 8, dimensions])
    if content[:4] != expected:
        raise DataError(
            f"{path} should begin with the bytes {expected.hex(' ')} (IDX, unsigned bytes, "
            f"{dimensions} dimensions), but begins with {content[:4].hex(' ') or 'nothing'}; "
            f"{again}"
        )
    if len(content) < header:
        raise DataError(f"{path} ends within its header of {header} bytes; {again}")
    shape = [int.from_bytes(content[4 * k : 4 * k + 4], "big") for k in range(1, dimensions + 1)]
    if math.prod(shape) != len(content) - header:
        raise DataError(
            f"{path} should hold {' x '.join(map(str, shape))} = {math.prod(shape):,} bytes after "
            f"its header, but holds {len(content) - header:,}; {again}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def _content(path: Path) -> bytes:
    """Return what a file holds, decompressed; never more than can be."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}; fetch it again") from error
    if len(content) > _LARGEST:
        raise DataError(f"{path} holds more than {_LARGEST:,} bytes, too many for such a file")
    return content


@dataclass(frozen=True)
class Mnist:
    """MNIST, or a data set in its format such as Fashion-MNIST, in a folder.

    The images of 28 x 28 get a border of two zeros. Validation is a fixed choice of 10,000 of the
    60,000 training images (a sixth of them where there are fewer).

    Args:
        folder: Holds the four files, compressed or not, itself or in ``raw`` or ``MNIST/raw``.
    """

    folder: Path
    name: str = "MNIST"

    def identity(self) -> str:
        """Return the size and digest of what each file holds, compressed or not.

        Raises:
            DataError: If a file is missing or cannot be read.
        """
        paths = [self._find(name) for pair in _FILES.values() for name in pair]
        held = [f"{path.name.removesuffix('.gz')} {digest(_content(path))}" for path in paths]
        return "; ".join(["MNIST v1, padded to 32 x 32", *held])

    def available(self, split: Split) -> int | None:
        """Return how many images a part has (reads its labels)."""
        return len(self._part(split))

    def load(
        self,
        split: Split,
        count: int | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Images:
        """Return ``count`` images of a part; see ``Source.load``."""
        part = self._part(split)
        chosen = part[choose(len(part), split, count, seed, self.name)]
        images_path, labels_path = map(self._find, _FILES["test" if split == "test" else "train"])
        images, labels = read_idx(images_path, 3), self._labels(split)
        if images.shape != (len(labels), 28, 28):
            raise DataError(
                f"{images_path} should hold {len(labels):,} images of 28 x 28, one for each label "
                f"in {labels_path}, but its shape is {list(images.shape)}; fetch both files again"
            )
        pixels = np.zeros((len(chosen), 1, SIZE, SIZE), dtype=np.uint8)
        pixels[:, 0, 2:30, 2:30] = images[chosen]
        if progress is not None:
            progress(len(chosen), len(chosen))
        return Images(torch.from_numpy(pixels), torch.from_numpy(labels[chosen].astype(np.int64)))

    def _part(self, split: Split) -> NDArray[np.int64]:
        check_split(split)
        total = len(self._labels(split))
        if split == "test":
            return np.arange(total)
        rest, held = split_off(total, min(_VALIDATION, total // 6))
        return rest if split == "train" else held

    def _labels(self, split: Split) -> NDArray[np.uint8]:
        path = self._find(_FILES["test" if split == "test" else "train"][1])
        labels = read_idx(path, 1)
        if labels.size and labels.max() > 9:
            where = int(labels.argmax())
            raise DataError(
                f"the labels in {path} should be 0 to 9, but label {where} is {labels[where]}; "
                "is this MNIST, and not a variant with letters?"
            )
        return labels

    def _find(self, name: str) -> Path:
        folders = [self.folder / "MNIST" / "raw", self.folder / "raw", self.folder]
        for folder in folders:
            for path in (folder / name, folder / f"{name}.gz"):
                if path.is_file():
                    return path
        raise DataError(
            f"MNIST needs the file {name} or {name}.gz, which is in none of "
            f"{', '.join(map(str, folders))}; name the folder that holds it, or fetch it: "
            "conjoin digits --download, or conjoin.experiments.digits.sources.fetch_mnist(folder)"
        )
