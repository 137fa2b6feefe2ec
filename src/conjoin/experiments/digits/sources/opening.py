"""From what a user writes, ``mnist:FOLDER``, to the source that it names."""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from conjoin.errors import DataError
from conjoin.experiments.digits.sources.embedded import HandwrittenDigits
from conjoin.experiments.digits.sources.folder import ImageFolder
from conjoin.experiments.digits.sources.mnist import Mnist
from conjoin.experiments.digits.sources.rendered import RenderedStreetNumbers
from conjoin.experiments.digits.sources.source import Source
from conjoin.experiments.digits.sources.svhn import Svhn

__all__ = ["SOURCES", "SourceKind", "open_source"]


class SourceKind(NamedTuple):
    """A kind of source: how it is written, what it is, and how it is made.

    ``make`` takes the folder, or nothing if ``needs_folder`` is false.
    """

    word: str
    summary: str
    make: Callable[..., Source]
    needs_folder: bool = True

    @property
    def spelling(self) -> str:
        """How a user writes it, such as ``mnist:FOLDER``."""
        return f"{self.word}:FOLDER" if self.needs_folder else self.word


SOURCES: tuple[SourceKind, ...] = (
    SourceKind("handwritten", "1,797 digits that come with scikit-learn", HandwrittenDigits, False),
    SourceKind("street", "rendered street numbers", RenderedStreetNumbers, False),
    SourceKind("mnist", "MNIST's four files", Mnist),
    SourceKind("svhn", "SVHN's train_32x32.mat and test_32x32.mat", Svhn),
    SourceKind("folder", "your images, one sub-folder for each class", ImageFolder),
)


def open_source(spec: str) -> Source:
    """Return the source that a user names.

    No data are read yet: whether they are there shows when they are loaded.

    Args:
        spec: One of the spellings in ``SOURCES``, with a folder for ``FOLDER``.

    Raises:
        DataError: If there is no such kind of source, or a folder is missing or too much.

    >>> open_source("street").name
    'rendered street numbers'
    >>> open_source("minst:data")
    Traceback (most recent call last):
    ...
    conjoin.errors.DataError: there is no data source 'minst'; did you mean mnist:FOLDER? \
There are: handwritten, street, mnist:FOLDER, svhn:FOLDER, folder:FOLDER
    """
    word, colon, folder = spec.partition(":")
    kinds = {kind.word: kind for kind in SOURCES}
    kind = kinds.get(word.strip().lower())
    if kind is None:
        close = difflib.get_close_matches(word.strip().lower(), kinds, n=1, cutoff=0.4)
        hint = f"did you mean {kinds[close[0]].spelling}? " if close else ""
        raise DataError(
            f"there is no data source {word!r}; {hint}"
            f"There are: {', '.join(each.spelling for each in SOURCES)}"
        )
    if not kind.needs_folder:
        if colon:
            raise DataError(f"{kind.word} takes no folder; write {kind.spelling}, not {spec!r}")
        return kind.make()
    if not folder:
        raise DataError(f"{kind.word} needs a folder; write {kind.spelling}, not {spec!r}")
    return kind.make(Path(folder).expanduser())
