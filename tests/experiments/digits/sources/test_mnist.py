import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from conjoin.errors import DataError
from conjoin.experiments.digits.sources import SPLITS, Mnist
from conjoin.experiments.digits.sources.mnist import read_idx

from .conftest import idx, write_mnist

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def test_real_mnist_is_what_everybody_knows(real_mnist: Mnist) -> None:
    assert [real_mnist.available(split) for split in SPLITS] == [50_000, 10_000, 10_000]
    labels = read_idx(real_mnist._find(LABELS), 1)
    assert labels[:5].tolist() == [5, 0, 4, 1, 9]
    # The published numbers of each digit among the 60,000.
    both = torch.cat([real_mnist.load(split).labels for split in ("train", "validation")])
    known = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(both).tolist() == known
    test = real_mnist.load("test").labels
    assert torch.bincount(test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_real_mnist_parts_share_no_image(real_mnist: Mnist) -> None:
    parts = [{i.numpy().tobytes() for i in real_mnist.load(split).images} for split in SPLITS]
    assert len(set.union(*parts)) == 70_000


def test_images_are_padded_by_two_zeros(tmp_path: Path) -> None:
    source = Mnist(write_mnist(tmp_path))
    images = source.load("test").images
    whole = read_idx(tmp_path / "t10k-images-idx3-ubyte", 3)
    inner = {image.tobytes() for image in images[:, 0, 2:30, 2:30].numpy()}
    assert inner == {image.tobytes() for image in whole}
    images[:, :, 2:30, 2:30] = 0
    assert not images.any()


def test_label_follows_its_image(tmp_path: Path) -> None:
    source = Mnist(write_mnist(tmp_path))
    written = read_idx(tmp_path / IMAGES, 3)
    train = source.load("train", seed=9)
    for image, label in zip(train.images[:, 0, 2:30, 2:30].numpy(), train.labels, strict=True):
        (index,) = np.flatnonzero((written == image).all((1, 2)))
        assert index % 10 == label


@pytest.mark.parametrize("inner", [".", "raw", "MNIST/raw"])
def test_folders_where_the_files_may_lie(tmp_path: Path, inner: str) -> None:
    write_mnist(tmp_path / inner)
    assert Mnist(tmp_path).available("train") == 50
    assert Mnist(tmp_path).available("validation") == 10


def test_identity_is_of_the_content(tmp_path: Path) -> None:
    source = Mnist(write_mnist(tmp_path))
    before = source.identity()
    plain = tmp_path / IMAGES
    with gzip.open(tmp_path / f"{IMAGES}.gz", "wb") as file:
        file.write(plain.read_bytes())
    content = bytearray(plain.read_bytes())
    plain.unlink()
    assert source.identity() == before  # compressed or not
    content[-1] ^= 1
    plain.write_bytes(content)
    assert source.identity() != before


def damage(content: bytes, kind: str) -> bytes:
    return {
        "empty": b"",
        "magic": b"\x00\x00\x0d" + content[3:],
        "dimensions": content[:3] + b"\x02" + content[4:],
        "header": content[:6],
        "truncated": content[:-1],
        "too long": content + b"\x00",
        "huge": content[:4] + b"\xff" * (len(content) - 4),
    }[kind]


@pytest.mark.parametrize("file", [IMAGES, LABELS])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "begins with nothing"),
        ("magic", "00 00 08"),
        ("dimensions", "should begin with"),
        ("header", "within its header"),
        ("truncated", "should hold .* but holds"),
        ("too long", "should hold .* but holds"),
        ("huge", "should hold .* but holds"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, file: str, kind: str, message: str) -> None:
    source = Mnist(write_mnist(tmp_path))
    path = source._find(file)
    content = gzip.decompress(path.read_bytes()) if path.suffix else path.read_bytes()
    path.unlink()
    (tmp_path / file).write_bytes(damage(content, kind))
    with pytest.raises(DataError, match=message) as caught:
        source.load("train", 5)
    assert str(tmp_path / file) in str(caught.value)
    assert "again" in str(caught.value)


@pytest.mark.parametrize("cut", [0, 3, 20, -4])
def test_damaged_compression_is_refused(tmp_path: Path, cut: int) -> None:
    path = write_mnist(tmp_path) / f"{LABELS}.gz"
    path.write_bytes(path.read_bytes()[:cut] + (b"not gzip" if cut == 0 else b""))
    with pytest.raises(DataError, match="cannot read"):
        Mnist(tmp_path).load("train", 5)


def test_label_above_nine_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / LABELS).write_bytes(idx(np.array([1] * 59 + [10], dtype=np.uint8)))
    with pytest.raises(DataError, match="label 59 is 10"):
        Mnist(tmp_path).load("train", 5)


def test_counts_must_agree(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / LABELS).write_bytes(idx(np.zeros(59, dtype=np.uint8)))
    with pytest.raises(DataError, match="59 images of 28 x 28"):
        Mnist(tmp_path).load("train", 5)


def test_missing_file_names_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fetch_mnist") as caught:
        Mnist(tmp_path).load("train", 5)
    assert str(tmp_path / "MNIST" / "raw") in str(caught.value)
