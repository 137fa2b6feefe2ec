"""What every data source of the experiment is: labelled grey images of 32 x 32, in three parts.

The three parts never share an image, and which image belongs to which part never depends on the
seed of a run. That seed only chooses among the training images, so that every run is judged on
the same validation and test images.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from conjoin.errors import DataError

__all__ = ["SIZE", "SPLITS", "Images", "Progress", "Source", "Split", "check_split"]

SIZE = 32
"""Height and width of every image, in pixels."""

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled grey images.

    Args:
        images: uint8 ``[N, 1, 32, 32]``.
        labels: int64 ``[N]``, each in ``0 .. classes - 1``.
        classes: How many classes there are.

    Raises:
        DataError: If a dtype, a shape or a label is anything else.

    >>> two = Images(torch.zeros(2, 1, 32, 32, dtype=torch.uint8), torch.tensor([3, 9]))
    >>> len(two)
    2
    """

    images: Tensor
    labels: Tensor
    classes: int = 10

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.shape[1:] != (1, SIZE, SIZE):
            raise DataError(
                f"images must be uint8 of shape [N, 1, {SIZE}, {SIZE}], "
                f"but are {self.images.dtype} of shape {list(self.images.shape)}"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"labels must be int64 of shape [{len(self.images)}], one for each image, "
                f"but are {self.labels.dtype} of shape {list(self.labels.shape)}"
            )
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < (
            self.classes
        ):
            raise DataError(
                f"labels must lie in 0 .. {self.classes - 1}, but reach from "
                f"{int(self.labels.min())} to {int(self.labels.max())}"
            )

    def __len__(self) -> int:
        return len(self.labels)


class Source(Protocol):
    """Where the images of one task come from."""

    @property
    def name(self) -> str:
        """The name that people are shown."""
        ...

    def identity(self) -> str:
        """Everything that decides the pixels: equal identities mean equal pixels."""
        ...

    def available(self, split: Split) -> int | None:
        """How many images a part has, or None where there are as many as one asks for."""
        ...

    def load(
        self,
        split: Split,
        count: int | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Images:
        """Return ``count`` images of a part, or all of them for None.

        Args:
            split: Which part.
            count: How many; a smaller count is a prefix of a larger one.
            seed: Chooses the images of the training part and their order; the other two parts
                do not depend on it.
            progress: Called at times with (images done, images in all).

        Raises:
            DataError: If the data are missing or malformed, or the part has fewer images.
        """
        ...


def check_split(split: str) -> None:
    """Raise DataError unless ``split`` names a part."""
    if split not in SPLITS:
        raise DataError(f"the part must be one of {', '.join(SPLITS)}, not {split!r}")
