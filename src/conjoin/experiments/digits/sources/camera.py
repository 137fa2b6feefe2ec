"""What a camera makes of the rendered street numbers: light, blur, noise and compression.

The pixel arithmetic is done for a batch at a time, since NumPy is slow on single small images.
Blur, motion and a coarser sensor are all linear and separable, so that one matrix for the rows and
one for the columns do the three together.
"""

import io
from itertools import product

import numpy as np

from conjoin.experiments.digits.sources.drawing import Bytes, Floats
from conjoin.experiments.digits.sources.source import SIZE

__all__ = ["TEXTURE", "compress", "photograph"]

TEXTURE = 9
"""Knots of the background's texture, per side."""


def photograph(
    u: Floats,
    mask: Floats,
    under: Floats,
    clutter: Floats,
    over: Floats,
    texture: Floats,
    noise: Floats,
) -> Bytes:
    """Colour, light and blur a batch of images and add the noise of a sensor.

    Args:
        u: Uniform numbers ``[n, 96]``.
        mask: Coverage by ink ``[n, 32, 32]``, 0 to 1.
        under: Coverage by shadow or outline, the same.
        clutter: Grey levels to add to the background ``[n, 32, 32]``, -128 to 127.
        over: Coverage by what lies before the digits ``[n, 32, 32]``, 0 to 1.
        texture: Normal numbers ``[n, 9, 9]``, from which the background's texture is made.
        noise: Normal numbers ``[n, 32, 32]``.

    Returns:
        uint8 ``[n, 32, 32]``.
    """

    def column(k: int) -> Floats:
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


def compress(image: Bytes, quality: int) -> Bytes:
    """Return a uint8 image ``[height, width]`` as it is after JPEG of this quality (1 to 95)."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def _interpolation(knots: int) -> Floats:
    """Return the matrix ``[32, knots]`` of linear interpolation from a coarse grid."""
    at = (np.arange(SIZE) + 0.5) * knots / SIZE - 0.5
    near = np.clip(at[:, None] - np.arange(knots), -1, 1)
    weights = 1 - np.abs(near)
    return np.asarray(weights / weights.sum(1, keepdims=True))


def _lens(sigma: float, shake: int, grid: int) -> Floats:
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
        cells = np.clip(
            np.minimum(edges[1:, None], step + 1) - np.maximum(edges[:-1, None], step), 0, 1
        )
        coarse = _interpolation(grid) @ (cells / cells.sum(1, keepdims=True))
    lens: Floats = (
        coarse @ (motion / motion.sum(1, keepdims=True)) @ (blur / blur.sum(1, keepdims=True))
    )
    return lens


_SIGMAS = (0.0, 0.4, 0.55, 0.7, 0.85, 1.0, 1.15)
_SHAKES = (0, 2, 3)
_GRIDS = (32, 25, 22, 19, 17, 15, 13)
_TEXTURE_UP = _interpolation(TEXTURE)
_LENS = np.array([_lens(*each) for each in product(_SIGMAS, _SHAKES, _GRIDS)]).reshape(
    len(_SIGMAS), len(_SHAKES), len(_GRIDS), SIZE, SIZE
)
