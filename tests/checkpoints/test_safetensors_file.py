import gc
import json
import os
import pickle
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import safetensors.torch
import torch
from checkpoint_strategies import bits, names, on_disk, state_dicts
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from conjoin.checkpoints import Kind, MemoryCheckpoint, cut_at_multiples, safetensors_file
from conjoin.checkpoints.safetensors_file import ORDER_KEY, SafetensorsFile
from conjoin.errors import CheckpointError, InputError

# What the installed version reads and writes; F8_E8M0, for one, is in the format only.
OFFICIAL = set(safetensors.torch._TYPES.values())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    tensors = {"b.weight": torch.arange(12.0).reshape(3, 4), "a": torch.tensor(7, dtype=torch.int8)}
    safetensors.torch.save_file(tensors, path, metadata={"made by": "hand"})
    return path


@on_disk
@given(state_dicts)
def test_reads_what_the_official_library_writes(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, Tensor]
) -> None:
    tensors = {name: tensor for name, tensor in tensors.items() if tensor.dtype in OFFICIAL}
    path = tmp_path_factory.mktemp("official") / "x.safetensors"
    safetensors.torch.save_file(tensors, path)
    checkpoint = SafetensorsFile(path)
    assert {name: bits(tensor) for name, tensor in checkpoint.items()} == {
        name: bits(tensor) for name, tensor in tensors.items()
    }
    for name, spec in checkpoint.specs.items():
        assert (spec.shape, spec.dtype) == (tuple(tensors[name].shape), tensors[name].dtype)


@on_disk
@given(st.integers(0, 12), st.integers(0, 12))
def test_read_is_a_slice_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, one: int, other: int
) -> None:
    path = tmp_path_factory.mktemp("slice") / "x.safetensors"
    whole = torch.arange(12, dtype=torch.bfloat16).reshape(3, 4)
    safetensors.torch.save_file({"first": torch.ones(3), "x": whole}, path)
    start, stop = sorted((one, other))
    assert bits(SafetensorsFile(path).read("x", start, stop)) == bits(whole.view(-1)[start:stop])
    for step in (1, 2, 5, 99):
        sample = SafetensorsFile(path).sample("x", start, stop, step)
        assert sample.tolist() == whole.view(-1)[start:stop:step].tolist()
        assert sample.dtype == whole.dtype


def test_looking_around(path: Path) -> None:
    checkpoint = SafetensorsFile(path)
    assert repr(checkpoint) == f"<SafetensorsFile of {path}: 2 tensors, 49 bytes>"
    assert dict(checkpoint.metadata) == {"made by": "hand"}
    assert checkpoint.specs["b.weight"].source == str(path)
    assert checkpoint.specs["a"].kind is Kind.CONSTANT
    with pytest.raises(KeyError, match=r"did you mean 'b\.weight'"):
        checkpoint["b.wight"]
    with pytest.raises(InputError, match="12 elements"):
        checkpoint.read("b.weight", 0, 13)


def test_writing_to_a_tensor_does_not_reach_the_file(path: Path) -> None:
    before = path.read_bytes()
    SafetensorsFile(path)["b.weight"].fill_(0)
    gc.collect()
    assert path.read_bytes() == before


def test_tensors_outlive_the_checkpoint(path: Path) -> None:
    tensor = SafetensorsFile(path)["b.weight"]
    gc.collect()
    path.unlink()
    assert tensor.sum() == 66


def test_views_are_not_copies(path: Path) -> None:
    checkpoint = SafetensorsFile(path)
    one, other = checkpoint["b.weight"], checkpoint["b.weight"]
    assert one.data_ptr() == other.data_ptr()


def test_ranges_in_the_file(path: Path) -> None:
    checkpoint = SafetensorsFile(path)
    assert checkpoint.files == (path,)
    for name, tensor in checkpoint.items():
        found = checkpoint.in_file(name)
        assert found.file.path == path
        assert path.read_bytes()[found.begin : found.end] == bits(tensor)[2]
    with pytest.raises(KeyError, match="no tensor 'c'"):
        checkpoint.in_file("c")


def test_many_threads_share_one_checkpoint(path: Path) -> None:
    checkpoint = SafetensorsFile(path)
    # Views come and go, so that the file is mapped and unmapped all the time.
    with ThreadPoolExecutor(16) as pool:
        sums = pool.map(lambda _: float(checkpoint["b.weight"].sum()), range(2000))
        assert set(sums) == {66.0}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of maps")
def test_the_file_is_mapped_only_while_a_view_lives(path: Path) -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(str(path))

    checkpoint = SafetensorsFile(path)
    checkpoint.read("b.weight")
    assert mapped() == 0
    views = list(checkpoint.values())
    assert mapped() == 1
    del views
    gc.collect()
    assert mapped() == 0


def test_survives_pickling(path: Path) -> None:
    checkpoint = SafetensorsFile(path)
    view = checkpoint["a"]  # the map cannot be pickled
    again = pickle.loads(pickle.dumps(checkpoint))
    assert bits(again["a"]) == bits(view)


def test_a_changed_file_is_refused(path: Path) -> None:
    checkpoint = SafetensorsFile(path)
    other = path.with_name("other")
    safetensors.torch.save_file({"b.weight": torch.zeros(3, 4)}, other)
    other.replace(path)
    for access in (lambda: checkpoint["b.weight"], lambda: checkpoint.read("b.weight", 0, 1)):
        with pytest.raises(CheckpointError, match="has changed since it was opened"):
            access()
    path.unlink()
    with pytest.raises(CheckpointError, match="again: No such file"):
        checkpoint["b.weight"]


