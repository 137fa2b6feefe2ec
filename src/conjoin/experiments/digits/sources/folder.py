"""Images in folders: one sub-folder for each class, as many tools write and read them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import unicodedata
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from conjoin.errors import DataError
from conjoin.experiments.digits.sources.finite import choose
from conjoin.experiments.digits.sources.source import (
    SIZE,
    SPLITS,
    Images,
    Progress,
    Split,
    check_split,
)

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["ImageFolder"]

_FORMATS = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "BMP": (".bmp",), "WEBP": (".webp",)}
_SUFFIXES = tuple(suffix for suffixes in _FORMATS.values() for suffix in suffixes)
_LARGEST = 50_000_000  # pixels; a small file can claim more, to fill the memory


@dataclass(frozen=True)
class ImageFolder:
    """Images in ``train``, ``validation`` and ``test``, or in one folder divided by name.

    Either ``folder/{train,validation,test}/class/image.png``, or ``folder/class/image.png``; then
    of ten images about eight are for training, one for validation, one for testing, by a hash of
    ``class/image.png``. (Copies of an image under two names are two images.) Classes are numbered
    in the order of their names. An image is turned to grey and fitted into 32 x 32 as a whole; its
    edge pixels fill the rest. Names that begin with a dot, and files other than PNG, JPEG, BMP and
    WebP, are passed over.

    Args:
        folder: The folder.
    """

    folder: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name or str(self.folder)

    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes: label k is the k-th.

        Raises:
            DataError: If there are no two classes, or the three parts have different ones.
        """
        roots = self._roots()
        classes = {root: tuple(sorted(p.name for p in _folders(root))) for root in roots.values()}
        (first, names), *others = classes.items()
        for other, theirs in others:
            if theirs != names:
                odd = ", ".join(sorted(set(names) ^ set(theirs)))
                raise DataError(
                    f"{first} and {other} should hold the same classes, but differ in: {odd}"
                )
        if len(names) < 2:
            raise DataError(
                f"{first} should hold a folder for each of two or more classes, but holds "
                f"{', '.join(names) or 'none'}"
            )
        return names

    def identity(self) -> str:
        """Return one digest of all names and contents (reads every file)."""
        _need_pillow()
        from PIL import features

        found = hashlib.sha256(repr(self.class_names()).encode("utf-8", "surrogateescape"))
        total = 0
        for split in SPLITS:
            for path, label in self._files(split):
                try:
                    content = hashlib.sha256(path.read_bytes()).digest()
                except OSError as error:
                    raise DataError(f"cannot read the image {path}: {error}") from error
                found.update(os.fsencode(f"{split}/{label}/{path.name}\0") + content)
                total += 1
        return (
            f"image folder v1, {total} files, {found.hexdigest()[:32]}; pillow "
            f"{features.version('pil')}; jpeg {features.version('jpg')}"
        )

    def available(self, split: Split) -> int | None:
        """Return how many images a part has."""
        return len(self._files(split))

    def load(
        self,
        split: Split,
        count: int | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Images:
        """Return ``count`` images of a part; see ``Source.load``.

        Raises:
            DataError: Also if a file is not the image that its name says, or far too large.
        """
        files = self._files(split)
        chosen = choose(len(files), split, count, seed, f"the folder {self.folder}")
        pixels = np.empty((len(chosen), 1, SIZE, SIZE), dtype=np.uint8)
        for i, which in enumerate(chosen):
            pixels[i, 0] = _read(files[which][0])
            if progress is not None and (i % 100 == 99 or i + 1 == len(chosen)):
                progress(i + 1, len(chosen))
        labels = np.array([files[which][1] for which in chosen], dtype=np.int64)
        classes = len(self.class_names())
        return Images(torch.from_numpy(pixels), torch.from_numpy(labels), classes)

    def _roots(self) -> dict[Split, Path]:
        """Return the folder that holds the classes of each part."""
        found = {path.name for path in _folders(self.folder)}
        parts = found & set(SPLITS)
        if not parts:
            return dict.fromkeys(SPLITS, self.folder)
        if parts != set(SPLITS) or found != parts:
            raise DataError(
                f"{self.folder} should hold either the three folders {', '.join(SPLITS)}, or one "
                f"folder for each class, but holds {', '.join(sorted(found))}"
            )
        return {split: self.folder / split for split in SPLITS}

    def _files(self, split: Split) -> list[tuple[Path, int]]:
        """Return path and label of the images of a part, in the order of their names."""
        check_split(split)
        root, divided = self._roots()[split], self.folder not in self._roots().values()
        files = []
        for label, name in enumerate(self.class_names()):
            of_class = _images(root / name)
            if not of_class:
                raise DataError(
                    f"the class folder {root / name} holds no image ({', '.join(_SUFFIXES)}); "
                    "add some, or remove it"
                )
            files += [
                (path, label) for path in of_class if divided or _part(name, path.name) == split
            ]
        return files


def _part(class_name: str, file: str) -> Split:
    """Return the part of an image, by its name alone and the same on every system."""
    name = unicodedata.normalize("NFC", f"{class_name}/{file}")
    tenth = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()) % 10
    return "test" if tenth == 0 else "validation" if tenth == 1 else "train"


def _folders(folder: Path) -> list[Path]:
    try:
        return [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    except OSError as error:
        raise DataError(
            f"cannot list the folder {folder}: {error.strerror or error}; name a folder of images"
        ) from error


def _images(folder: Path) -> list[Path]:
    inner = _folders(folder)
    if inner:
        raise DataError(
            f"the class folder {folder} should hold images only, but holds the folder {inner[0]}"
        )
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")
    )


def _read(path: Path) -> NDArray[np.uint8]:
    """Return an image as grey uint8 ``[32, 32]``."""
    _need_pillow()
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            # Pillow only warns of what may be an attack; and what it says of odd files is
            # no matter of the user's.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=tuple(_FORMATS)) as image:
                width, height = image.size
                if width * height > _LARGEST:
                    raise DataError(
                        f"the image {path} should have at most {_LARGEST:,} pixels, "
                        f"but claims {width} x {height}; scale it down or remove it"
                    )
                grey = _grey(ImageOps.exif_transpose(image))
    except DataError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds on damaged or hostile files
        raise DataError(f"cannot read {path} as an image: {error}; repair or remove it") from error
    scale = SIZE / max(grey.size)
    width, height = (max(1, round(side * scale)) for side in grey.size)
    small = np.asarray(grey.resize((width, height), Image.Resampling.BILINEAR))
    top, left = (SIZE - height) // 2, (SIZE - width) // 2
    around = (top, SIZE - height - top), (left, SIZE - width - left)
    return np.pad(small, around, mode="edge")


def _need_pillow() -> None:
    if importlib.util.find_spec("PIL") is None:
        raise DataError('reading images needs Pillow; run: pip install "conjoin[digits]"')


def _grey(image: Image.Image) -> Image.Image:
    """Turn an image of any mode to 8-bit grey; what is transparent becomes black."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
        levels = np.clip(np.asarray(image, dtype=np.int64) // 256, 0, 255)
        return Image.fromarray(levels.astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return image.convert("L")
