"""The handwritten digits that come with scikit-learn: small, real, and there without a network.

Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its test part).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from conjoin.errors import DataError
from conjoin.experiments.digits.sources.finite import choose
from conjoin.experiments.digits.sources.source import SIZE, Images, Progress, Split, check_split

__all__ = ["HandwrittenDigits"]

_PARTS: dict[Split, int] = {"train": 1_197, "validation": 200, "test": 400}
_TOTAL = 1_797


@dataclass(frozen=True)
class HandwrittenDigits:
    """1,797 digits of 43 writers: 1,197 for training, 200 for validation, 400 for testing.

    The images of 8 x 8 with 17 levels are enlarged to 32 x 32 by linear interpolation, light on
    dark as in MNIST. Each part has the labels in the proportions of the whole.

    >>> HandwrittenDigits().available("test")
    400
    """

    name: str = "handwritten digits (scikit-learn)"

    def identity(self) -> str:
        """Return the version; the data are part of scikit-learn and have never changed."""
        return "handwritten digits v1: scikit-learn's 1,797 of 8 x 8, linear to 32 x 32"

    def available(self, split: Split) -> int | None:
        """Return 1197, 200 or 400."""
        check_split(split)
        return _PARTS[split]

    def load(
        self,
        split: Split,
        count: int | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Images:
        """Return ``count`` images of a part; see ``Source.load``."""
        check_split(split)
        chosen = choose(_PARTS[split], split, count, seed, self.name)
        small, labels = _read()
        part = _parts(labels)[split][chosen]
        if progress is not None:
            progress(len(part), len(part))
        return Images(
            torch.from_numpy(_enlarge(small[part])[:, None]), torch.from_numpy(labels[part])
        )


def _read() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "the embedded handwritten digits come with scikit-learn, which is not installed; "
            'run: pip install "conjoin[digits]"'
        ) from error
    digits = load_digits()
    if digits.images.shape != (_TOTAL, 8, 8):
        raise DataError(
            f"scikit-learn's digits should be {_TOTAL:,} images of 8 x 8, "
            f"but have the shape {list(digits.images.shape)}"
        )
    return np.asarray(digits.images, np.float64), np.asarray(digits.target, np.int64)


def _parts(labels: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Divide all images, always in the same way, every part with the labels' proportions."""
    shuffled = np.random.default_rng(1_797).permutation(len(labels))
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    # Every 9th image or so of the list sorted by label: that is what keeps the proportions.
    test = np.linspace(0, len(labels), _PARTS["test"], endpoint=False).astype(np.int64)
    rest = np.delete(by_label, test)
    held = np.linspace(0, len(rest), _PARTS["validation"], endpoint=False).astype(np.int64)
    return {"train": np.delete(rest, held), "validation": rest[held], "test": by_label[test]}


def _enlarge(small: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Enlarge ``[N, 8, 8]`` with values 0 .. 16 to uint8 ``[N, 32, 32]`` with 0 .. 255."""
    knots = small.shape[-1]
    at = np.clip((np.arange(SIZE) + 0.5) * knots / SIZE - 0.5, 0, knots - 1)
    weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(knots)))
    large = weights @ (small * (255 / 16)) @ weights.T
    return np.asarray(np.clip(np.rint(large), 0, 255), dtype=np.uint8)