@on_disk
@given(st.integers(0, 12), st.integers(0, 12), st.integers(1, 20))
def test_blocks_are_cut_at_multiples_and_valid_until_the_next(
    tmp_path_factory: pytest.TempPathFactory, one: int, other: int, size: int
) -> None:
    path = tmp_path_factory.mktemp("blocks") / "x.safetensors"
    whole = torch.arange(12, dtype=torch.bfloat16).reshape(3, 4)
    safetensors.torch.save_file({"first": torch.ones(3), "x": whole}, path)
    start, stop = sorted((one, other))
    spans = list(cut_at_multiples(start, stop, size))
    assert [begin for begin, _ in spans[1:]] == [end for _, end in spans[:-1]]
    assert all(end % size == 0 for _, end in spans[:-1])
    for checkpoint in (SafetensorsFile(path), MemoryCheckpoint({"x": whole})):
        found = [block.tolist() for block in checkpoint.blocks("x", start, stop, size)]
        assert found == [whole.view(-1)[begin:end].tolist() for begin, end in spans]
        with pytest.raises(InputError, match="not inside tensor 'x'"):
            list(checkpoint.blocks("x", 0, 13, size))


def test_a_file_that_is_changed_while_its_blocks_are_read_is_refused(path: Path) -> None:
    blocks = SafetensorsFile(path).blocks("b.weight", 0, 12, 6)
    assert next(blocks).numel() == 6
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    os.utime(path, ns=(1, 1))
    with pytest.raises(CheckpointError, match="has changed since it was opened"):
        next(blocks)
    checkpoint = SafetensorsFile(path)
    os.utime(path, ns=(2, 2))
    with pytest.raises(CheckpointError, match="has changed since it was opened"):
        next(checkpoint.blocks("b.weight", 0, 12, 6))  # before any of it is given
    blocks = SafetensorsFile(path).blocks("b.weight", 0, 12, 6)
    next(blocks)
    os.truncate(path, path.stat().st_size - 30)
    with pytest.raises(CheckpointError, match="has changed since it was opened"):
        list(blocks)


def test_without_a_map_the_file_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(safetensors_file, "_map_privately", refuse)
    checkpoint = SafetensorsFile(path)
    assert torch.equal(checkpoint["b.weight"], torch.arange(12.0).reshape(3, 4))
    assert checkpoint["a"].shape == ()
    assert checkpoint.sample("b.weight", 1, 12, 5).tolist() == [1, 6, 11]


def test_misaligned_data_are_copied(tmp_path: Path) -> None:
    header = json.dumps(
        {
            "byte": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
            "double": {"dtype": "F64", "shape": [2], "data_offsets": [1, 17]},
        }
    ).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\5" + struct.pack("<2d", 1.5, 2))
    checkpoint = SafetensorsFile(path)
    assert checkpoint["double"].tolist() == [1.5, 2]
    assert checkpoint["double"].data_ptr() % 8 == 0
    assert checkpoint.read("double", 1).tolist() == [2]


def test_a_file_without_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({}, path)
    assert len(SafetensorsFile(path)) == 0


def _tied() -> nn.Module:
    model = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "z": nn.Linear(3, 3, bias=False)})
    model["a"].weight = model["z"].weight
    return model


def test_ties_of_the_official_save_model(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    model = _tied()
    safetensors.torch.save_model(model, str(path))
    checkpoint = SafetensorsFile(path)
    assert [(name, spec.alias_of) for name, spec in checkpoint.specs.items()] == [
        ("a.weight", None),
        ("z.weight", "a.weight"),
    ]
    assert torch.equal(checkpoint["z.weight"], model["z"].weight)
    assert torch.equal(checkpoint.read("z.weight", 2, 4), model["z"].weight.flatten()[2:4])
    assert "z.weight" not in checkpoint.metadata


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (["k", "t", "x"], ["k", "t", "x"]),
        (["x", "k", "t"], ["x", "k", "t"]),
        (["t", "k", "x"], None),  # an alias before what it is tied to
        (["k", "t"], None),
        (["k", "t", "x", "x"], None),
        (["k", "t", 3], None),
        ({"k": 1}, None),
        ("[", None),
    ],
)
def test_order_of_aliases(tmp_path: Path, order: object, expected: list[str] | None) -> None:
    path = tmp_path / "x.safetensors"
    metadata = {"t": "k", ORDER_KEY: order if order == "[" else json.dumps(order)}
    safetensors.torch.save_file({"x": torch.ones(1), "k": torch.ones(2)}, path, metadata)
    assert list(SafetensorsFile(path)) == (expected or ["k", "x", "t"])


@on_disk
@given(names)
def test_metadata_that_name_no_tensor_are_metadata(
    tmp_path_factory: pytest.TempPathFactory, key: str
) -> None:
    path = tmp_path_factory.mktemp("metadata") / "x.safetensors"
    safetensors.torch.save_file({"some tensor": torch.ones(1)}, path, {key: "a note"})
    assert dict(SafetensorsFile(path).metadata) == {key: "a note"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS.*git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"", "it is empty"),
        (b"\x80\x02}q\0.", "no valid safetensors file"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        SafetensorsFile(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        SafetensorsFile(tmp_path / "x.safetensors")
