from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat

from conjoin.errors import DataError
from conjoin.experiments.digits.sources import Svhn

from .conftest import write_svhn


def write(folder: Path, **variables: Any) -> Path:
    savemat(folder / "train_32x32.mat", variables)
    savemat(folder / "test_32x32.mat", variables)
    return folder


def test_label_ten_is_zero(tmp_path: Path) -> None:
    source = Svhn(write_svhn(tmp_path, train=60, test=20))
    assert torch.bincount(source.load("test").labels).tolist() == [2] * 10


def test_grey_is_luma(tmp_path: Path) -> None:
    # By hand: (299 * 200 + 587 * 100 + 114 * 50) / 1000 = 124.2; primaries 76.2, 149.7, 29.1.
    colours = [(200, 100, 50), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    pixels = np.zeros((32, 32, 3, 6), dtype=np.uint8)
    for i, colour in enumerate(colours):
        pixels[:, :, :, i] = colour
    pixels[3, 5, :, 5] = 90  # row 3, column 5: neither axis is swapped
    labels = np.array([[1], [2], [3], [4], [5], [10]], dtype=np.uint8)
    found = Svhn(write(tmp_path, X=pixels, y=labels)).load("test")
    by_label = {int(k): image[0] for image, k in zip(found.images, found.labels, strict=True)}
    assert [int(by_label[k].float().mean()) for k in (1, 2, 3, 4, 5)] == [124, 76, 150, 29, 255]
    assert by_label[0][3, 5] == 90
    assert by_label[0].count_nonzero() == 1


def test_extra_adds_to_training_only(tmp_path: Path) -> None:
    folder = write_svhn(tmp_path)
    plain, extra = Svhn(folder), Svhn(folder, extra=True)
    assert (plain.available("train"), plain.available("validation")) == (50, 10)
    assert (extra.available("train"), extra.available("validation")) == (80, 10)
    assert torch.equal(plain.load("validation").images, extra.load("validation").images)
    rows = [{i.numpy().tobytes() for i in s.load("train").images} for s in (plain, extra)]
    assert rows[0] < rows[1]
    assert plain.identity() != extra.identity()


def test_labels_may_be_doubles(tmp_path: Path) -> None:
    pixels = np.zeros((32, 32, 3, 6), dtype=np.uint8)
    labels = np.array([[1.0], [2], [3], [4], [5], [10]])
    assert sorted(Svhn(write(tmp_path, X=pixels, y=labels)).load("test").labels.tolist()) == [
        *range(6)
    ]


X = np.zeros((32, 32, 3, 6), dtype=np.uint8)
Y = np.ones((6, 1), dtype=np.uint8)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"X": X}, "variables X .* and y .* but holds X"),
        ({"other": X}, "but holds other"),
        ({"X": X.transpose(3, 0, 1, 2), "y": Y}, r"\[32, 32, 3, N\].*\[6, 32, 32, 3\]"),
        ({"X": X.astype(float), "y": Y}, "uint8.*double"),
        ({"X": X[:, :, :1], "y": Y}, r"\[32, 32, 1, 6\]"),
        ({"X": X[..., :5], "y": Y}, r"\[5, 1\]"),
        ({"X": X, "y": Y[:, 0]}, r"\[6, 1\]"),
        ({"X": X, "y": Y * 0}, "label 0 is 0"),
        ({"X": X, "y": Y * 11}, "label 0 is 11"),
        ({"X": X, "y": Y * 1.5}, "label 0 is 1.5"),
        ({"X": X, "y": Y * np.nan}, "label 0 is nan"),
        ({"X": X, "y": np.full((6, 1), "one", dtype=object)}, "cannot read"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, variables: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        Svhn(write(tmp_path, **variables)).load("test", 1)
    assert "test_32x32.mat" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"not a MATLAB file", bytes(1000), b"MATLAB 5.0 MAT-file".ljust(126) + b"IM"],
)
def test_other_content_is_refused(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, X=X, y=Y)
    (tmp_path / "test_32x32.mat").write_bytes(content)
    with pytest.raises(DataError, match=r"test_32x32\.mat"):
        Svhn(tmp_path).load("test", 1)


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_truncated_file_is_refused(tmp_path: Path, kept: float) -> None:
    path = write_svhn(tmp_path, train=60, test=20) / "test_32x32.mat"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match="fetch it again"):
        Svhn(tmp_path).load("test", 1)


def test_hdf5_file_says_so(tmp_path: Path) -> None:
    write(tmp_path, X=X, y=Y)
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n"
    (tmp_path / "test_32x32.mat").write_bytes(header + bytes(2000))
    with pytest.raises(DataError, match=r"7\.3.*save -v7"):
        Svhn(tmp_path).load("test", 1)


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train_32x32\.mat.*fetch_svhn"):
        Svhn(tmp_path).load("train", 1)
