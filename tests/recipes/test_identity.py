"""Files are told apart by path, size, time and header."""

import hashlib
import os

import pytest
import torch

from conjoin.checkpoints import save
from conjoin.errors import CheckpointError
from conjoin.recipes.identity import header_digest, identify, sha256_of


@pytest.fixture
def path(tmp_path):
    return save({"w": torch.arange(1000.0)}, tmp_path / "a.safetensors")


def changed(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(bytes(data))


def test_what_is_known_of_a_file(path):
    (found,) = identify([path])
    assert found == {
        "path": str(path),
        "bytes": path.stat().st_size,
        "changed_ns": path.stat().st_mtime_ns,
        "header": header_digest(path),
    }


def test_the_digest_is_of_the_header_and_of_nothing_else(path):
    before = header_digest(path)
    changed(path, -1)
    assert header_digest(path) == before
    changed(path, 40)
    assert header_digest(path) != before


def test_a_header_longer_than_what_is_read_first(tmp_path):
    tensors = {f"a.long.name.of.a.tensor.{n}": torch.zeros(1) for n in range(2000)}
    path = save(tensors, tmp_path / "a.safetensors")
    end = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert end > 1 << 16
    before = header_digest(path)
    changed(path, end - 1)
    assert header_digest(path) != before


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\xff" * 8 + b"{", b"x" * 70_000])
def test_other_files_have_one_too(tmp_path, content):
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    before = header_digest(path)
    path.write_bytes(content + b"more")
    # beyond 64 KiB the size alone tells
    assert (header_digest(path) != before) == (len(content) < 1 << 16)


def test_a_later_time_is_another_file(path):
    before = identify([path])
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert identify([path]) != before


def test_a_file_that_is_gone(path):
    path.unlink()
    with pytest.raises(CheckpointError, match=r"cannot read .*a\.safetensors"):
        identify([path])


def test_sha256(path):
    assert sha256_of([path]) == {str(path): hashlib.sha256(path.read_bytes()).hexdigest()}
