import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from checkpoint_strategies import bits, on_disk, state_dicts
from hypothesis import given
from torch import Tensor, nn

from conjoin.checkpoints import Kind, open_checkpoint
from conjoin.checkpoints.torch_file import open_torch_file
from conjoin.errors import CheckpointError, InputError


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.victim),)


@on_disk
@given(state_dicts)
def test_reads_what_torch_writes(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, Tensor]
) -> None:
    path = tmp_path_factory.mktemp("torch") / "x.pt"
    torch.save(tensors, path)
    checkpoint = open_torch_file(path)
    assert [(name, bits(tensor)) for name, tensor in checkpoint.items()] == [
        (name, bits(tensor)) for name, tensor in tensors.items()
    ]


@pytest.mark.parametrize("zipped", [True, False])
def test_both_formats_keep_ties_and_kinds(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "x.ckpt"
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    model[2].weight = model[0].weight
    torch.save(
        {"state_dict": model.state_dict(), "lr": 0.1}, path, _use_new_zipfile_serialization=zipped
    )
    checkpoint = open_checkpoint(path)
    assert list(checkpoint) == list(model.state_dict())
    assert checkpoint.specs["2.weight"].alias_of == "0.weight"
    assert checkpoint.specs["1.running_var"].kind is Kind.STATISTIC
    assert checkpoint.specs["1.running_var"].source == str(path)
    assert checkpoint.metadata["conjoin.unwrapped"].startswith("took the entry 'state_dict'")
    assert torch.equal(checkpoint["2.weight"], model[0].weight)


@pytest.mark.parametrize("zipped", [True, False])
def test_survives_pickling(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "x.pt"
    saved = {"model": {"w": torch.ones(10_000)}, "ema": {"w": torch.zeros(10_000)}}
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    checkpoint = open_torch_file(path, entry="ema")
    sent = pickle.dumps(checkpoint)
    assert len(sent) < 1000  # the path, not the tensors
    assert torch.equal(pickle.loads(sent)["w"], checkpoint["w"])
    assert checkpoint.files == (path,)
    assert checkpoint.in_file("w") is None


def test_writing_to_a_tensor_does_not_reach_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"w": torch.ones(3)}, path)
    before = path.read_bytes()
    open_torch_file(path)["w"].fill_(0)
    assert path.read_bytes() == before


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_never_runs(tmp_path: Path, zipped: bool) -> None:
    path, victim = tmp_path / "x.pt", tmp_path / "victim"
    torch.save(
        {"w": torch.ones(1), "evil": Malicious(victim)},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(
        CheckpointError, match=r"contains posix\.mkdir, not only tensors.*state_dict"
    ):
        open_checkpoint(path)
    assert not victim.exists()
    torch.load(path, weights_only=False)  # the trap works
    assert victim.exists()


def test_code_in_a_plain_pickle_never_runs(tmp_path: Path) -> None:
    path, victim = tmp_path / "x.pt", tmp_path / "victim"
    path.write_bytes(pickle.dumps(Malicious(victim)))
    with pytest.raises(CheckpointError, match="a pickle of another program"):
        open_checkpoint(path)
    assert not victim.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_whole_modules_are_refused(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "x.pt"
    torch.save(nn.Linear(1, 1), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"contains torch\.nn\.modules\.linear\.Linear"):
        open_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9, 0.999])
def test_truncated_files(tmp_path: Path, zipped: bool, kept: float) -> None:
    path = tmp_path / "x.pt"
    torch.save({"w": torch.ones(300)}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(CheckpointError, match=r"damaged|incomplete"):
        open_torch_file(path)


def test_other_archives(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("code/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="TorchScript archive"):
        open_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("array.npy", b"")
    with pytest.raises(CheckpointError, match=r"not of torch\.save"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"<html><body>404</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"plain text", "no file of torch.save"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        open_torch_file(path)


def test_entry(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"model": {"w": torch.ones(1)}, "ema": {"w": torch.zeros(1)}}, path)
    assert open_torch_file(path, entry="ema")["w"] == 0
    with pytest.raises(CheckpointError, match="'model', 'ema'"):
        open_torch_file(path)
    with pytest.raises(InputError, match="'emma'"):
        open_torch_file(path, entry="emma")


def test_values_that_are_no_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"w": torch.ones(1), "steps": 3}, path)
    with pytest.raises(CheckpointError, match=r"'steps' in .*x\.pt is of type int"):
        open_torch_file(path)
