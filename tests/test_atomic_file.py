import os
from pathlib import Path

import pytest

from conjoin.atomic import atomic_file
from conjoin.errors import InputError, OutputExistsError


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("overwrite", [True, False])
def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, error: type[BaseException], overwrite: bool
) -> None:
    path = tmp_path / "x"
    if overwrite:
        path.write_bytes(b"old")

    def write() -> None:
        with atomic_file(path, overwrite=overwrite) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert [item.name for item in tmp_path.iterdir()] == (["x"] if overwrite else [])
    if overwrite:
        assert path.read_bytes() == b"old"


def test_the_temporary_is_hidden_and_names_its_process(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "x", overwrite=False):
        (name,) = (item.name for item in tmp_path.iterdir())
        assert name.startswith(".")
        assert str(os.getpid()) in name
    assert [item.name for item in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("links", [True, False])
def test_of_two_writers_one_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError("no hard links here")

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    path = tmp_path / "x"

    def race() -> None:
        with atomic_file(path, overwrite=False) as slow:
            slow.write(b"slow")
            with atomic_file(path, overwrite=False) as fast:
                fast.write(b"fast")

    with pytest.raises(OutputExistsError):
        race()
    assert path.read_bytes() == b"fast"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_a_target(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for path, error in (
        (tmp_path / "missing" / "x", InputError),
        (tmp_path, InputError),
        (tmp_path / "dangling", OutputExistsError),
    ):
        with pytest.raises(error), atomic_file(path, overwrite=False):
            pass
