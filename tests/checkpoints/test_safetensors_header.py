"""Corrupt headers, each made by hand, and fuzzing against the official reader."""

import io
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from hypothesis import given
from hypothesis import strategies as st

from conjoin.checkpoints import Kind, Spec
from conjoin.checkpoints.safetensors_file import SafetensorsFile
from conjoin.checkpoints.safetensors_header import format_header, read_header
from conjoin.errors import CheckpointError


def make(header: Any, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def one(**changes: Any) -> dict[str, Any]:
    """The header of a file with one tensor `w` of two float32, changed."""
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


def two(first: list[int], second: list[int]) -> dict[str, Any]:
    shape = [1]
    return {
        "a": {"dtype": "F32", "shape": shape, "data_offsets": first},
        "b": {"dtype": "F32", "shape": shape, "data_offsets": second},
    }


TWICE = (
    b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
    b'"w":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}'
)

BROKEN = {
    "too short": (b"\x02\0\0", "it has 3 bytes"),
    "header beyond the file": (
        struct.pack("<Q", 50) + b"{}",
        "should have 50 bytes, and 2 are left",
    ),
    "huge header": (struct.pack("<Q", 2**63) + b"{}", "more than the allowed 100000000"),
    "no header": (struct.pack("<Q", 0), "begins with b'', not with a brace"),
    "not UTF-8": (make(b'{"\xff":1}'), r"not UTF-8 \(byte 2\)"),
    "not JSON": (make(b'{"w":'), "not JSON"),
    "two documents": (make(b"{}{}"), "not JSON"),
    "a list": (make(b"[]"), "begins with b'\\[\\]'"),
    "deep": (make(b'{"w":' * 100_000), "not JSON|described by"),
    "long number": (make(b'{"w":' + b"1" * 5000 + b"}"), "not JSON"),
    "NaN": (make(b'{"w":NaN}'), "contains NaN"),
    "name twice": (make(TWICE, b"\0"), "the key 'w' twice"),
    "field twice": (make(b'{"w":{"dtype":"U8","dtype":"I8"}}'), "the key 'dtype' twice"),
    "surrogate": (make(b'{"\\ud800":{}}'), "half of a surrogate pair"),
    "entry no object": (make({"w": [1]}), r"tensor 'w' is described by \[1\]"),
    "no shape": (make({"w": {"dtype": "F32"}}), "'w' has no shape and no data_offsets"),
    "dtype no string": (make(one(dtype=3), bytes(8)), "dtype of tensor 'w' is 3"),
    "dtype unknown": (make(one(dtype="F12"), bytes(8)), "'w' has the dtype 'F12'"),
    "shape no list": (make(one(shape=2), bytes(8)), "the shape of tensor 'w' is 2"),
    "shape of bools": (make(one(shape=[2, True]), bytes(8)), "not a list of integers"),
    "shape of floats": (make(one(shape=[2.0]), bytes(8)), "not a list of integers"),
    "shape negative": (make(one(shape=[-1, -2]), bytes(8)), "not a list of integers that are 0"),
    "shape overflows": (make(one(shape=[2**32, 2**32]), bytes(8)), "too large for any tensor"),
    "zero hides overflow": (
        make(one(shape=[0, 2**32, 2**32], data_offsets=[0, 0])),
        "too large for any tensor",
    ),
    "one offset": (make(one(data_offsets=[8]), bytes(8)), "1 data_offsets instead of 2"),
    "offsets reversed": (make(one(data_offsets=[8, 0]), bytes(8)), "data_offsets 8:0"),
    "offsets beyond": (make(one(), bytes(7)), "0:8, and there are 7 bytes of data"),
    "offsets of strings": (make(one(data_offsets=["0", "8"]), bytes(8)), "not a list of integers"),
    "size differs": (
        make(one(shape=[3]), bytes(8)),
        "needs 12 bytes, but its data_offsets 0:8 span 8",
    ),
    "overlap": (make(two([0, 4], [3, 7]), bytes(7)), "'b' overlap those of tensor 'a'"),
    "same bytes": (make(two([0, 4], [0, 4]), bytes(4)), "'b' overlap those of tensor 'a'"),
    "hole": (make(two([0, 4], [5, 9]), bytes(9)), "'b' leave a hole after tensor 'a'"),
    "hole at first": (make(one(data_offsets=[1, 9]), bytes(9)), "leave a hole after the header"),
    "left over": (make(one(), bytes(9)), "1 bytes are left after tensor 'w'"),
    "empty and left over": (make({}, b"x"), "1 bytes are left after the header"),
    "metadata no object": (make({"__metadata__": [1]}), "not an object of strings"),
    "metadata no string": (make({"__metadata__": {"step": 3}}), r"\['step'\] is 3, not a string"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_headers_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        SafetensorsFile(path)
    assert str(path) in str(caught.value)


def test_what_the_cases_start_from_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    path.write_bytes(make(one(), struct.pack("<2f", 1, 2)))
    assert SafetensorsFile(path)["w"].tolist() == [1, 2]
    path.write_bytes(make(two([4, 8], [0, 4]), struct.pack("<2f", 1, 2)))
    checkpoint = SafetensorsFile(path)
    assert {name: tensor.item() for name, tensor in checkpoint.items()} == {"a": 2, "b": 1}
    assert list(checkpoint) == ["a", "b"]  # the order of the JSON, not of the data


def _ours_accepts(content: bytes) -> bool:
    try:
        read_header(io.BytesIO(content), len(content), "memory")
    except CheckpointError:
        return False
    return True


def _official_accepts(content: bytes) -> bool:
    try:
        safetensors.deserialize(content)
    except safetensors.SafetensorError:
        return False
    return True


VALID = make({"__metadata__": {"format": "pt"}} | two([0, 4], [4, 8]), bytes(8))


@given(st.integers(0, len(VALID) - 1), st.integers(0, 255))
def test_whatever_we_accept_the_official_reader_accepts(position: int, byte: int) -> None:
    content = VALID[:position] + bytes([byte]) + VALID[position + 1 :]
    if _ours_accepts(content):
        assert _official_accepts(content)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 9) | st.sampled_from(["F32", "U8", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["dtype", "shape", "data_offsets", "w"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["w", "v", "__metadata__"]), json_values), st.binary(max_size=9)
)
def test_any_json_is_read_or_refused(header: dict[str, Any], data: bytes) -> None:
    content = make(header, data)
    if _ours_accepts(content):
        assert _official_accepts(content)


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    _ours_accepts(content)


def _spec(dtype: torch.dtype, *shape: int) -> Spec:
    return Spec(shape, dtype, Kind.WEIGHT, source="here")


def test_written_data_are_aligned() -> None:
    specs = {
        "byte": _spec(torch.uint8, 3),
        "double": _spec(torch.float64, 1),
        "half": _spec(torch.bfloat16, 5),
        "single": _spec(torch.float32, 3),
    }
    raw, order = format_header(specs, {"x": "\N{SNOWMAN}"})
    assert order == ("double", "single", "half", "byte")
    header = read_header(io.BytesIO(raw), len(raw) + 33, "memory")
    assert list(header.entries) == list(specs)
    assert header.metadata == {"x": "\N{SNOWMAN}"}
    assert all(entry.begin % entry.dtype.itemsize == 0 for entry in header.entries.values())


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ({"__metadata__": _spec(torch.uint8, 1)}, "cannot be named '__metadata__'"),
        ({"z": _spec(torch.complex128, 1)}, "'z' in here is torch.complex128.*save to a .pt"),
        ({"\ud800": _spec(torch.uint8, 1)}, "surrogate"),
    ],
)
def test_what_cannot_be_stored(specs: dict[str, Spec], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        format_header(specs, {})
