"""Stages: found exactly when nothing changed, whole or not at all, and resumable after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conjoin.errors import StageError
from conjoin.stages import Stage, StageCache

few = settings(deadline=None, max_examples=50)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=5,
)
simple = st.builds(
    Stage,
    st.sampled_from(["data", "train"]),
    st.integers(1, 2),
    st.dictionaries(st.sampled_from(["a", "b"]), json_values, max_size=2),
)
stages = st.builds(
    Stage,
    st.sampled_from(["data", "train"]),
    st.integers(1, 2),
    st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 1), max_size=2),
    st.dictionaries(st.sampled_from(["x", "y"]), simple, max_size=2),
)


def _canonical(value):
    """Equal exactly for the same JSON: 1, 1.0 and True are three values."""
    if isinstance(value, dict):
        return "object", tuple(sorted((k, _canonical(v)) for k, v in value.items()))
    if isinstance(value, list):
        return "array", tuple(_canonical(v) for v in value)
    return type(value).__name__, repr(value)


@few
@given(stages | simple, stages | simple)
def test_keys_are_equal_exactly_if_descriptions_are(one, other):
    same = _canonical(one.description) == _canonical(other.description)
    assert (one.key == other.key) == same


@few
@given(simple)
def test_keys_do_not_depend_on_the_order_of_settings(stage):
    turned = Stage(stage.name, stage.version, dict(reversed(stage.settings.items())))
    assert turned.key == stage.key
    assert len(stage.key) == 16


@few
@given(simple)
def test_any_change_upstream_changes_every_key_downstream(stage):
    def chain(first):
        middle = Stage("middle", 1, {}, {"first": first})
        return middle.key, Stage("last", 1, {"x": 0}, {"middle": middle}).key

    keys = chain(stage)
    for changed in (
        Stage(stage.name, stage.version + 1, stage.settings),
        Stage(stage.name + "-2", stage.version, stage.settings),
        Stage(stage.name, stage.version, {**stage.settings, "new": 0}),
        Stage(stage.name, stage.version, stage.settings, {"extra": Stage("e", 1, {})}),
    ):
        assert not set(chain(changed)) & set(keys)


def test_the_name_of_an_input_counts():
    data = Stage("data", 1, {})
    assert Stage("s", 1, {}, {"a": data}).key != Stage("s", 1, {}, {"b": data}).key


def test_the_key_is_the_same_in_every_version_of_the_library():
    """Otherwise every cache of every user is made again. Raise it on purpose only."""
    assert Stage("train", 1, {"epochs": 2}).key == GOLDEN_KEY


GOLDEN_KEY = "486fd15ccc99d7c3"


@pytest.mark.parametrize("value", [{1, 2}, Path("x"), float("nan"), float("inf"), b"x", object()])
def test_settings_that_are_not_json(value):
    with pytest.raises(StageError, match="the settings of stage train are not plain JSON"):
        _ = Stage("train", 1, {"a": [value]}).key


@pytest.mark.parametrize("key", [1, None, True])
def test_keys_of_settings_that_are_not_strings(key):
    with pytest.raises(StageError, match="not plain JSON"):
        _ = Stage("train", 1, {"a": {key: 0}}).key


@pytest.mark.parametrize("name", ["../up", "a/b", "", "."])
def test_names_that_are_no_folder_names(tmp_path, name):
    with pytest.raises(StageError, match="name"):
        StageCache(tmp_path / "cache").get(Stage(name, 1, {}), _make)


# The cache ---------------------------------------------------------------------------------------

STAGE = Stage("train", 1, {"epochs": 2})


def _make(out: Path, work: Path) -> None:
    (out / "result.txt").write_text("made")
    (out / "deep").mkdir()
    (out / "deep" / "more.bin").write_bytes(bytes(100))


def _forbidden(out, work):
    raise AssertionError("made again")


@pytest.fixture
def notices():
    return []


@pytest.fixture
def cache(tmp_path, notices):
    return StageCache(tmp_path / "cache", notices.append)


def test_a_stage_is_made_once(cache, notices):
    assert not cache.has(STAGE)
    folder = cache.get(STAGE, _make)
    assert cache.has(STAGE)
    assert cache.get(STAGE, _forbidden) == folder
    assert (folder / "result.txt").read_text() == "made"
    assert sorted(p.name for p in folder.iterdir()) == ["deep", "result.txt", "stage.json"]
    assert [p.name for p in cache.folder.iterdir()] == [f"train-{STAGE.key}"]
    assert notices == []


def test_the_manifest_shows_what_the_result_depends_on(cache):
    data = Stage("data", 3, {"count": 5})
    stage = Stage("train", 1, {"epochs": 2}, {"data": data})
    manifest = json.loads((cache.get(stage, _make) / "stage.json").read_text())
    assert manifest["settings"] == {"epochs": 2}
    assert manifest["inputs"] == {"data": data.key}
    assert sorted(manifest["files"]) == ["deep/more.bin", "result.txt"]


def test_another_setting_is_another_stage(cache):
    first = cache.get(STAGE, _make)
    second = cache.get(Stage("train", 1, {"epochs": 3}), _make)
    assert first != second
    assert first.exists()


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["result.txt", "deep/more.bin", "stage.json"])
@pytest.mark.parametrize("damage", [Path.unlink, _truncate, _flip], ids=["gone", "short", "flip"])
def test_damage_is_seen_and_the_stage_made_again(cache, notices, name, damage):
    folder = cache.get(STAGE, _make)
    damage(folder / name)
    (folder / "stray").write_text("x")
    assert cache.get(STAGE, _make) == folder
    assert len(notices) == 1
    assert folder.name in notices[0]
    assert "damaged" in notices[0]
    assert not (folder / "stray").exists()
    cache.get(STAGE, _forbidden)


@pytest.mark.parametrize(
    "manifest", ["", "[]", "3", "{}", '{"key": "KEY"}', '{"key": "KEY", "files": []}',
                 '{"key": "KEY", "files": {"result.txt": null}}', '{"key": "other", "files": {}}']
)  # fmt: skip
def test_damaged_manifests(cache, notices, manifest):
    folder = cache.get(STAGE, _make)
    (folder / "stage.json").write_text(manifest.replace("KEY", STAGE.key))
    cache.get(STAGE, _make)
    assert len(notices) == 1
    cache.get(STAGE, _forbidden)


def test_a_file_in_the_place_of_a_stage_is_damage(cache, notices):
    cache.folder.mkdir()
    (cache.folder / f"train-{STAGE.key}").write_text("x")
    assert (cache.get(STAGE, _make) / "result.txt").read_text() == "made"
    assert len(notices) == 1


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_make_that_raises_leaves_nothing_finished_and_gets_its_work_back(cache, error):
    def fails(out, work):
        (out / "half").write_text("half")
        (out / "folder").mkdir()
        (work / "progress").write_text("7")
        raise error

    def goes_on(out, work):
        assert [p.name for p in out.iterdir()] == ["work"]
        assert (work / "progress").read_text() == "7"
        (out / "result.txt").write_text("made")

    with pytest.raises(error):
        cache.get(STAGE, fails)
    assert not cache.has(STAGE)
    folder = cache.get(STAGE, goes_on)
    assert sorted(p.name for p in folder.iterdir()) == ["result.txt", "stage.json"]
    assert [p.name for p in cache.folder.iterdir()] == [folder.name]


def test_work_is_handed_back_whole_or_not_at_all(cache, monkeypatch):
    """A kill while the work is removed must not hand back a part of it."""
    import conjoin.stages as module

    remove = module.shutil.rmtree

    def killed(path, *arguments, **keywords):
        first = next((p for p in sorted(Path(path).rglob("*")) if p.is_file()), None)
        if first is None:
            return remove(path, *arguments, **keywords)
        first.unlink()
        raise KeyboardInterrupt

    def make(out, work):
        for name in ("a", "b"):
            (work / name).write_text(name)
        _make(out, work)

    monkeypatch.setattr(module.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        cache.get(STAGE, make)
    monkeypatch.setattr(module.shutil, "rmtree", remove)
    seen = []

    def again(out, work):
        seen.extend(p.name for p in sorted(work.iterdir()))
        _make(out, work)

    cache.get(STAGE, again)
    assert seen in ([], ["a", "b"])


def test_a_stage_may_have_no_files(cache):
    folder = cache.get(STAGE, lambda out, work: None)
    assert [p.name for p in folder.iterdir()] == ["stage.json"]
    cache.get(STAGE, _forbidden)


# Kills and locks ----------------------------------------------------------------------------

CHILD = """
import sys, time
from pathlib import Path
from conjoin.stages import Stage, StageCache

