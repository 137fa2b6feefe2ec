import pytest

from conjoin.cli.model_argument import is_path, open_model
from conjoin.errors import CheckpointError


def test_what_is_there_is_a_path(two, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "name").mkdir()
    assert is_path("a.safetensors")
    assert is_path("org/name")
    assert not is_path("hf://org/name")
    assert not is_path("other/name")
    assert not is_path("a.safetensors+org/name")
    two[0].rename(tmp_path / "a+b@c.safetensors")
    assert is_path("a+b@c.safetensors")


def test_a_mistyped_path_gets_the_closest(two):
    with pytest.raises(CheckpointError, match="did you mean"):
        open_model(str(two[0]).replace("a.safe", "aa.safe"), None)
    assert len(open_model(str(two[0]), None)) == 6
