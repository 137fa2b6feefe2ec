"""A result is there whole, or the folder is as it was."""

import os
import threading
from pathlib import Path

import pytest

from conjoin.atomic import atomic_file, check_target, sync_folder, write_bytes
from conjoin.errors import InputError, OutputExistsError


def _content(folder: Path) -> dict[str, bytes]:
    """Every file, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_file_appears_when_the_block_ends(tmp_path):
    with atomic_file(tmp_path / "a", overwrite=False) as file:
        file.write(b"part")
        assert not (tmp_path / "a").exists()
    assert _content(tmp_path) == {"a": b"part"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("before", [{}, {"a": b"old"}])
def test_an_exception_leaves_the_folder_as_it_was(tmp_path, error, before):
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)

    def write() -> None:
        with atomic_file(tmp_path / "a", overwrite=True) as file:
            file.write(b"part")
            file.flush()
            raise error

    with pytest.raises(error):
        write()
    assert _content(tmp_path) == before


def test_an_existing_target(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with (
        pytest.raises(OutputExistsError, match="a exists; choose another name"),
        atomic_file(tmp_path / "a", overwrite=False),
    ):
        pytest.fail("the block was entered")
    assert _content(tmp_path) == {"a": b"old"}
    write_bytes(tmp_path / "a", b"new")
    assert _content(tmp_path) == {"a": b"new"}
    with pytest.raises(FileExistsError), atomic_file(tmp_path / "a", overwrite=False):
        pytest.fail("the block was entered")
    assert _content(tmp_path) == {"a": b"new"}


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="there is no folder .*missing; create it"):
        write_bytes(tmp_path / "missing" / "a", b"")
    with pytest.raises(InputError, match="it is a folder; name a file"):
        write_bytes(tmp_path, b"")
    with pytest.raises(InputError, match="is a folder"):
        check_target(tmp_path, overwrite=True)
    assert _content(tmp_path) == {}


@pytest.mark.parametrize("links", [True, False])
def test_a_target_that_appears_meanwhile_is_left_as_it_is(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", _no_links)

    def write() -> None:
        with atomic_file(tmp_path / "a", overwrite=False) as file:
            file.write(b"mine")
            (tmp_path / "a").write_bytes(b"theirs")

    with pytest.raises(OutputExistsError, match="a exists"):
        write()
    assert _content(tmp_path) == {"a": b"theirs"}


def _no_links(*paths):
    raise PermissionError("no hard links here")


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", _no_links)
    with atomic_file(tmp_path / "a", overwrite=False) as file:
        file.write(b"whole")
    assert _content(tmp_path) == {"a": b"whole"}


@pytest.mark.parametrize("overwrite", [True, False])
def test_of_writers_that_race_the_result_is_one_s_whole_file(tmp_path, overwrite):
    target, count = tmp_path / "a", 4
    barrier = threading.Barrier(count)
    outcomes: list[str] = []

    def write(letter: bytes) -> None:
        try:
            with atomic_file(target, overwrite=overwrite) as file:
                file.write(letter * 100_000)
                barrier.wait(10)
            outcomes.append("written")
        except OutputExistsError:
            outcomes.append("refused")

    threads = [threading.Thread(target=write, args=(bytes([65 + i]),)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(_content(tmp_path)) == ["a"]
    content = target.read_bytes()
    assert len(content) == 100_000
    assert len(set(content)) == 1
    expected = ["written"] * count if overwrite else ["refused"] * (count - 1) + ["written"]
    assert sorted(outcomes) == expected


def test_sync_of_a_missing_folder(tmp_path):
    sync_folder(tmp_path)
    if os.name != "nt":
        with pytest.raises(FileNotFoundError):
            sync_folder(tmp_path / "missing")
