"""The compiled part, if this installation has it and this machine can run it."""

import ctypes
import os
import platform
import zlib
from functools import cache
from pathlib import Path

import torch

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
        kind = torch.backends.cpu.get_cpu_capability().lower()
    path = Path(__file__).with_name(f"tiles-{kind}.bin")
    return path if path.is_file() else None


@cache
def load_library() -> ctypes.CDLL | None:
    """Give the compiled part, None if it is absent, turned off, or of another system."""
    path = find_library()
    if path is None or os.environ.get(OFF) == "0":
        return None
    try:
        library = ctypes.CDLL(str(path))
        library.conjoin_source.restype = ctypes.c_uint32
        if library.conjoin_source() != zlib.crc32(path.with_name("tiles.c").read_bytes()):
            return None  # of another version: this one is used after the next installation
    except (OSError, AttributeError):
        return None
    library.conjoin_run.restype = ctypes.c_int
    pointer = ctypes.c_void_p
    library.conjoin_run.argtypes = (
        pointer,
        ctypes.c_int,
        pointer,
        pointer,
        pointer,
        ctypes.c_int64,
    )
    return library
