"""What the rendered street numbers show: the digits, what lies under them, and what is about.

Each function takes the uniform numbers ``u`` of one image, each of which has one use: 0 to 17 for
the number, 20 to 22 for its shade, 25 to 64 for the clutter.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from conjoin.experiments.digits.sources.fonts import FAMILIES, Glyphs
from conjoin.experiments.digits.sources.source import SIZE

if TYPE_CHECKING:
    from PIL import ImageDraw

__all__ = ["Bytes", "Floats", "draw_clutter", "draw_number", "draw_shade"]

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]

_HEIGHTS = (18, 23, 28)  # glyphs are rendered at these heights, then warped by a factor near 1


def draw_number(glyphs: Glyphs, families: tuple[int, ...], u: list[float]) -> Bytes:
    """Set a digit and its neighbours in a row and bring the row into the picture's plane.

    Args:
        glyphs: The digits of all faces.
        families: The indices of the families to choose from.
        u: The image's uniform numbers; the digit itself is ``int(10 * u[0])``.

    Returns:
        Coverage by ink, uint8 ``[32, 32]``; the digit is in the middle, give or take 3 pixels.
    """
    from PIL import Image

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
    plane = Image.fromarray(strip).transform(
        (SIZE, SIZE),
        Image.Transform.PERSPECTIVE,
        tuple(v / unit for v in (*first, *second, g, h)),
        Image.Resampling.BILINEAR,
    )
    return np.asarray(plane)


def _set(strip: Bytes, mask: Bytes, top: float, left: float) -> None:
    """Lay a glyph on the strip, cut where it leaves it."""
    row, column = max(0, int(top)), max(0, int(left))
    piece = mask[: strip.shape[0] - row, : strip.shape[1] - column]
    window = strip[row : row + piece.shape[0], column : column + piece.shape[1]]
    np.maximum(window, piece, out=window)


def draw_shade(mask: Floats, under: Floats, u: list[float]) -> None:
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


def draw_clutter(clutter: Floats, over: Floats, u: list[float]) -> None:
    """Draw shapes behind the digits (grey levels to add) and, seldom, a thin line before them."""
    from PIL import Image, ImageDraw

    if u[25] < 0.65:
        canvas = Image.new("L", (2 * SIZE, 2 * SIZE), 128)
        pen = ImageDraw.Draw(canvas)
        for k in range(1 + int(3.5 * u[26])):
            kind, level, x, y, v, w, width = u[27 + 7 * k : 34 + 7 * k]
            _shape(pen, kind, int(48 + 160 * level), x, y, v, w, 1 + int(5 * width))
        clutter[:] = np.asarray(canvas.reduce(2))
        clutter -= 128
    if u[60] < 0.25:
        canvas = Image.new("L", (2 * SIZE, 2 * SIZE), 0)
        ends = [64 * u[61], 0, 64 * u[62], 64] if u[63] < 0.5 else [0, 64 * u[61], 64, 64 * u[62]]
        ImageDraw.Draw(canvas).line(ends, fill=255, width=2 + int(4 * u[64]))
        over[:] = np.asarray(canvas.reduce(2))


def _shape(
    pen: ImageDraw.ImageDraw,
    kind: float,
    level: int,
    x: float,
    y: float,
    v: float,
    w: float,
    width: int,
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
