"""Images and filters of a run as PNGs within the page."""

import base64
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open

from conjoin.errors import DataError

__all__ = ["Filters", "Samples", "filter_sheet", "png_uri", "read_filters", "read_samples"]


@dataclass(frozen=True, eq=False)
class Samples:
    """Images of the test parts, and what rows say of them.

    Args:
        images: uint8 [n, H, W] or [n, H, W, 3].
        tasks: the task of each image.
        labels: int64 [n].
        rows: keys of rows.
        predictions: int64 [rows, n]; -1 where a row does not answer.
        confidences: float32 [rows, n].
    """

    images: NDArray[np.uint8]
    tasks: list[str]
    labels: NDArray[np.int64]
    rows: list[str]
    predictions: NDArray[np.int64]
    confidences: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Filters:
    """The first layer of one network.

    Args:
        owner: the key of a row, or the name of a model.
        is_row: which of the two.
        group: key of the group.
        weights: float32 [filters, channels, h, w].
    """

    owner: str
    is_row: bool
    group: str
    weights: NDArray[np.float32]


def read_samples(folder: Path) -> Samples | None:
    """Read the samples of a run; None if it has none.

    Raises:
        DataError: the file is malformed.
    """
    path = folder / "samples.safetensors"
    if not path.exists():
        return None
    tensors, meta = _read(path, "conjoin.samples")
    try:
        images, labels = tensors["images"], tensors["labels"]
        samples = Samples(
            images=images,
            tasks=[str(task) for task in meta["tasks"]],
            labels=labels,
            rows=[str(row) for row in meta["rows"]],
            predictions=tensors["predictions"],
            confidences=tensors["confidences"],
        )
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is not a file of samples of conjoin: {error}") from error
    count, rows = len(samples.images), len(samples.rows)
    shapes = (samples.predictions.shape, samples.confidences.shape)
    right = images.dtype == np.uint8 and images.ndim in (3, 4)
    if (
        not right
        or shapes != ((rows, count),) * 2
        or not count == len(labels) == len(samples.tasks)
    ):
        raise DataError(
            f"{path} is not a file of samples of conjoin: expected uint8 images and a label, a "
            f"task and {rows} predictions of each, found {images.dtype} {list(images.shape)} and "
            f"predictions {list(samples.predictions.shape)}"
        )
    return samples


def read_filters(folder: Path) -> list[Filters]:
    """Read the first layers of a run's networks; none if there is no file.

    Raises:
        DataError: the file is malformed.
    """
    path = folder / "filters.safetensors"
    if not path.exists():
        return []
    tensors, meta = _read(path, "conjoin.filters")
    try:
        found = [
            Filters(
                str(entry.get("row", entry.get("model", number))),
                "row" in entry,
                str(entry.get("group", "")),
                tensors[str(number)].astype(np.float32),
            )
            for number, entry in enumerate(meta)
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not a file of filters of conjoin: {error}") from error
    for filters in found:
        if filters.weights.ndim != 4 or filters.weights.shape[1] not in (1, 3):
            shape = list(filters.weights.shape)
            raise DataError(f"{path}: expected filters [n, 1 or 3, h, w], found {shape}")
    return found


def _read(path: Path, key: str) -> tuple[dict[str, NDArray[Any]], Any]:
    try:
        with safe_open(path, "numpy") as file:
            meta = json.loads((file.metadata() or {})[key])
            return {name: file.get_tensor(name) for name in file.keys()}, meta  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read: {error}; delete it to leave it out") from error


def png_uri(image: NDArray[np.uint8], *, limit: int = 128) -> str:
    """Give an image, uint8 [H, W] or [H, W, 2 to 4], as a ``data:`` address.

    Args:
        image: its pixels stay as they are, unless it is too large.
        limit: a side of twice this or more is made smaller, by a whole factor, to this or more.

    >>> png_uri(np.zeros((1, 1), np.uint8))[:30]
    'data:image/png;base64,iVBORw0K'
    """
    picture = Image.fromarray(np.ascontiguousarray(image))
    factor = max(picture.size) // limit
    file = io.BytesIO()
    (picture.reduce(factor) if factor > 1 else picture).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def filter_sheet(weights: NDArray[np.float32], *, limit: int = 64) -> NDArray[np.uint8]:
    """Put filters side by side, zero as grey: ``128 + 127 w / max |w|``.

    Args:
        weights: [filters, 1 or 3, h, w]; one scale for all, so that strong ones look strong.
        limit: filters beyond this number are left out.

    Returns:
        uint8 [H, W, 2] or [H, W, 4]: grey or colours, and opacity. Lines of pixels between filters
        are transparent, since every grey is a weight.

    >>> filter_sheet(np.array([1.0, -1.0], np.float32).reshape(2, 1, 1, 1)).tolist()
    [[[255, 255], [0, 0], [1, 255]]]
    """
    shown = np.nan_to_num(weights[:limit].astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    count, channels, h, w = shown.shape
    top = float(np.abs(shown).max(initial=0.0)) or 1.0
    pixels = np.round(128 + 127 * shown / top).astype(np.uint8)
    columns = max(1, min(count, 4 if count <= 16 else 8))
    lines = math.ceil(count / columns)
    sheet = np.zeros((lines * (h + 1) - 1, columns * (w + 1) - 1, channels + 1), np.uint8)
    for number, one in enumerate(pixels):
        y, x = (number // columns) * (h + 1), (number % columns) * (w + 1)
        sheet[y : y + h, x : x + w, :channels] = np.moveaxis(one, 0, -1)
        sheet[y : y + h, x : x + w, channels] = 255
    return sheet
