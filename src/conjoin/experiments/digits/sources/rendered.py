"""Rendered street numbers: digits drawn on the fly in the manner of photographed house numbers.

An image shows what a crop around one digit of a house number shows: the digit in the middle, its
neighbours cut off at the sides, a background with shading and clutter, and all that a camera adds.
Every image depends on its part, the seed and its index alone, so that it is the same whatever the
count, the batch and the number of processes.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from conjoin.errors import DataError
from conjoin.experiments.digits.sources.camera import TEXTURE, compress, photograph
from conjoin.experiments.digits.sources.drawing import (
    Bytes,
    draw_clutter,
    draw_number,
    draw_shade,
)
from conjoin.experiments.digits.sources.fonts import FAMILIES, Glyphs
from conjoin.experiments.digits.sources.source import SIZE, Images, Progress, Split, check_split

__all__ = ["RENDER_VERSION", "RenderedStreetNumbers"]

RENDER_VERSION = 3
"""Raised with every change that moves a pixel: the identity of the images holds it."""

_PART = {"train": 0x7261, "validation": 0x7661, "test": 0x7465}  # never two parts with one stream
_BATCH = 64  # images whose pixel arithmetic is done together; fits the cache of a core
_UNIFORMS = 96  # of each image: every random choice has its own, so that none shifts another


@dataclass(frozen=True)
class RenderedStreetNumbers:
    """Digits in the manner of cropped house numbers, as many as one asks for.

    Test images are set in every family of typefaces, half of them in the held-out ones, training
    and validation images in all others. Every label is equally likely.

    >>> RenderedStreetNumbers().available("train") is None
    True
    """

    name: str = "rendered street numbers"

    def families(self, split: Split) -> tuple[str, ...]:
        """Return the names of the families that a part is set in."""
        check_split(split)
        return tuple(dict.fromkeys(FAMILIES[i].name for i in _families(split)))

    def identity(self) -> str:
        """Return version, fonts with digests, and the libraries that decide the pixels.

        Raises:
            DataError: If a font package or Pillow is missing.
        """
        digests = self._glyphs.digests()
        from PIL import features

        libraries = {
            "pillow": features.version("pil"),
            "freetype": features.version("freetype2"),
            "jpeg": features.version("libjpeg_turbo") or features.version("jpg"),
            "numpy": np.__version__,
        }
        return "; ".join(
            [f"rendered street numbers v{RENDER_VERSION}"]
            + [f"{library} {version}" for library, version in libraries.items()]
            + list(digests)
        )

    def available(self, split: Split) -> int | None:
        """Return None: there are as many images as one asks for."""
        check_split(split)
        return None

    def load(
        self,
        split: Split,
        count: int | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Images:
        """Render the first ``count`` images of a part.

        Args:
            split: Which part.
            count: How many, at least 1; None is refused, since there is no end.
            seed: Of the training part, ``0 <= seed < 2**64``; the other parts ignore it.
            progress: Called every few hundred images.

        Raises:
            DataError: If count or seed cannot be used, or fonts or Pillow are missing.
        """
        if count is None:
            raise DataError(f"{self.name} have no end: say how many you want")
        return self.render(split, 0, count, seed=seed, progress=progress)

    def render(
        self,
        split: Split,
        start: int,
        stop: int,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Images:
        """Render images ``start`` to ``stop - 1`` of a part, the same that ``load`` returns there.

        Raises:
            DataError: As for ``load``.
        """
        check_split(split)
        if not 0 <= start < stop < 2**32:
            raise DataError(
                f"{self.name} can be rendered from image 0 up to 2**32, at least one, "
                f"but {start} to {stop} were asked for"
            )
        if not 0 <= seed < 2**64:
            raise DataError(f"the seed must lie in 0 .. 2**64 - 1, but is {seed}")
        total = stop - start
        pixels = np.empty((total, 1, SIZE, SIZE), dtype=np.uint8)
        labels = np.empty(total, dtype=np.int64)
        for done in range(0, total, _BATCH):
            size = min(_BATCH, total - done)
            generators = [_generator(split, seed, start + done + i) for i in range(size)]
            batch = slice(done, done + size)
            pixels[batch, 0], labels[batch] = _render(self._glyphs, _families(split), generators)
            if progress is not None and (batch.stop == total or done // _BATCH % 8 == 7):
                progress(batch.stop, total)
        return Images(torch.from_numpy(pixels), torch.from_numpy(labels))

    @cached_property
    def _glyphs(self) -> Glyphs:
        return Glyphs.read()


def _generator(split: Split, seed: int, index: int) -> np.random.Generator:
    """Return the generator of one image; validation and test ignore the seed."""
    seed = seed if split == "train" else 0
    # Fixed numbers of words, or seed and index could run into each other.
    words = (_PART[split], seed & 0xFFFFFFFF, seed >> 32, index)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def _families(split: Split) -> tuple[int, ...]:
    """Return the indices of a part's families, each as often as it should count.

    In the test part a held-out family counts three times, so that half of the images (with 4 of
    16 held out) are set in a typeface that no training image showed.
    """
    seen = [i for i, family in enumerate(FAMILIES) if not family.held_out]
    held = [i for i, family in enumerate(FAMILIES) if family.held_out]
    return tuple(seen + 3 * held) if split == "test" else tuple(seen)


def _render(
    glyphs: Glyphs, families: tuple[int, ...], generators: list[np.random.Generator]
) -> tuple[Bytes, list[int]]:
    """Render one image for each generator: uint8 ``[n, 32, 32]``, and the labels."""
    n = len(generators)
    u = np.empty((n, _UNIFORMS))
    texture, noise = np.empty((n, TEXTURE, TEXTURE)), np.empty((n, SIZE, SIZE))
    mask, under, clutter, over = np.zeros((4, n, SIZE, SIZE))
    for i, generator in enumerate(generators):
        generator.random(out=u[i])
        generator.standard_normal(out=texture[i])
        generator.standard_normal(out=noise[i])
        draw = u[i].tolist()  # Python's arithmetic on single numbers is far faster than NumPy's
        mask[i] = draw_number(glyphs, families, draw)
        draw_shade(mask[i], under[i], draw)
        draw_clutter(clutter[i], over[i], draw)
    images = photograph(u, mask / 255, under / 255, clutter, over / 255, texture, noise)
    for i in range(n):
        if u[i, 90] < 0.35:
            images[i] = compress(images[i], 18 + int(60 * u[i, 91]))
    return images, [int(10 * first) for first in u[:, 0]]
