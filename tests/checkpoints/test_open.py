from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from conjoin.checkpoints import MemoryCheckpoint, as_checkpoint, open_checkpoint
from conjoin.checkpoints.safetensors_file import SafetensorsFile
from conjoin.errors import CheckpointError, InputError

TENSORS = {"w": torch.arange(3.0)}


def test_content_decides_not_the_suffix(tmp_path: Path) -> None:
    safetensors.torch.save_file(TENSORS, tmp_path / "a.pt")
    torch.save(TENSORS, tmp_path / "b.safetensors")
    torch.save(TENSORS, tmp_path / "c", _use_new_zipfile_serialization=False)
    assert isinstance(open_checkpoint(tmp_path / "a.pt"), SafetensorsFile)
    for name in ("a.pt", "b.safetensors", "c"):
        assert open_checkpoint(str(tmp_path / name))["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("length", range(110, 140))
def test_a_header_whose_length_looks_like_another_format(tmp_path: Path, length: int) -> None:
    # 123 is a brace, 128 the first byte of a pickle.
    text = b'{"__metadata__":{"x":"'
    raw = text + b"y" * (length - len(text) - 3) + b'"}}'
    path = tmp_path / "x"
    path.write_bytes(length.to_bytes(8, "little") + raw)
    assert open_checkpoint(path).metadata["x"].startswith("yy")


def test_a_missing_file_suggests_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"did you mean .*model\.safetensors") as caught:
        open_checkpoint(tmp_path / "model.safetensor")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(CheckpointError, match=r"has model\.safetensors"):
        open_checkpoint(tmp_path / "q")
    with pytest.raises(CheckpointError, match="no folder"):
        open_checkpoint(tmp_path / "nowhere" / "q")


def test_a_missing_folder_suggests_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "my-model").mkdir()
    with pytest.raises(CheckpointError, match=r"and no folder; did you mean .*my-model\?"):
        open_checkpoint(tmp_path / "my-modle")


def test_a_folder(tmp_path: Path) -> None:
    safetensors.torch.save_file(TENSORS, tmp_path / "model.safetensors")
    assert open_checkpoint(tmp_path)["w"].tolist() == [0, 1, 2]
    assert as_checkpoint(str(tmp_path))["w"].tolist() == [0, 1, 2]


def test_a_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    with pytest.raises(CheckpointError, match=r"has no weights: it has config\.json; expected"):
        open_checkpoint(tmp_path)


def test_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied")  # a real one does not stop root

    path = tmp_path / "x.pt"
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CheckpointError, match="Permission denied"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.pt", b"\x1f\x8b\x08\0\0\0\0\0\0\xff", "gzip"),
        ("x.json", b'{"weight_map": {}}', "JSON"),
        ("x.pt", b"something else", "neither .* begins with b'somethin'"),
        ("x.safetensors", b"something else", "no valid safetensors file"),
    ],
)
def test_other_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / name)


def test_safetensors_have_no_entries(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file(TENSORS, path)
    with pytest.raises(InputError, match="entry='ema'"):
        open_checkpoint(path, entry="ema")


def test_as_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file(TENSORS, path)
    checkpoint = MemoryCheckpoint(TENSORS)
    assert as_checkpoint(checkpoint) is checkpoint
    for obj in (path, str(path), TENSORS):
        assert list(as_checkpoint(obj)) == ["w"]
    assert list(as_checkpoint(nn.Linear(1, 1))) == ["weight", "bias"]
    with pytest.raises(InputError, match="got generator"):
        as_checkpoint(nn.Linear(1, 1).parameters())  # type: ignore[arg-type]
