"""Programs over ranges of files: what is read, made and written never becomes a tensor."""

from __future__ import annotations

import ctypes
import math
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from conjoin.compiled.library import load_library
from conjoin.compiled.program import Program

__all__ = ["Passed", "Stretch", "run_over_files"]

_SHORTEST = 241
"""The least bytes that C makes a digest of: as in digest.h."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Elements that follow each other in an open file.

    Args:
        file: its descriptor.
        offset: of the first byte.
        size: of an element, in bytes.
    """

    file: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Passed:
    """What has gone by.

    Args:
        sums: of a program that has them: float64 [k].
        read: digest of every input, of the digests (8 bytes each) of its blocks; () if none was
            asked for.
        written: digest of the result, if there is one.
    """

    sums: np.ndarray
    read: tuple[str, ...] = ()
    written: str | None = None


class _Memory(threading.local):
    """Memory of a thread, used again, since each page of new memory is given at its first use."""

    held = np.empty(0, np.uint8)

    def of(self, size: int) -> np.ndarray:
        if len(self.held) < size:
            self.held = np.empty(size, np.uint8)
        return self.held


_MEMORY = _Memory()


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_int64), ("file", ctypes.c_int32), ("size", ctypes.c_int32))


def run_over_files(
    program: Program,
    inputs: Sequence[Stretch],
    output: Stretch | None,
    count: int,
    block: int,
    *,
    digests: bool = False,
) -> Passed | None:
    """Run a program that draws no random masks, and write its result.

    Args:
        program: that is run.
        inputs: of its dtypes.
        output: where the result goes, if it has one.
        count: elements of each.
        block: elements of a block, a multiple of 64: what is read and written at once, what has a
            digest, and what has sums, which are added up.
        digests: whether those of what is read are wanted.

    Returns:
        None if numbers are NaN or infinite, or if the system refused something: who does the same
        in another way will see what. Parts may be written by then.
    """
    library = load_library()
    if library is None or program.draws:
        return None
    sizes = [*(one.size for one in inputs), 0 if output is None else output.size]
    memory = _MEMORY.of(block * sum(sizes))
    blocks = -(-count // block)
    found = np.zeros((len(inputs), blocks), np.uint64) if digests else None
    sums = np.zeros(program.sums)
    written = ctypes.c_uint64(0)
    ranges = (_Range * len(inputs))(*map(_range, inputs))
    failed = library.conjoin_files(
        program.code,
        len(program.code),
        ranges,
        len(inputs),
        None if output is None else ctypes.byref(_range(output)),
        sums.ctypes.data,
        program.sums,
        count,
        block,
        memory.ctypes.data,
        None if found is None else found.ctypes.data,
        ctypes.byref(written),
    )
    if failed or not all(map(math.isfinite, sums.tolist())):
        return None
    return Passed(
        sums,
        () if found is None else _of_blocks(inputs, found, count, block),
        None if output is None else _of_all(output, written.value, count),
    )


def _range(one: Stretch) -> _Range:
    return _Range(one.offset, one.file, one.size)


def _of_blocks(
    inputs: Sequence[Stretch], found: np.ndarray, count: int, block: int
) -> tuple[str, ...]:
    """Give the digest of the digests of all blocks; those of short blocks are made here."""
    for one, known in zip(inputs, found, strict=True):
        for number in range(len(known)):
            size = one.size * min(block, count - number * block)
            if size < _SHORTEST:
                known[number] = _short(one.file, one.offset + number * block * one.size, size)
    return tuple(xxhash.xxh3_64_hexdigest(known.tobytes()) for known in found.astype(">u8"))


def _of_all(output: Stretch, known: int, count: int) -> str:
    size = count * output.size
    return f"{known if size >= _SHORTEST else _short(output.file, output.offset, size):016x}"


def _short(file: int, offset: int, size: int) -> int:
    return xxhash.xxh3_64_intdigest(os.pread(file, size, offset))
