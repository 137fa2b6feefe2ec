import stat
from collections.abc import Mapping
from pathlib import Path

import pytest
import safetensors.torch
import torch
from checkpoint_strategies import bits, on_disk, state_dicts
from hypothesis import given
from torch import Tensor, nn

from conjoin.checkpoints import Checkpoint, Kind, MemoryCheckpoint, Spec, open_checkpoint, save
from conjoin.errors import CheckpointError, InputError, OutputExistsError

FORMATS = ["x.safetensors", "x.pt"]


class Lazy(Checkpoint):
    """Tensors 0, 1, 2, ... that are made on demand, with one that can fail."""

    def __init__(self, count: int = 3, failure: BaseException | None = None) -> None:
        self.count = count
        self.failure = failure
        self.asked: list[str] = []

    @property
    def specs(self) -> Mapping[str, Spec]:
        return {str(i): Spec((5,), torch.float32, Kind.WEIGHT) for i in range(self.count)}

    def __getitem__(self, name: str) -> Tensor:
        self.asked.append(name)
        if self.failure is not None and len(self.asked) == self.count:
            raise self.failure
        return torch.full((5,), float(name))


@pytest.mark.parametrize("name", FORMATS)
@on_disk
@given(tensors=state_dicts)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, name: str, tensors: dict[str, Tensor]
) -> None:
    path = save(tensors, tmp_path_factory.mktemp("trip") / name)
    checkpoint = open_checkpoint(path)
    assert [(name, bits(tensor)) for name, tensor in checkpoint.items()] == [
        (name, bits(tensor)) for name, tensor in tensors.items()
    ]


@on_disk
@given(state_dicts)
def test_the_official_library_reads_what_we_write(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, Tensor]
) -> None:
    official = set(safetensors.torch._TYPES.values())
    tensors = {name: tensor for name, tensor in tensors.items() if tensor.dtype in official}
    path = save(tensors, tmp_path_factory.mktemp("official") / "x.safetensors")
    found = safetensors.torch.load_file(path)
    assert {name: bits(tensor) for name, tensor in found.items()} == {
        name: bits(tensor) for name, tensor in tensors.items()
    }


@pytest.mark.parametrize("name", FORMATS)
@on_disk
@given(tensors=state_dicts)
def test_equal_checkpoints_make_equal_files(
    tmp_path_factory: pytest.TempPathFactory, name: str, tensors: dict[str, Tensor]
) -> None:
    folder = tmp_path_factory.mktemp("equal")
    one = save(tensors, folder / name).read_bytes()
    assert one == save(tensors, folder / name, overwrite=True).read_bytes()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 4)
        self.head.weight = self.embed.weight


@pytest.mark.parametrize("name", FORMATS)
def test_ties_are_stored_once(tmp_path: Path, name: str) -> None:
    model = Tied()
    checkpoint = open_checkpoint(save(model, tmp_path / name))
    assert list(checkpoint) == list(model.state_dict())
    assert {n: s.alias_of for n, s in checkpoint.specs.items() if s.alias_of} == {
        "head.weight": "embed.weight"
    }
    other = Tied()
    other.load_state_dict(dict(checkpoint))
    assert torch.equal(other.head.weight, model.head.weight)


@pytest.mark.parametrize("name", FORMATS)
def test_ties_survive_from_file_to_file(tmp_path: Path, name: str) -> None:
    first = open_checkpoint(save(Tied(), tmp_path / "first.safetensors"))
    second = open_checkpoint(save(first, tmp_path / name, overwrite=True))
    assert list(second) == list(first)
    assert second.specs["head.weight"].alias_of == "embed.weight"


def test_the_official_load_model_restores_ties(tmp_path: Path) -> None:
    model, other = Tied(), Tied()
    path = save(model, tmp_path / "x.safetensors")
    assert len(safetensors.torch.load_file(path)) == len(model.state_dict()) - 1
    safetensors.torch.load_model(other, path)
    assert other.head.weight is other.embed.weight
    assert torch.equal(other.head.weight, model.embed.weight)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).reshape(2, 3).T,
        torch.arange(6.0)[::2],
        torch.arange(3.0).expand(2, 3),
        nn.Parameter(torch.ones(2)),
        torch.tensor([1 + 2j, 3 - 1j]).conj(),
        torch.tensor([1 + 2j, 3 - 1j]).conj().imag,
        torch._neg_view(torch.arange(3.0)),  # contiguous, so that only the lazy bit is in the way
        torch.tensor(3.0),
        torch.empty(0, 5),
    ],
    ids=[
        "transposed",
        "strided",
        "expanded",
        "parameter",
        "conj",
        "imag",
        "neg",
        "scalar",
        "empty",
    ],
)
def test_tensors_of_any_layout(tmp_path: Path, name: str, tensor: Tensor) -> None:
    expected = tensor.detach().resolve_conj().resolve_neg().clone()
    found = open_checkpoint(save({"x": tensor}, tmp_path / name))["x"]
    assert bits(found) == bits(expected)


