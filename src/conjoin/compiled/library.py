"""The compiled part, if this installation has it and this machine can run it."""

from __future__ import annotations

import ctypes
import os
import platform
import zlib
from functools import cache
from pathlib import Path

from conjoin.deferred import has_torch, torch

__all__ = ["OFF", "find_library", "load_library"]

OFF = "CONJOIN_COMPILED"
"""The environment variable that turns the compiled part off if it is 0."""


def find_library() -> Path | None:
    """Give the file for this machine, None if there is none.

    `hatch_build.py` compiles one for every set of instructions that torch has vectors of. It has
    to be the one that torch uses, for the same roundings of fused operations.
    """
    machine = platform.machine().lower()
    kind = "generic"
    if machine in ("x86_64", "amd64"):
        kind = _capability()
    path = Path(__file__).with_name(f"native-{kind}.bin")
    return path if path.is_file() else None


def _capability() -> str:
    """Give the name of the set of instructions that torch has vectors of on this x86-64."""
    asked = os.environ.get("ATEN_CPU_CAPABILITY")
    found = None if has_torch() or asked is not None else _flags()
    if found is None:
        capability: str = torch.backends.cpu.get_cpu_capability().lower()
        return capability
    if {"avx512vl", "avx512bw", "avx512dq", "fma"} <= found:
        return "avx512"
    return "avx2" if {"avx2", "fma"} <= found else "default"


def _flags() -> frozenset[str] | None:
    """Give what the first core can do, where the system says it (Linux)."""
    try:
        with Path("/proc/cpuinfo").open() as file:
            for line in file:
                name, _, value = line.partition(":")
                if name.strip() == "flags":
                    return frozenset(value.split())
    except (OSError, UnicodeDecodeError):
        pass
    return None


@cache
def load_library() -> ctypes.CDLL | None:
    """Give the compiled part, None if it is absent, turned off, or of another system."""
    path = find_library()
    if path is None or os.environ.get(OFF) == "0":
        return None
    try:
        library = ctypes.CDLL(str(path))
        library.conjoin_source.restype = ctypes.c_uint32
        sources = sorted(path.parent.glob("[!.]*.[ch]"))
        if library.conjoin_source() != zlib.crc32(b"".join(one.read_bytes() for one in sources)):
            return None  # of another version: this one is used after the next installation
    except (OSError, AttributeError):
        return None
    pointer, integer, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    library.conjoin_run.restype = integer
    library.conjoin_run.argtypes = (pointer, integer, pointer, pointer, pointer, size)
    library.conjoin_count.restype = None
    library.conjoin_count.argtypes = (pointer, size, pointer, integer)
    real = ctypes.c_float
    both = (pointer, integer, pointer, integer)
    library.conjoin_divergence.restype = None
    library.conjoin_divergence.argtypes = (*both, size, size, real, pointer)
    library.conjoin_scores.restype = None
    library.conjoin_scores.argtypes = (*both, pointer, size, size, pointer)
    library.conjoin_add_scored.restype = integer
    library.conjoin_add_scored.argtypes = (*both, pointer, size, size, real, pointer)
    library.conjoin_files.restype = integer
    library.conjoin_files.argtypes = (
        *(pointer, integer, pointer, integer, pointer, pointer, integer),
        *(size, size, pointer, pointer, pointer),
    )
    return library
