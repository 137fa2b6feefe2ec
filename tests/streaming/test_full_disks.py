"""That the disk is full is known before anything is read, and leaves nothing."""

import errno
import os
import resource
import shutil
import subprocess

import pytest
import torch
from streaming_runs import in_memory, merged_of, tree, write

from conjoin.checkpoints import Checkpoint
from conjoin.streaming import partial_of


class _Unread(Checkpoint):
    """A checkpoint of which nothing may be read."""

    def __init__(self, specs):
        self._specs = specs

    @property
    def specs(self):
        return self._specs

    def __getitem__(self, name):
        raise AssertionError(f"{name!r} was read")


def _does_not_fit(out):
    """Whether making the files of 8 MB fails, before anything is read, and leaves nothing."""
    specs = in_memory({f"w{i}": torch.zeros(2**19) for i in range(4)}).specs
    merged = merged_of([_Unread(specs)] * 2)
    with pytest.raises(OSError, match=r"space|large|quota") as caught:
        write(merged, out, shard_bytes=2**21)
    assert any("the result takes 8,38" in note for note in caught.value.__notes__)
    assert list(out.parent.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system reserves no space")
def test_a_full_disk_is_known_before_anything_is_read(tmp_path, monkeypatch):
    reserve, taken = os.posix_fallocate, []

    def nearly_full(descriptor, offset, size):
        taken.append(size)
        if sum(taken) > 5_000_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reserve(descriptor, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", nearly_full)
    _does_not_fit(tmp_path / "out")
    assert len(taken) == 3


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system reserves no space")
def test_a_limit_of_the_size_of_files_is_known_before_anything_is_read(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        _does_not_fit(tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_small_file_system_that_is_really_full(tmp_path):
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None:
        pytest.skip("needs mount")
    made = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=4m", "none", str(tmp_path)],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("may not mount a file system")
    try:
        _does_not_fit(tmp_path / "out")
        write(merged_of([in_memory({"w": torch.ones(3)})] * 2), tmp_path / "out")  # a small one
        assert len(tree(tmp_path)) == 1
    finally:
        subprocess.run([umount, str(tmp_path)], check=True)
    assert not partial_of(tmp_path / "out").exists()