def make(out, work):
    print("making", flush=True)
    for i in range(30):
        if (work / str(i)).exists():
            continue
        part = work / f".{i}"
        part.write_text(str(i * i))
        part.rename(work / str(i))
        time.sleep(0.002)
    for i in range(30):
        (out / f"{i}.txt").write_text((work / str(i)).read_text())

cache = StageCache(Path(sys.argv[1]))
with cache.locked():
    cache.get(Stage("squares", 1, {"count": 30}), make)
    print("done", flush=True)
    if len(sys.argv) > 2:
        time.sleep(60)
"""


def _child(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), *arguments], stdout=subprocess.PIPE, text=True
    )


def _read_until(child, line):
    return any(found.strip() == line for found in child.stdout)


needs_kill = pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")


@needs_kill
def test_kills_at_any_moment_do_not_change_the_result(tmp_path):
    folder, interrupted = tmp_path / "cache", 0
    for delay in (0.0, 0.005, 0.02, 0.04, 0.06, 0.07):
        with _child(folder) as child:
            assert _read_until(child, "making") or child.wait() == 0
            time.sleep(delay)
            child.send_signal(signal.SIGKILL)
            interrupted += child.wait() == -signal.SIGKILL
    assert interrupted >= 1
    with _child(folder) as child:
        assert _read_until(child, "done")
    (stage,) = (p for p in folder.iterdir() if p.name != ".lock")
    assert {p.name: p.read_text() for p in stage.glob("*.txt")} == {
        f"{i}.txt": str(i * i) for i in range(30)
    }
    assert not (stage / "work").exists()


@needs_kill
def test_the_lock_refuses_a_second_process_and_is_free_after_a_kill(tmp_path):
    cache = StageCache(tmp_path / "cache")
    with _child(cache.folder, "wait") as child:
        assert _read_until(child, "done")
        with pytest.raises(StageError, match="another run is using"), cache.locked():
            pytest.fail("two processes hold the folder")
        child.send_signal(signal.SIGKILL)
        child.wait()
        with cache.locked():
            pass


def test_the_lock_is_free_after_the_block_and_after_an_error(tmp_path):
    cache = StageCache(tmp_path / "cache")
    with cache.locked(), pytest.raises(StageError), cache.locked():
        pytest.fail("held twice")
    with pytest.raises(ValueError, match="x"), cache.locked():
        raise ValueError("x")
    with cache.locked():
        pass
