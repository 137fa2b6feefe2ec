"""Two names exchanged, at once or in steps."""

import importlib
import sys

import pytest

from conjoin.streaming.exchange import exchange

module = importlib.import_module("conjoin.streaming.exchange")


@pytest.fixture(params=["at once", "in steps"])
def way(request, monkeypatch):
    if request.param == "in steps":
        monkeypatch.setattr(module, "_exchange_at_once", lambda first, second: False)
    elif sys.platform != "linux":
        pytest.skip("renameat2 is Linux's")
    return request.param


def test_folders_and_files_change_names(tmp_path, way):
    folder, file = tmp_path / "new", tmp_path / "old"
    folder.mkdir()
    (folder / "a").write_text("in the folder")
    file.write_text("the file")
    exchange(folder, file)
    assert folder.read_text() == "the file"
    assert (file / "a").read_text() == "in the folder"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_what_is_missing_is_an_error_and_nothing_is_lost(tmp_path, way):
    here = tmp_path / "here"
    here.write_text("stays")
    with pytest.raises(OSError):  # noqa: PT011 - of the system, in its words
        exchange(here, tmp_path / "missing")
    assert here.read_text() == "stays"
    with pytest.raises(OSError):  # noqa: PT011
        exchange(tmp_path / "missing", here)
    assert here.read_text() == "stays"
    assert list(tmp_path.iterdir()) == [here]
