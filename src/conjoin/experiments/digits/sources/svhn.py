"""SVHN: digits cropped from photographs of house numbers, in the files of its authors.

Netzer et al., Reading Digits in Natural Images with Unsupervised Feature Learning, 2011.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from conjoin.errors import DataError
from conjoin.experiments.digits.sources.finite import choose, split_off
from conjoin.experiments.digits.sources.source import SIZE, Images, Progress, Split, check_split

__all__ = ["Svhn"]

_VALIDATION = 10_000  # of the 73,257 official training images
_CHUNK = 4_096  # images turned to grey at a time, to keep memory small


@dataclass(frozen=True)
class Svhn:
    """The cropped digits of SVHN (its "format 2") in a folder, turned to grey.

    Grey is ITU-R 601 luma, ``(299 R + 587 G + 114 B) / 1000``. The label 10 of the files means 0.
    Validation is a fixed choice of 10,000 of the 73,257 training images (a sixth of them where
    there are fewer).

    Args:
        folder: Holds ``train_32x32.mat`` and ``test_32x32.mat``.
        extra: Whether training also uses the 531,131 easier images of ``extra_32x32.mat``.
    """

    folder: Path
    extra: bool = False
    name: str = "SVHN"

    def identity(self) -> str:
        """Return the size and digest of each file.

        Raises:
            DataError: If a file is missing or cannot be read.
        """
        names = ["train", "test"] + ["extra"] * self.extra
        return "; ".join(["SVHN v1, grey", *(_identity(self._path(name)) for name in names)])

    def available(self, split: Split) -> int | None:
        """Return how many images a part has (reads the headers of its files)."""
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
        pixels = np.empty((len(chosen), 1, SIZE, SIZE), dtype=np.uint8)
        labels = np.empty(len(chosen), dtype=np.int64)
        done = start = 0
        for path in self._files(split):
            # Numbers 0, 1, ... run through all files of a part; this one holds start .. stop - 1.
            stop = start + _count(path)
            places = np.flatnonzero((chosen >= start) & (chosen < stop))
            if len(places):
                colours, digits = _read(path)
                for at in np.split(places, range(_CHUNK, len(places), _CHUNK)):
                    pixels[at, 0] = _grey(colours[..., chosen[at] - start])
                    labels[at] = digits[chosen[at] - start]
                    done += len(at)
                    if progress is not None:
                        progress(done, len(chosen))
            start = stop
        return Images(torch.from_numpy(pixels), torch.from_numpy(labels))

    def _part(self, split: Split) -> NDArray[np.int64]:
        check_split(split)
        counts = [_count(path) for path in self._files(split)]
        if split == "test":
            return np.arange(counts[0])
        rest, held = split_off(counts[0], min(_VALIDATION, counts[0] // 6))
        # The extra images follow, so that validation is the same with and without them.
        more = np.arange(counts[0], sum(counts))
        return np.concatenate([rest, more]) if split == "train" else held

    def _files(self, split: Split) -> list[Path]:
        if split == "test":
            return [self._path("test")]
        more = split == "train" and self.extra
        return [self._path("train")] + ([self._path("extra")] if more else [])

    def _path(self, name: str) -> Path:
        path = self.folder / f"{name}_32x32.mat"
        if not path.is_file():
            raise DataError(
                f"SVHN needs the file {path}, which does not exist; name the folder that holds "
                "it, or fetch it with conjoin.experiments.digits.sources.fetch_svhn(folder)"
            )
        return path


def _count(path: Path) -> int:
    """Return how many images a file says it has, after checking all that its header says."""
    from scipy.io import whosmat

    try:
        with path.open("rb") as file:
            head = file.read(520)
        if b"MATLAB 7.3" in head[:128] or b"\x89HDF\r\n\x1a\n" in head:
            raise DataError(
                f"{path} is a MATLAB 7.3 (HDF5) file, but SVHN is distributed as MATLAB 5 files; "
                "fetch the original, or save it again with MATLAB's save -v7"
            )
        found = {name: (tuple(shape), kind) for name, shape, kind in whosmat(path)}
    except DataError:
        raise
    except Exception as error:  # SciPy raises half a dozen kinds on a damaged file
        raise _unreadable(path, error) from error
    images, labels = found.get("X"), found.get("y")
    if images is None or labels is None:
        raise DataError(
            f"{path} should hold the variables X (images) and y (labels), "
            f"but holds {', '.join(sorted(found)) or 'none'}; fetch it again"
        )
    shape, kind = images
    if len(shape) != 4 or shape[:3] != (SIZE, SIZE, 3) or kind != "uint8":
        raise DataError(
            f"X in {path} should be uint8 of shape [32, 32, 3, N], but is {kind} of shape "
            f"{list(shape)}; fetch train_32x32.mat and its like, not the full numbers"
        )
    if labels[0] != (shape[3], 1):
        raise DataError(
            f"y in {path} should have the shape [{shape[3]}, 1], one label for each image in X, "
            f"but has {list(labels[0])}; fetch it again"
        )
    return int(shape[3])


def _read(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return uint8 ``[32, 32, 3, N]`` and the labels ``[N]``, 0 to 9."""
    from scipy.io import loadmat

    try:
        found = loadmat(path, variable_names=["X", "y"])
        colours = np.asarray(found["X"])
        labels = np.asarray(found["y"], dtype=np.float64).reshape(-1)
    except Exception as error:  # as above
        raise _unreadable(path, error) from error
    wrong = np.flatnonzero(~np.isin(labels, np.arange(1, 11)))
    if len(wrong):
        raise DataError(
            f"the labels in {path} should be 1 to 10 (10 for the digit 0), but label {wrong[0]} "
            f"is {labels[wrong[0]]:g}; fetch it again"
        )
    return colours, labels.astype(np.int64) % 10


def _grey(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return ``[N, 32, 32]`` for ``[32, 32, 3, N]``, in whole numbers, so the same everywhere."""
    red, green, blue = colours.transpose(2, 3, 0, 1).astype(np.uint32)
    grey = (299 * red + 587 * green + 114 * blue + 500) // 1000
    return np.asarray(grey, dtype=np.uint8)


def _identity(path: Path) -> str:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        return f"{path.name} {path.stat().st_size} {found[:32]}"
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"cannot read {path} as a MATLAB 5 file: {error}; fetch it again")