def test_a_view_does_not_drag_its_storage_along(tmp_path: Path) -> None:
    big = torch.zeros(100_000)
    path = save({"a": big[:10], "b": big[10:20]}, tmp_path / "x.pt")
    assert path.stat().st_size < 10_000


def test_a_lazy_checkpoint_is_asked_once_for_each_tensor(tmp_path: Path) -> None:
    for name in FORMATS:
        lazy = Lazy()
        assert open_checkpoint(save(lazy, tmp_path / name))["2"].tolist() == [2.0] * 5
        assert sorted(lazy.asked) == ["0", "1", "2"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("failure", [RuntimeError("read"), KeyboardInterrupt()])
def test_an_interrupted_write_changes_nothing(
    tmp_path: Path, name: str, failure: BaseException
) -> None:
    with pytest.raises(type(failure)):
        save(Lazy(failure=failure), tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    before = save(Lazy(), tmp_path / name).read_bytes()
    with pytest.raises(type(failure)):
        save(Lazy(failure=failure), tmp_path / name, overwrite=True)
    assert [item.name for item in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize("name", FORMATS)
def test_an_existing_file_is_not_replaced_and_nothing_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"precious")
    lazy = Lazy()
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        save(lazy, tmp_path / name)
    assert lazy.asked == []
    assert (tmp_path / name).read_bytes() == b"precious"


def test_a_checkpoint_can_replace_the_file_that_it_is_read_from(tmp_path: Path) -> None:
    path = save({"w": torch.arange(3.0)}, tmp_path / "x.safetensors", metadata={"a": "1"})
    save(open_checkpoint(path), path, overwrite=True, metadata={"b": "2"})
    checkpoint = open_checkpoint(path)
    assert checkpoint["w"].tolist() == [0, 1, 2]
    assert dict(checkpoint.metadata) == {"format": "pt", "a": "1", "b": "2"}


def test_files_can_be_read_by_others_as_usual(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    path = save({}, tmp_path / "x.safetensors")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


@pytest.mark.parametrize(
    ("name", "metadata", "message"),
    [
        ("x.txt", None, r"use one of \.safetensors, \.pt"),
        ("x", None, "suffix"),
        ("nowhere/x.pt", None, "there is no folder"),
        ("x.pt", {"a": "b"}, "no place for metadata"),
        ("x.safetensors", {"a": 3}, "metadata are strings; got 'a': 3"),
        ("x.safetensors", {"note": "w"}, r"\['note'\] have a tensor's name"),
        ("x.safetensors", {"tied": "other"}, r"\['tied'\] have a tensor's name"),
    ],
)
def test_refused_arguments(
    tmp_path: Path, name: str, metadata: dict[str, str] | None, message: str
) -> None:
    w = torch.ones(1)
    with pytest.raises(InputError, match=message):
        save({"w": w, "tied": w}, tmp_path / name, metadata=metadata)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FORMATS)
def test_meta_tensors_have_nothing_to_write(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="'w' in memory is on the meta device"):
        save({"w": torch.ones(1, device="meta")}, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


class Lying(Lazy):
    def __getitem__(self, name: str) -> Tensor:
        return super().__getitem__(name).to(torch.float16 if name == "1" else torch.float32)


@pytest.mark.parametrize("name", FORMATS)
def test_tensors_must_be_what_their_specs_say(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"'1' in .*torch\.float16, but its spec says"):
        save(Lying(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("alias_of", "shape", "message"),
    [("q", (2,), "'q', which is missing"), ("a", (3,), "'b' .* is .3,.*to which it is tied")],
)
def test_ties_must_be_possible(
    tmp_path: Path, alias_of: str, shape: tuple[int, ...], message: str
) -> None:
    specs = {
        "a": Spec((2,), torch.float32, Kind.WEIGHT),
        "b": Spec(shape, torch.float32, Kind.WEIGHT, alias_of),
    }
    checkpoint = MemoryCheckpoint({"a": torch.ones(2), "b": torch.ones(shape)}, specs)
    with pytest.raises(CheckpointError, match=message):
        save(checkpoint, tmp_path / "x.safetensors")
