"""Rendered street numbers: digits drawn on the fly in the manner of photographed house numbers.

An image shows what a crop around one digit of a house number shows: the digit in the middle, its
neighbours cut off at the sides, a background with shading and clutter, and all that a camera adds.
Every image depends on its part, the seed and its index alone, so that it is the same whatever the
count, the batch and the number of processes.
"""

import io
import math
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from conjoin.errors import DataError
from conjoin.experiments.digits.sources.fonts import FAMILIES, Glyphs
from conjoin.experiments.digits.sources.source import SIZE, Images, Progress, Split, check_split

__all__ = ["RENDER_VERSION", "RenderedStreetNumbers"]

RENDER_VERSION = 3
"""Raised with every change that moves a pixel: the cache key of rendered images holds it."""

_PART = {"train": 0x7261, "validation": 0x7661, "test": 0x7465}
_BATCH = 64  # images whose pixel arithmetic is done together; fits the cache of a core
_HEIGHTS = (18, 23, 28)  # glyphs are rendered at these heights, then warped by a factor near 1
_UNIFORMS = 96
_TEXTURE = 9  # knots of the smooth texture, per side

_Floats = NDArray[np.float64]
_Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class RenderedStreetNumbers:
    """Digits in the manner of cropped house numbers, as many as one asks for.

    Test images are set in every family of typefaces, half of them in the held-out ones, training
    and validation images in all others. Every label is equally likely.

    Raises:
        DataError: From ``load`` and ``identity``, if a font package or Pillow is missing.
    """

    name: str = "rendered street numbers"

    def families(self, split: Split) -> tuple[str, ...]:
        """Return the names of the families that a part is set in."""
        check_split(split)
        return tuple(dict.fromkeys(FAMILIES[i].name for i in _families(split)))

    def identity(self) -> str:
        """Return version, fonts with digests, and the libraries that decide the pixels."""
        features = _pillow("features")
        libraries = {
            "pillow": features.version("pil"),
            "freetype": features.version("freetype2"),
            "jpeg": features.version("libjpeg_turbo") or features.version("jpg"),
            "numpy": np.__version__,
        }
        return "; ".join(
            [f"rendered street numbers v{RENDER_VERSION}"]
            + [f"{library} {version}" for library, version in libraries.items()]
            + list(self._glyphs.digests())
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
            progress: Called after every few batches.

        Raises:
            DataError: If count or seed cannot be used, or fonts are missing.
        """
        check_split(split)
        if count is None or count < 1 or count >= 2**32:
            raise DataError(
                f"rendered street numbers have no end: say how many, at least 1, not {count}"
            )
        if not 0 <= seed < 2**64:
            raise DataError(f"the seed must lie in 0 .. 2**64 - 1, not {seed}")
        pixels = np.empty((count, 1, SIZE, SIZE), dtype=np.uint8)
        labels = np.empty(count, dtype=np.int64)
        for start in range(0, count, _BATCH):
            stop = min(start + _BATCH, count)
            pixels[start:stop, 0], labels[start:stop] = self._render(split, seed, start, stop)
            if progress is not None and (stop == count or start // _BATCH % 8 == 7):
                progress(stop, count)
        return Images(torch.from_numpy(pixels), torch.from_numpy(labels))

    @cached_property
    def _glyphs(self) -> Glyphs:
        _pillow("ImageFont")
        return Glyphs.read()

    def _render(
        self, split: Split, seed: int, start: int, stop: int
    ) -> tuple[_Bytes, NDArray[np.int64]]:
        """Render images ``start .. stop - 1`` of a part."""
        n, table = stop - start, _families(split)
        u = np.empty((n, _UNIFORMS))
        texture = np.empty((n, _TEXTURE, _TEXTURE))
        noise = np.empty((n, SIZE, SIZE))
        mask, under, clutter, over = np.zeros((4, n, SIZE, SIZE))
        labels = np.empty(n, dtype=np.int64)
        for i in range(n):
            rng = _generator(split, seed, start + i)
            rng.random(out=u[i])
            rng.standard_normal(out=texture[i])
            rng.standard_normal(out=noise[i])
            draw = u[i].tolist()
            labels[i] = int(10 * draw[0])
            mask[i] = _number(self._glyphs, table, draw)
            _shade(mask[i], under[i], draw)
            _clutter(clutter[i], over[i], draw)
        images = _photograph(u, mask / 255, under / 255, clutter, over / 255, texture, noise)
        for i in range(n):
            if u[i, 90] < 0.35:
                images[i] = _jpeg(images[i], 18 + int(60 * u[i, 91]))
        return images, labels


def _generator(split: Split, seed: int, index: int) -> np.random.Generator:
    """Return the generator of one image; validation and test ignore the seed."""
    seed = seed if split == "train" else 0
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


def _pillow(module: str) -> Any:
    """Import a module of Pillow, late and with an error that says what to install."""
    import importlib

    try:
        return importlib.import_module(f"PIL.{module}")
    except ImportError as error:
        raise DataError(
            'rendering digits needs Pillow; run: pip install "conjoin[digits]"'
        ) from error


def _number(glyphs: Glyphs, families: tuple[int, ...], u: list[float]) -> _Bytes:
    """Set the digit and its neighbours on a strip, then bring them into the picture's plane."""
    image_class = _pillow("Image")
    family = families[int(len(families) * u[1])]
    face = int(len(glyphs.faces[family]) * u[2])
    height = 15.5 + 12.0 * u[3]
    size = next((h for h in _HEIGHTS if h >= height), _HEIGHTS[-1])
    digits = glyphs.digits(family, face, size)
    middle = digits[int(10 * u[0])]
    rows, columns = middle.mask.shape

    strip = np.zeros((4 * size, 8 * size), dtype=np.uint8)
    top, left = 2 * size - rows // 2, 4 * size - columns // 2
    _set(strip, middle.mask, top, left)
    gap = (0.02 + 0.2 * u[4]) * size
    if u[5] < 0.7:
        glyph = digits[int(10 * u[6])]
        _set(strip, glyph.mask, top + glyph.top - middle.top, left - gap - glyph.mask.shape[1])
    if u[7] < 0.7:
        glyph = digits[int(10 * u[8])]
        _set(strip, glyph.mask, top + glyph.top - middle.top, left + columns + gap)

    # Inverse map, from the picture to the strip: rotation, shear, stretch, slight perspective.
    angle = math.radians(min(15.0, max(-15.0, 13.0 * (u[9] + u[10] + u[11] - 1.5) * 1.5)))
    shear = 0.5 * (u[12] - 0.5)
    scale_y = rows / height
    scale_x = scale_y / ((0.8 + 0.45 * u[13]) * FAMILIES[family].stretch)
    cos, sin = math.cos(angle), math.sin(angle)
    a, b = scale_x * (cos + shear * sin), scale_x * (shear * cos - sin)
    c, d = scale_y * sin, scale_y * cos
    g, h = 0.012 * (u[14] - 0.5), 0.012 * (u[15] - 0.5)
    x, y = SIZE / 2 + 6.0 * (u[16] - 0.5), SIZE / 2 + 6.0 * (u[17] - 0.5)
    sx, sy = left + columns / 2, top + rows / 2
    unit = 1 - g * x - h * y
    first = (a + sx * g, b + sx * h, sx * unit - a * x - b * y)
    second = (c + sy * g, d + sy * h, sy * unit - c * x - d * y)
    plane = image_class.fromarray(strip).transform(
        (SIZE, SIZE),
        image_class.Transform.PERSPECTIVE,
        [v / unit for v in (*first, *second, g, h)],
        image_class.Resampling.BILINEAR,
    )
    return np.asarray(plane)


def _set(strip: _Bytes, mask: _Bytes, top: float, left: float) -> None:
    """Lay a glyph on the strip, cut where it leaves it."""
    row, column = max(0, int(top)), max(0, int(left))
    piece = mask[: strip.shape[0] - row, : strip.shape[1] - column]
    window = strip[row : row + piece.shape[0], column : column + piece.shape[1]]
    np.maximum(window, piece, out=window)


def _shade(mask: _Floats, under: _Floats, u: list[float]) -> None:
    """Write what lies under the digits: a drop shadow, an outline, or nothing."""
    if u[20] < 0.2:
        dy, dx = int(1 + 2 * u[21]), int(5 * u[22]) - 2
        under[dy:, max(0, dx) : SIZE + min(0, dx)] = mask[
            : SIZE - dy, max(0, -dx) : SIZE - max(0, dx)
        ]
    elif u[20] < 0.35:
        under[:] = mask
        for axis in (0, 1):
            before = under.swapaxes(0, axis).copy()
            out = under.swapaxes(0, axis)
            np.maximum(out[1:], before[:-1], out=out[1:])
            np.maximum(out[:-1], before[1:], out=out[:-1])


def _clutter(clutter: _Floats, over: _Floats, u: list[float]) -> None:
    """Draw shapes behind the digits (grey levels to add) and, seldom, a thin line before them."""
    image_class, draw_class = _pillow("Image"), _pillow("ImageDraw")
    if u[25] < 0.65:
        canvas = image_class.new("L", (2 * SIZE, 2 * SIZE), 128)
        pen = draw_class.Draw(canvas)
        for k in range(1 + int(3.5 * u[26])):
            kind, level, x, y, v, w, width = u[27 + 7 * k : 34 + 7 * k]
            _shape(pen, kind, int(48 + 160 * level), x, y, v, w, 1 + int(5 * width))
        clutter[:] = np.asarray(canvas.reduce(2))
        clutter -= 128
    if u[60] < 0.25:
        canvas = image_class.new("L", (2 * SIZE, 2 * SIZE), 0)
        ends = [64 * u[61], 0, 64 * u[62], 64] if u[63] < 0.5 else [0, 64 * u[61], 64, 64 * u[62]]
        draw_class.Draw(canvas).line(ends, fill=255, width=2 + int(4 * u[64]))
        over[:] = np.asarray(canvas.reduce(2))


def _shape(
    pen: Any, kind: float, level: int, x: float, y: float, v: float, w: float, width: int
) -> None:
    """Draw one shape on a canvas of 64 x 64; all numbers but level and width lie in [0, 1)."""
    side = 2 * SIZE
    if kind < 0.25:
        pen.line([side * x, side * y, side * v, side * w], fill=level, width=width)
    elif kind < 0.4:  # the edge of a plate or frame, all across
        at = side * x if x < 0.3 or x > 0.7 else side * (0.2 * x)
        tilt = 12 * (w - 0.5)
        ends = [at, 0, at + tilt, side] if y < 0.5 else [0, at, side, at + tilt]
        pen.line(ends, fill=level, width=width)
    elif kind < 0.55:  # everything beyond an edge
        at = side * (0.25 * v if w < 0.5 else 1 - 0.25 * v)
        low, high = (0.0, at) if w < 0.5 else (at, float(side))
        box = [0, low, side, high] if y < 0.5 else [low, 0, high, side]
        pen.rectangle(box, fill=level)
    else:
        box = [side * x - 6, side * y - 6, side * x + 4 + 36 * v, side * y + 4 + 36 * w]
        if kind < 0.7:
            pen.rectangle(box, fill=level)
        elif kind < 0.8:
            pen.rectangle(box, outline=level, width=width)
        elif kind < 0.9:
            pen.ellipse(box, fill=level)
        else:
            pen.ellipse(box, outline=level, width=width)


def _photograph(
    u: _Floats,
    mask: _Floats,
    under: _Floats,
    clutter: _Floats,
    over: _Floats,
    texture: _Floats,
    noise: _Floats,
) -> _Bytes:
    """Colour, light and blur a batch and add noise; all arrays are ``[n, 32, 32]``."""

    def column(k: int) -> _Floats:
        return u[:, k, None, None]

    ramp = np.linspace(-1, 1, SIZE)
    across, down = ramp[None, None, :], ramp[None, :, None]
    weak = column(65) < 0.12
    contrast = np.where(weak, 28 + 22 * column(66), 50 + 130 * column(66))
    ground = 25 + 205 * column(67)
    # Dark on light or light on dark by chance, unless only one of them is within range.
    light = np.where(column(68) < 0.5, ground + contrast <= 250, ground - contrast < 5)
    ink = np.where(light, ground + contrast, ground - contrast)

    back = ground + contrast * 0.3 * ((column(69) - 0.5) * across + (column(70) - 0.5) * down)
    back += _TEXTURE_UP @ texture @ _TEXTURE_UP.T * (contrast * 0.22 * column(71) ** 2)
    back += clutter * np.minimum(1.0, contrast / 90) * (0.3 + 0.7 * column(72))
    other = np.where(column(73) < 0.5, ground - contrast * 0.6, ground + contrast * 0.6)
    image = back + (other - back) * under * (0.25 + 0.5 * column(74))
    image += (ink - image) * mask * (0.75 + 0.25 * column(75))
    image += (other - image) * over
    image += 50 * ((column(76) - 0.5) * across + (column(77) - 0.5) * down)  # the light falls
    edge = (column(85) - 0.5) * across + (column(86) - 0.5) * down + 0.3 * (column(87) - 0.5)
    cast = (1.6 * column(88) - 0.8) * np.minimum(contrast, 90) * (column(89) < 0.35)
    image += cast * np.clip(12 * edge, -0.5, 0.5)  # a shadow's edge runs through the picture

    blur = np.asarray(u[:, 78] ** 1.7 * len(_SIGMAS), dtype=np.int64)
    fine = np.where(u[:, 79] < 0.6, 0, 1 + np.asarray(u[:, 80] * (len(_GRIDS) - 1), dtype=int))
    shake = np.where(u[:, 81] < 0.85, 0, 1 + np.asarray(u[:, 82] * 2, dtype=int))
    sideways = u[:, 83] < 0.6
    rows = _LENS[blur, np.where(sideways, 0, shake), fine]
    columns = _LENS[blur, np.where(sideways, shake, 0), fine]
    image = rows @ image @ columns.transpose(0, 2, 1)
    strength = np.minimum(14 * column(84) ** 2, 0.14 * contrast) + 0.5
    image += noise * strength
    return np.asarray(np.clip(np.rint(image), 0, 255), dtype=np.uint8)


def _jpeg(image: _Bytes, quality: int) -> _Bytes:
    image_class, file = _pillow("Image"), io.BytesIO()
    image_class.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(image_class.open(file))


def _interpolation(knots: int) -> _Floats:
    """Return the matrix ``[32, knots]`` of linear interpolation from a coarse grid."""
    at = (np.arange(SIZE) + 0.5) * knots / SIZE - 0.5
    near = np.clip(at[:, None] - np.arange(knots), -1, 1)
    weights = 1 - np.abs(near)
    return weights / weights.sum(1, keepdims=True)


def _lens(sigma: float, shake: int, grid: int) -> _Floats:
    """Return the matrix ``[32, 32]`` of blur, motion and a coarser grid along one axis.

    Rows sum to 1, so that a flat image stays as it is, also at its edges.
    """
    step = np.arange(SIZE)
    distance = np.abs(step[:, None] - step)
    blur = np.exp(-0.5 * (distance / sigma) ** 2) if sigma else np.eye(SIZE)
    motion = (distance <= shake / 2).astype(np.float64)
    coarse = np.eye(SIZE)
    if grid < SIZE:
        edges = np.arange(grid + 1) * SIZE / grid
        cells = np.clip(np.minimum(edges[1:, None], step + 1) - np.maximum(edges[:-1, None], step),
                        0, 1)
        coarse = _interpolation(grid) @ (cells / cells.sum(1, keepdims=True))
    lens: _Floats = (
        coarse @ (motion / motion.sum(1, keepdims=True)) @ (blur / blur.sum(1, keepdims=True))
    )
    return lens


_SIGMAS = (0.0, 0.4, 0.55, 0.7, 0.85, 1.0, 1.15)
_SHAKES = (0, 2, 3)
_GRIDS = (32, 25, 22, 19, 17, 15, 13)
_TEXTURE_UP = _interpolation(_TEXTURE)
_LENS = np.array([_lens(*each) for each in product(_SIGMAS, _SHAKES, _GRIDS)]).reshape(
    len(_SIGMAS), len(_SHAKES), len(_GRIDS), SIZE, SIZE
)
