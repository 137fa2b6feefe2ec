import hashlib
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conjoin.errors import DataError
from conjoin.experiments.digits.sources import SPLITS, ImageFolder

from .conftest import write_images


def write_parts(folder: Path, *classes: str) -> Path:
    for part in SPLITS:
        for i, name in enumerate(classes):
            (folder / part / name).mkdir(parents=True)
            Image.new("L", (32, 32), 10 * i).save(folder / part / name / "one.png")
    return folder


def one(folder: Path, image: Image.Image, name: str = "one.png") -> torch.Tensor:
    """The picture that an image of class "a" becomes."""
    write_parts(folder, "a", "b")
    (folder / "test" / "a" / "one.png").unlink()
    image.save(folder / "test" / "a" / name)
    found = ImageFolder(folder).load("test")
    return found.images[found.labels == 0][0, 0]


def test_parts_by_folder(tmp_path: Path) -> None:
    source = ImageFolder(write_parts(tmp_path, "b", "c", "a"))
    assert source.class_names() == ("a", "b", "c")
    assert [source.available(split) for split in SPLITS] == [3, 3, 3]
    found = source.load("test")
    assert found.classes == 3
    # "a" was written last, with the grey 20.
    assert found.images[found.labels == 0].unique().tolist() == [20]


def test_parts_by_name(tmp_path: Path) -> None:
    source = ImageFolder(write_images(tmp_path, classes=3, each=100))
    counts = [source.available(split) or 0 for split in SPLITS]
    assert sum(counts) == 300
    assert 215 < counts[0] < 265
    assert min(counts[1:]) > 15
    # By hand from the description: the hash of "class 0/000.png" modulo 10.
    tenth = int(hashlib.sha256(b"class 0/000.png").hexdigest(), 16) % 10
    part = "test" if tenth == 0 else "validation" if tenth == 1 else "train"
    pixels = torch.from_numpy(np.array(Image.open(tmp_path / "class 0" / "000.png")))
    assert any(torch.equal(image[0], pixels) for image in source.load(part).images)


def test_part_of_an_image_does_not_depend_on_the_others(tmp_path: Path) -> None:
    source = ImageFolder(write_images(tmp_path))
    before = {i.numpy().tobytes() for i in source.load("test").images}
    rng = np.random.default_rng(7)
    for i in range(20):
        grey = rng.integers(0, 256, (32, 32), dtype=np.uint8)
        Image.fromarray(grey).save(tmp_path / "class 1" / f"new {i}.png")
    assert before <= {i.numpy().tobytes() for i in source.load("test").images}


def test_whole_image_is_fitted(tmp_path: Path) -> None:
    wide = np.zeros((16, 64), dtype=np.uint8)
    wide[:, 32:] = 200
    found = one(tmp_path, Image.fromarray(wide))
    assert found[:, :14].unique().tolist() == [0]
    assert found[:, 18:].unique().tolist() == [200]


