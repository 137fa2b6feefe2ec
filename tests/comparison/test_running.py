"""Files of a run folder."""

import os

import pytest

from conjoin.comparison.rows import MEAN, ROWS
from conjoin.comparison.running import file_name, place


def test_rows_have_files_of_their_own():
    saved = [row.name for row in ROWS if row.save]
    assert MEAN in saved
    names = [file_name(f"models: {name}") for name in saved]
    assert len(set(names)) == len(saved)


@pytest.mark.parametrize(
    ("text", "name"),
    [("../up/x", "up-x"), ("a  B", "a-b"), ("<script>", "script"), ("x" * 300, "x" * 100)],
)
def test_names_of_files(text, name):
    assert file_name(text) == name


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_placed(tmp_path, monkeypatch, links):
    def no_links(*_):
        raise OSError("no links here")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    source, target = tmp_path / "source", tmp_path / "target.safetensors"
    for content in (b"one", b"one", b"two"):
        if not source.exists() or source.read_bytes() != content:
            source.unlink(missing_ok=True)
            source.write_bytes(content)
        place(source, target)
        assert target.read_bytes() == content
        assert sorted(path.name for path in tmp_path.iterdir()) == ["source", target.name]
        assert target.samefile(source) == links
