"""What tells the files of a model from others: where they are, their sizes, times and headers."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash

from conjoin.errors import CheckpointError

__all__ = ["header_digest", "identify", "sha256_of"]

_LONGEST_HEADER = 100_000_000


def identify(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Give path, size, time of the last change (ns) and digest of the header of every file.

    A file that is changed gives something else, unless its size, its time and its header are all
    put back; that is what the digests of the data are for.

    Raises:
        CheckpointError: a file cannot be read.
    """
    found = []
    for path in files:
        try:
            status = path.stat()
            digest = header_digest(path)
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
        found.append(
            {
                "path": str(path.absolute()),
                "bytes": status.st_size,
                "changed_ns": status.st_mtime_ns,
                "header": digest,
            }
        )
    return found


def header_digest(path: Path) -> str:
    """Give a digest (XXH3) of what stands before the data of a file: its first bytes.

    Of a safetensors file that is the whole header; of others, 64 KiB.
    """
    with path.open("rb") as file:
        head = file.read(1 << 16)
        if len(head) >= 9 and head[4:9] == b"\0\0\0\0{":
            (length,) = struct.unpack("<Q", head[:8])
            if 8 + length > len(head) and length <= _LONGEST_HEADER:
                head += file.read(8 + length - len(head))
            head = head[: 8 + length]
    return xxhash.xxh3_64_hexdigest(head)


def sha256_of(paths: Sequence[Path]) -> Mapping[str, str]:
    """Give the SHA-256 of whole files, by path: a second or more per gigabyte."""
    import hashlib

    found = {}
    for path in paths:
        with path.open("rb") as file:
            found[str(path)] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
