"""Fetch MNIST and SVHN, each file checked against a known hash before it is kept."""

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from conjoin.errors import DataError
from conjoin.experiments.digits.sources.source import Progress

__all__ = ["MNIST_MIRRORS", "SVHN_MIRRORS", "fetch_mnist", "fetch_svhn"]

MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
SVHN_MIRRORS = ("http://ufldl.stanford.edu/housenumbers/",)


class _File(NamedTuple):
    """A file, the MD5 that its distributors publish, and that of its content decompressed."""

    name: str
    md5: str
    inner: str | None = None


# The same images are also about in files compressed anew, which only the inner hash recognises.
_MNIST = (
    _File(
        "train-images-idx3-ubyte.gz",
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "6bbc9ace898e44ae57da46a324031adb",
    ),
    _File(
        "train-labels-idx1-ubyte.gz",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "a25bea736e30d166cdddb491f175f624",
    ),
    _File(
        "t10k-images-idx3-ubyte.gz",
        "9fb629c4189551a2d022fa330f9573f3",
        "2646ac647ad5339dbf082846283269ea",
    ),
    _File(
        "t10k-labels-idx1-ubyte.gz",
        "ec29112dd5afa0611ce80d1b7f02629c",
        "27ae3e4e09519cfbb04c329615203637",
    ),
)
_SVHN = (
    _File("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),
    _File("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),
)
_SVHN_EXTRA = _File("extra_32x32.mat", "a93ce644f1a588dc4d68dda5feec44a7")


def fetch_mnist(
    folder: Path,
    *,
    mirrors: tuple[str, ...] = MNIST_MIRRORS,
    progress: Progress | None = None,
) -> Path:
    """Fetch MNIST's four files (11 MB) to ``folder/MNIST/raw``, where torchvision looks too.

    Files that are there and whole are left alone.

    Args:
        folder: Where; it is made if need be.
        mirrors: Addresses to try in turn.
        progress: Called with (bytes done, bytes in all) of the file under way.

    Returns:
        ``folder``, to be given to ``Mnist``.

    Raises:
        DataError: If no mirror has a file of the known hash, or pooch is not installed.
    """
    for file in _MNIST:
        _fetch(file, folder / "MNIST" / "raw", mirrors, progress)
    return folder


def fetch_svhn(
    folder: Path,
    *,
    extra: bool = False,
    mirrors: tuple[str, ...] = SVHN_MIRRORS,
    progress: Progress | None = None,
) -> Path:
    """Fetch SVHN's cropped digits (246 MB; with ``extra`` 1.3 GB more) to ``folder``.

    Its authors allow non-commercial use only. Arguments, result and errors as ``fetch_mnist``.
    """
    for file in (*_SVHN, _SVHN_EXTRA) if extra else _SVHN:
        _fetch(file, folder, mirrors, progress)
    return folder


def _fetch(file: _File, folder: Path, mirrors: tuple[str, ...], progress: Progress | None) -> None:
    """Fetch one file from the first mirror that has it as it should be."""
    try:
        import pooch
    except ImportError as error:
        raise DataError('fetching data needs pooch; run: pip install "conjoin[digits]"') from error
    path = folder / file.name
    if path.exists():
        if _is_whole(path, file):
            return
        # pooch would overwrite it, but a file under this name may be the user's own.
        raise DataError(
            f"{path} exists, but is not the published file (MD5 {file.md5}); "
            "remove it or choose another folder"
        )
    failures = []
    for mirror in mirrors:
        bar = _Bar(progress) if progress is not None else False
        try:
            pooch.retrieve(
                mirror + file.name,
                known_hash=f"md5:{file.md5}",
                fname=file.name,
                path=folder,
                downloader=pooch.HTTPDownloader(progressbar=bar),
            )
        except (OSError, ValueError) as error:  # no connection or no such file; a wrong hash
            failures.append(f"{mirror}{file.name}: {error}")
        else:
            return
    raise DataError(
        f"cannot fetch {file.name} with MD5 {file.md5}; put it into {folder} by hand, or try "
        "again later. Tried:\n  " + "\n  ".join(failures)
    )


def _is_whole(path: Path, file: _File) -> bool:
    try:
        with path.open("rb") as opened:
            if hashlib.file_digest(opened, _md5).hexdigest() == file.md5:
                return True
        if file.inner is None:
            return False
        with gzip.open(path) as opened:
            return hashlib.file_digest(opened, _md5).hexdigest() == file.inner
    except (OSError, EOFError, zlib.error):
        return False


def _md5() -> "hashlib._Hash":
    # All that the distributors publish; without the flag, hardened systems refuse it.
    return hashlib.md5(usedforsecurity=False)


@dataclass
class _Bar:
    """What pooch takes for a progress bar, passing on to a function."""

    progress: Progress
    total: int = 0
    done: int = 0

    def update(self, count: int) -> None:
        self.done = min(self.done + count, self.total)
        self.progress(self.done, self.total)

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        pass
