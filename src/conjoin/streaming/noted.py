"""A checkpoint that takes note of what was read from it, so that inputs can be told apart later."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from conjoin.checkpoints import Checkpoint, FileRange, Wrapped
from conjoin.deferred import torch
from conjoin.merging import BLOCK

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["NotedCheckpoint", "RawBytes", "digest_of", "raw_bytes"]


def raw_bytes(tensor: Tensor) -> memoryview:
    """Give the bytes of a tensor, without a copy where it is contiguous and on the CPU."""
    if not tensor.numel():
        return memoryview(b"")
    plain = tensor.detach()
    if plain.dim() != 1 or not plain.is_contiguous() or plain.device.type != "cpu":
        plain = plain.cpu().contiguous().reshape(-1)
    if plain.is_conj() or plain.is_neg():
        plain = plain.resolve_conj().resolve_neg()
    return plain.view(torch.uint8).numpy().data


class RawBytes:
    """The bytes of tensors, one after the other, of which some lie in the memory of the last."""

    def __init__(self) -> None:
        self._last: Tensor | None = None
        self._place: tuple[int, int] = (0, 0)
        self._data = memoryview(b"")

    def of(self, tensor: Tensor) -> memoryview:
        """Give the bytes of a tensor, as `raw_bytes` does."""
        place = tensor.data_ptr(), tensor.numel()
        if tensor is not self._last or place != self._place:
            self._data = raw_bytes(tensor)
            copied = tensor.numel() and np.frombuffer(self._data, np.uint8).ctypes.data != place[0]
            self._last, self._place = None if copied else tensor, place
        return self._data


def digest_of(tensor: Tensor) -> bytes:
    """Give 8 bytes that tell a block of a tensor from others (XXH3, which runs like memory)."""
    return xxhash.xxh3_64_digest(raw_bytes(tensor))


class _Notes(threading.local):
    """What one thread has read: tensor -> number of the block -> digest.

    Each thread has its own, since two jobs may read one tensor at once (a layer that the result
    has twice), and each takes what it has read.
    """

    def __init__(self) -> None:
        self.digests: dict[str, dict[int, bytes]] = {}


class NotedCheckpoint(Wrapped):
    """Another checkpoint, of whose blocks the digests are kept as they are read.

    Args:
        inner: the other.
    """

    def __init__(self, inner: Checkpoint) -> None:
        super().__init__(inner)
        self._notes = _Notes()

    def reads_ranges(self, name: str) -> bool:
        """Whether a part costs as little as what it gives."""
        return self.inner.reads_ranges(name)

    def in_file(self, name: str) -> FileRange | None:
        """Give where a tensor stands in a file, if it does."""
        return self.inner.in_file(name)

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.inner[name]
        flat = tensor.reshape(-1)
        for start in range(0, flat.numel(), BLOCK):
            self._note(name, start, flat[start : start + BLOCK])
        return tensor

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        tensor = self.inner.read(name, start, stop)
        if self._is_block(name, start, tensor.numel()):
            self._note(name, start, tensor)
        return tensor

    def blocks(self, name: str, start: int, stop: int, size: int) -> Iterator[Tensor]:
        """Read blocks, and take note of them if they are those of a merge."""
        noted = self._notes.digests.setdefault(name, {})
        raw, begin = RawBytes(), start
        for block in self.inner.blocks(name, start, stop, size):
            count = block.numel()
            if self._is_block(name, begin, count) and begin // BLOCK not in noted:
                noted[begin // BLOCK] = xxhash.xxh3_64_digest(raw.of(block))
            yield block
            begin += count

    def sample(self, name: str, start: int, stop: int, step: int) -> Tensor:
        """Read a few elements, of which no note is taken: who samples reads all of them later."""
        return self.inner.sample(name, start, stop, step)

    def _is_block(self, name: str, start: int, count: int) -> bool:
        """Whether elements are those of a block of a merge."""
        if start % BLOCK or count > BLOCK:
            return False
        return count == BLOCK or start + count == self.specs[name].numel

    def _note(self, name: str, start: int, block: Tensor) -> None:
        noted = self._notes.digests.setdefault(name, {})
        number = start // BLOCK
        if number not in noted and not block.is_meta:
            noted[number] = digest_of(block)

    def take(self, name: str, start: int, stop: int) -> str | None:
        """Give one digest (hex) for a range that begins at a block, and forget its blocks.

        None if this thread has not read a block of it.
        """
        noted = self._notes.digests.get(name, {})
        numbers = range(start // BLOCK, -(-stop // BLOCK))
        found = [noted.pop(number, b"") for number in numbers]
        return xxhash.xxh3_64_hexdigest(b"".join(found)) if all(found) else None
