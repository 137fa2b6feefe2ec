"""The header of a safetensors file: reading it strictly, and writing it.

A file is

    n as 8 bytes, little-endian | n bytes of JSON | the data

and the JSON maps each name to {"dtype", "shape", "data_offsets": [begin, end]}, with offsets
counted from the start of the data, and `__metadata__` to an object of strings. The tensors fill
the data without holes or overlaps. Nothing else is let through here, so that two readers cannot
see different tensors in one file.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

from conjoin.checkpoints.spec import Spec
from conjoin.dtypes import DTYPES, DType, is_known
from conjoin.errors import CheckpointError

__all__ = ["CODES", "Entry", "Header", "format_header", "read_header"]

# The limit of the official reader: a longer header would be refused elsewhere.
_LONGEST_HEADER = 100_000_000
_LARGEST_INDEX = 2**63 - 1

CODES: Mapping[str, DType] = {
    **{"F64": DTYPES["float64"], "F32": DTYPES["float32"]},
    **{"F16": DTYPES["float16"], "BF16": DTYPES["bfloat16"]},
    **{"F8_E4M3": DTYPES["float8_e4m3fn"], "F8_E4M3FNUZ": DTYPES["float8_e4m3fnuz"]},
    **{"F8_E5M2": DTYPES["float8_e5m2"], "F8_E5M2FNUZ": DTYPES["float8_e5m2fnuz"]},
    **{"F8_E8M0": DTYPES["float8_e8m0fnu"], "C64": DTYPES["complex64"]},
    **{"I64": DTYPES["int64"], "I32": DTYPES["int32"]},
    **{"I16": DTYPES["int16"], "I8": DTYPES["int8"]},
    **{"U64": DTYPES["uint64"], "U32": DTYPES["uint32"]},
    **{"U16": DTYPES["uint16"], "U8": DTYPES["uint8"]},
    "BOOL": DTYPES["bool"],
}
"""Dtypes by what a file calls them."""
_BY_DTYPE = {dtype: code for code, dtype in CODES.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor in the file; its data are the bytes `begin:end` of the whole file."""

    dtype: DType
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """Tensors in the order of the JSON, and the metadata."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]


class _MalformedError(Exception):
    """What is wrong, without the path of the file."""


def read_header(file: BinaryIO, size: int, path: str) -> Header:
    """Read and check the header of an open file of `size` bytes; `path` is for messages.

    Raises:
        CheckpointError: anything is not as the format says.
    """
    try:
        return _read_header(file, size)
    except _MalformedError as problem:
        raise CheckpointError(
            f"{path} is no valid safetensors file: {problem}; "
            "if it was copied or downloaded, it may be incomplete"
        ) from None


def _read_header(file: BinaryIO, size: int) -> Header:
    if size < 8:
        raise _MalformedError(f"it has {size} bytes, and the length of the header alone takes 8")
    (length,) = struct.unpack("<Q", file.read(8))
    if length > _LONGEST_HEADER:
        raise _MalformedError(
            f"its first 8 bytes announce a header of {length} bytes, more than the allowed "
            f"{_LONGEST_HEADER}"
        )
    if length > size - 8:
        raise _MalformedError(f"its header should have {length} bytes, and {size - 8} are left")
    parsed = _parse_json(file.read(length))
    metadata = _checked_metadata(parsed.pop("__metadata__", {}))
    start = 8 + length
    entries = {name: _entry(name, value, start, size) for name, value in parsed.items()}
    _check_layout(entries, start, size)
    return Header(entries, metadata)


def _parse_json(raw: bytes) -> dict[str, object]:
    if not raw.startswith(b"{"):
        raise _MalformedError(f"its header begins with {raw[:8]!r}, not with a brace")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _MalformedError(f"its header is not UTF-8 (byte {error.start})") from None
    try:
        parsed = json.loads(
            text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise _MalformedError(f"its header is not JSON ({error})") from None
    assert isinstance(parsed, dict)  # it began with a brace
    return parsed


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    # json keeps the last of two equal keys without a word; another reader may keep the first.
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise _MalformedError(f"its header has the key {key!r} twice")
        found[key] = value
    return found


def _refuse_constant(constant: str) -> object:
    raise _MalformedError(f"its header contains {constant}, which is not JSON")


def _checked_metadata(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _MalformedError(f"__metadata__ is {value!r}, not an object of strings")
    for key, item in value.items():
        if not isinstance(item, str):
            raise _MalformedError(f"__metadata__[{key!r}] is {item!r}, not a string")
    return value


def _entry(name: str, value: object, start: int, size: int) -> Entry:
    what = f"tensor {name!r}"
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise _MalformedError(f"the name of {what} has half of a surrogate pair") from None
    if not isinstance(value, dict):
        raise _MalformedError(f"{what} is described by {value!r}, not by an object")
    missing = [key for key in ("dtype", "shape", "data_offsets") if key not in value]
    if missing:
        raise _MalformedError(f"{what} has no {' and no '.join(missing)}")
    dtype = _dtype(what, value["dtype"])
    shape = _integers(what, "shape", value["shape"])
    offsets = _integers(what, "data_offsets", value["data_offsets"])
    # A zero would hide an overflow of the other sizes: torch multiplies them all.
    if math.prod(size for size in shape if size) > _LARGEST_INDEX:
        raise _MalformedError(f"{what} has the shape {list(shape)}, too large for any tensor")
    if len(offsets) != 2:
        raise _MalformedError(f"{what} has {len(offsets)} data_offsets instead of 2")
    begin, end = offsets
    if begin > end or end > size - start:
        raise _MalformedError(
            f"{what} has the data_offsets {begin}:{end}, and there are {size - start} bytes of data"
        )
    expected = math.prod(shape) * dtype.itemsize
    if end - begin != expected:
        raise _MalformedError(
            f"{what}, {value['dtype']} of shape {list(shape)}, needs {expected} bytes, but its "
            f"data_offsets {begin}:{end} span {end - begin}"
        )
    return Entry(dtype, shape, start + begin, start + end)


def _dtype(what: str, code: object) -> DType:
    if not isinstance(code, str):
        raise _MalformedError(f"the dtype of {what} is {code!r}, not a string")
    if code not in CODES or not is_known(CODES[code]):
        raise _MalformedError(
            f"{what} has the dtype {code!r}, which this version of torch cannot represent; "
            f"known are {', '.join(CODES)}"
        )
    return CODES[code]


def _integers(what: str, field: str, value: object) -> tuple[int, ...]:
    # `type(...) is int`: true and false are integers to isinstance.
    if not isinstance(value, list) or any(type(item) is not int or item < 0 for item in value):
        raise _MalformedError(
            f"the {field} of {what} is {value!r}, not a list of integers that are 0 or more"
        )
    return tuple(value)


def _check_layout(entries: Mapping[str, Entry], start: int, size: int) -> None:
    reached, previous = start, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != reached:
            overlap = entry.begin < reached
            raise _MalformedError(
                f"the data of tensor {name!r} "
                + (f"overlap those of {previous}" if overlap else f"leave a hole after {previous}")
                + f" (they begin at {entry.begin - start}, expected {reached - start})"
            )
        reached, previous = entry.end, f"tensor {name!r}"
    if reached != size:
        raise _MalformedError(f"{size - reached} bytes are left after {previous}")


def format_header(
    specs: Mapping[str, Spec], metadata: Mapping[str, str]
) -> tuple[bytes, tuple[str, ...]]:
    """Return the first bytes of a file, and the order in which the data follow.

    The JSON keeps the order of `specs`; the data come by descending item size and the header is
    padded to a multiple of 8 bytes, so that every tensor is aligned.

    Raises:
        CheckpointError: a name or dtype cannot be stored, or the header would be too long.

    >>> import torch
    >>> from conjoin.checkpoints import Kind
    >>> specs = {"a": Spec((1,), torch.float16, Kind.WEIGHT),
    ...          "b": Spec((1,), torch.float32, Kind.WEIGHT)}
    >>> format_header(specs, {})[1]
    ('b', 'a')
    """
    for name, spec in specs.items():
        if name == "__metadata__":
            raise CheckpointError("a tensor in a safetensors file cannot be named '__metadata__'")
        if spec.stored not in _BY_DTYPE:
            raise CheckpointError(
                f"{name!r} in {spec.source} is {spec.stored}, which a safetensors file cannot "
                "hold; save to a .pt file instead"
            )
    order = tuple(sorted(specs, key=lambda name: -specs[name].stored.itemsize))
    offsets, reached = {}, 0
    for name in order:
        offsets[name] = [reached, reached + specs[name].nbytes]
        reached += specs[name].nbytes
    described: dict[str, object] = {"__metadata__": dict(metadata)}
    for name, spec in specs.items():
        described[name] = {
            "dtype": _BY_DTYPE[spec.stored],
            "shape": list(spec.shape),
            "data_offsets": offsets[name],
        }
    text = json.dumps(described, ensure_ascii=False, separators=(",", ":"))
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError:
        raise CheckpointError(
            "a name or metadata string has half of a surrogate pair and cannot be stored as UTF-8"
        ) from None
    raw += b" " * (-len(raw) % 8)
    if len(raw) > _LONGEST_HEADER:
        raise CheckpointError(
            f"the header would have {len(raw)} bytes, more than the allowed {_LONGEST_HEADER}; "
            "shorten the metadata"
        )
    return struct.pack("<Q", len(raw)) + raw, order