@pytest.mark.parametrize(
    ("image", "grey"),
    [
        (Image.new("RGB", (40, 40), (200, 100, 50)), 124),
        (Image.new("RGBA", (40, 40), (255, 255, 255, 0)), 0),
        (Image.new("LA", (40, 40), (200, 255)), 200),
        (Image.new("1", (40, 40), 1), 255),
        (Image.new("P", (40, 40), 0), 0),
        (Image.fromarray(np.full((40, 40), 51_300, dtype=np.uint16)), 200),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_every_mode_becomes_grey(tmp_path: Path, image: Image.Image, grey: int) -> None:
    assert one(tmp_path, image).unique().tolist() == [grey]


@pytest.mark.parametrize("name", ["one.JPG", "one.jpeg", "one.bmp", "one.webp"])
def test_formats(tmp_path: Path, name: str) -> None:
    found = one(tmp_path, Image.new("L", (40, 40), 77), name)
    assert (found.int() - 77).abs().max() <= 1


def test_orientation_is_heeded(tmp_path: Path) -> None:
    grey = np.zeros((32, 32), dtype=np.uint8)
    grey[:16] = 200
    image = Image.fromarray(grey)
    exif = image.getexif()
    exif[0x0112] = 3  # upside down
    write_parts(tmp_path, "a", "b")
    image.save(tmp_path / "test" / "a" / "one.png", exif=exif)
    found = ImageFolder(tmp_path).load("test")
    assert found.images[found.labels == 0][0, 0, :15].unique().tolist() == [0]


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    write_parts(tmp_path, "a", "b")
    for name in ("README.txt", ".DS_Store", "._one.png", "Thumbs.db"):
        (tmp_path / "test" / "a" / name).write_text("no image")
    (tmp_path / "test" / ".cache").mkdir()
    assert ImageFolder(tmp_path).available("test") == 2


def test_identity_follows_names_and_contents(tmp_path: Path) -> None:
    source = ImageFolder(write_images(tmp_path, classes=2, each=12))
    found = [source.identity()]
    path = tmp_path / "class 0" / "003.png"
    Image.new("L", (32, 32), 1).save(path)
    found.append(source.identity())
    path.rename(tmp_path / "class 0" / "renamed.png")
    found.append(source.identity())
    (tmp_path / "class 1").rename(tmp_path / "class 9")
    found.append(source.identity())
    assert len(set(found)) == 4


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot read"),
        (b"no image at all", "cannot read"),
        (b"\x80\x04\x95", "cannot read"),  # the beginning of a pickle
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "cannot read"),  # Pillow would start Ghostscript
        (png_that_claims(32, 32)[:50], "cannot read"),
        (png_that_claims(8_000, 8_000), "at most 50,000,000 pixels, but claims 8000 x 8000"),
        (png_that_claims(12_000, 12_000), "cannot read|at most"),
        (png_that_claims(60_000, 60_000), "cannot read|at most"),
        (png_that_claims(300, 300), "cannot read"),
    ],
)
def test_hostile_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = write_parts(tmp_path, "a", "b") / "test" / "a" / "one.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        ImageFolder(tmp_path).load("test")
    assert str(path) in str(caught.value)


def test_truncated_image_is_refused(tmp_path: Path) -> None:
    path = write_images(tmp_path, classes=2) / "class 0" / "000.png"
    path.write_bytes(path.read_bytes()[:-200])
    failures = []
    for split in SPLITS:
        try:
            ImageFolder(tmp_path).load(split)
        except DataError as error:
            failures.append(str(error))
    assert len(failures) == 1
    assert str(path) in failures[0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    write_parts(tmp_path, "a", "b")
    os.mkfifo(tmp_path / "test" / "a" / "pipe.png")
    assert len(ImageFolder(tmp_path).load("test")) == 2


def test_names_that_are_not_text(tmp_path: Path) -> None:
    write_images(tmp_path, classes=2, each=20)
    try:
        (tmp_path / "class 0" / "000.png").rename(tmp_path / "class 0" / os.fsdecode(b"\xff.png"))
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    source = ImageFolder(tmp_path)
    assert sum(source.available(split) or 0 for split in SPLITS) == 40
    assert source.identity()


def test_empty_class_is_refused(tmp_path: Path) -> None:
    (write_images(tmp_path) / "class empty").mkdir()
    with pytest.raises(DataError, match="class empty holds no image"):
        ImageFolder(tmp_path).load("train")


def test_one_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two or more classes, but holds class 0"):
        ImageFolder(write_images(tmp_path, classes=1)).load("train")


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="but holds none"):
        ImageFolder(tmp_path).available("train")


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot list the folder"):
        ImageFolder(tmp_path / "gone").available("train")


def test_missing_part_is_refused(tmp_path: Path) -> None:
    write_parts(tmp_path, "a", "b")
    (tmp_path / "validation").rename(tmp_path / "val")
    with pytest.raises(DataError, match=r"three folders .* but holds test, train, val"):
        ImageFolder(tmp_path).load("train")


def test_parts_with_other_classes_are_refused(tmp_path: Path) -> None:
    write_parts(tmp_path, "a", "b")
    (tmp_path / "test" / "c").mkdir()
    with pytest.raises(DataError, match="differ in: c"):
        ImageFolder(tmp_path).load("train")


def test_folder_within_a_class_is_refused(tmp_path: Path) -> None:
    write_parts(tmp_path, "a", "b")
    (tmp_path / "train" / "a" / "deeper").mkdir()
    with pytest.raises(DataError, match="deeper"):
        ImageFolder(tmp_path).load("train")


def test_part_without_images_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images in its validation part"):
        ImageFolder(write_images(tmp_path, classes=2, each=1)).load("validation")
