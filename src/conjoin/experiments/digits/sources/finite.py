"""What all sources with a fixed number of images share: fixed parts, and a choice by seed."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from conjoin.errors import DataError
from conjoin.experiments.digits.sources.source import Split

__all__ = ["choose", "digest", "split_off"]

_PARTING = 20_240_229  # decides which training images are for validation; never change it
_JUDGING = 0  # every run is judged on the same choice of validation and test images


def split_off(total: int, held: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide ``0 .. total - 1`` into (rest, ``held`` of them), always in the same way, sorted.

    >>> rest, held = split_off(10, 3)
    >>> sorted([*rest.tolist(), *held.tolist()]) == list(range(10)), len(held)
    (True, 3)
    """
    order = np.random.default_rng([_PARTING, total]).permutation(total)
    return np.sort(order[held:]), np.sort(order[:held])


def choose(total: int, split: Split, count: int | None, seed: int, name: str) -> NDArray[np.int64]:
    """Choose ``count`` of the ``total`` images of a part, in an order that the seed decides.

    A smaller count is a prefix of a larger one. For validation and test the seed plays no part.

    Raises:
        DataError: If there are fewer images, or the count or the seed cannot be used.
    """
    if count is None:
        count = total
    if not total:
        raise DataError(f"{name} has no images in its {split} part")
    if not 1 <= count <= total:
        raise DataError(
            f"{name} has {total:,} images in its {split} part, but {count:,} were asked for; "
            f"ask for 1 to {total:,}"
        )
    if seed < 0:
        raise DataError(f"the seed must not be negative, but is {seed}")
    rng = np.random.default_rng([1, seed] if split == "train" else [2, _JUDGING])
    return rng.permutation(total)[:count]


def digest(content: bytes) -> str:
    """Return size and SHA-256 of a file's content, which together stand for it.

    >>> digest(b"digits")
    '6 cc6b6bad31a0ff4d6dfd4953a6346a1c'
    """
    return f"{len(content)} {hashlib.sha256(content).hexdigest()[:32]}"
