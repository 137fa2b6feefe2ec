from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from conjoin.checkpoints import Checkpoint, Kind, MemoryCheckpoint, Spec, save
from conjoin.checkpoints.safetensors_file import SafetensorsFile
from conjoin.errors import InputError


class Counting(Checkpoint):
    """Says how often a tensor was computed."""

    def __init__(self) -> None:
        self.calls = 0

    @property
    def specs(self) -> Mapping[str, Spec]:
        return {
            "fc.weight": Spec((2, 3), torch.float32, Kind.WEIGHT, source="here"),
            "tied": Spec((2, 3), torch.float32, Kind.WEIGHT, "fc.weight", "here"),
        }

    def __getitem__(self, name: str) -> Tensor:
        self.spec_of(name)
        self.calls += 1
        return torch.arange(6.0).reshape(3, 2).T  # not contiguous


def test_nothing_is_read_to_look_around() -> None:
    checkpoint = Counting()
    assert "fc.weight" in checkpoint
    assert "x" not in checkpoint
    assert 3 not in checkpoint
    assert list(checkpoint) == ["fc.weight", "tied"]
    assert len(checkpoint) == 2
    assert dict(checkpoint.metadata) == {}
    assert repr(checkpoint) == "<Counting of here: 2 tensors, 24 bytes>"
    assert checkpoint != Counting()
    assert len({checkpoint, checkpoint}) == 1
    assert checkpoint.calls == 0


@pytest.mark.parametrize(("start", "stop"), [(0, None), (0, 6), (1, 4), (6, 6), (3, 3), (2, None)])
def test_read_counts_in_row_major_order(start: int, stop: int | None) -> None:
    whole = torch.tensor([0.0, 2, 4, 1, 3, 5])
    assert torch.equal(Counting().read("fc.weight", start, stop), whole[start:stop])


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 7), (7, None), (0, -1)])
def test_read_refuses_ranges_outside(start: int, stop: int | None) -> None:
    with pytest.raises(InputError, match=r"'fc\.weight' in here, which has 6 elements"):
        Counting().read("fc.weight", start, stop)


@pytest.mark.parametrize(("start", "stop", "step"), [(0, 6, 1), (1, 6, 2), (2, 5, 9), (3, 3, 2)])
def test_a_sample_begins_with_the_first(start: int, stop: int, step: int) -> None:
    found = Counting().sample("tied", start, stop, step)
    assert found.tolist() == [0, 2, 4, 1, 3, 5][start:stop:step]


def test_a_large_sample_is_read_in_parts() -> None:
    values = torch.arange(600_000)
    checkpoint = MemoryCheckpoint({"w": values})
    for step in (1, 3, 7, 300_000, 999_999):
        found = checkpoint.sample("w", 5, 599_998, step)
        assert torch.equal(found, values[5:599_998:step])


def test_unknown_names_get_the_closest() -> None:
    for access in (lambda name: Counting()[name], Counting().read, Counting().spec_of):
        with pytest.raises(KeyError, match=r"'fc.wieght' in here, .*did you mean 'fc\.weight'"):
            access("fc.wieght")
    assert Counting().get("nothing") is None


def test_read_only() -> None:
    with pytest.raises(TypeError):
        Counting()["fc.weight"] = torch.zeros(2, 3)  # type: ignore[index]


def test_blocks_are_what_a_subclass_reads(tmp_path) -> None:
    path = save({"w": torch.arange(6.0)}, tmp_path / "w.safetensors")

    class Doubled(SafetensorsFile):
        def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
            return 2 * super().read(name, start, stop)

    class Named(Doubled):
        """Says nothing of reading."""

    for kind in (Doubled, Named):
        assert [block.tolist() for block in kind(path).blocks("w", 1, 6, 4)] == [[2, 4, 6], [8, 10]]
