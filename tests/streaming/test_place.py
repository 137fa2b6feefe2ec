"""The place of a result while it is made, and the moment when it appears."""

import errno
import json
import os
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from conjoin.checkpoints import save
from conjoin.errors import InputError, OutputExistsError, StageError
from conjoin.streaming import check_out, partial_of, run_place

WEIGHTS = "model.safetensors"


def _begun(place, **files):
    place.begin()
    for name, content in (files or {"model": b"new"}).items():
        (place.result / f"{name}.safetensors").write_bytes(content)
    place.note({"hash": "h"})


def _result(path, content=b"old"):
    path.mkdir()
    (path / WEIGHTS).write_bytes(content)


# Where a result may appear ------------------------------------------------------------------------


def test_a_new_name_in_a_folder_is_free(tmp_path):
    for overwrite in (False, True):
        check_out(tmp_path / "out", overwrite=overwrite)
    assert list(tmp_path.iterdir()) == []  # nothing was made to find that out


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_missing_parent(tmp_path, overwrite):
    with pytest.raises(InputError, match="there is no folder .*missing; create it first"):
        check_out(tmp_path / "missing" / "out", overwrite=overwrite)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="there is no folder"):
        check_out(tmp_path / "file" / "out", overwrite=overwrite)


@pytest.mark.parametrize("path", [".", "/"])
def test_a_path_without_a_name(path):
    with pytest.raises(InputError, match="name a new folder"):
        check_out(Path(path), overwrite=True)


@pytest.mark.parametrize("kind", ["file", "folder", "empty", "link", "dangling"])
def test_what_exists_is_not_replaced_unasked(tmp_path, kind):
    out = tmp_path / "out"
    if kind == "file":
        out.touch()
    elif kind == "folder":
        _result(out)
    elif kind == "empty":
        out.mkdir()
    else:
        out.symlink_to(tmp_path / "there")
        if kind == "link":
            _result(tmp_path / "there")
    with pytest.raises(OutputExistsError, match="choose another name, or pass overwrite=True"):
        check_out(out, overwrite=False)
    if kind in ("link", "dangling"):
        with pytest.raises(InputError, match="is a link, which is never replaced"):
            check_out(out, overwrite=True)
    else:
        check_out(out, overwrite=True)


def test_only_what_looks_like_a_checkpoint_is_replaced(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").touch()
    with pytest.raises(InputError, match="no checkpoint, or holds other folders"):
        check_out(out, overwrite=True)
    (out / "pytorch_model.bin").touch()
    check_out(out, overwrite=True)
    (out / "runs").mkdir()
    with pytest.raises(InputError, match="no checkpoint, or holds other folders"):
        check_out(out, overwrite=True)


# The partial folder -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "link"])
def test_something_else_that_has_the_name_of_the_partial_folder(tmp_path, kind):
    folder = partial_of(tmp_path / "out")
    (tmp_path / "elsewhere").mkdir()
    if kind == "file":
        folder.touch()
    else:
        folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is no folder"), run_place(tmp_path / "out"):
        pass
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_it_stays_only_if_there_is_something_to_go_on_with(tmp_path):
    out = tmp_path / "out"
    with run_place(out) as place:
        pass
    assert list(tmp_path.iterdir()) == []
    with run_place(out) as place:
        place.begin()  # not noted yet
    assert list(tmp_path.iterdir()) == []
    with run_place(out) as place:
        assert place.plan() is None
        _begun(place)
    assert place.folder.is_dir()
    with run_place(out) as place:
        assert place.plan() == {"hash": "h"}
        place.give_up()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff"])
def test_a_plan_that_cannot_be_read_is_of_no_run(tmp_path, content):
    with run_place(tmp_path / "out") as place:
        _begun(place)
        (place.folder / "plan.json").write_bytes(content)
        assert place.plan() == {}
    assert place.folder.is_dir()  # the user decides


def test_without_the_files_there_is_nothing_to_go_on_with(tmp_path):
    with run_place(tmp_path / "out") as place:
        _begun(place)
        (place.result / WEIGHTS).unlink()
        place.result.rmdir()
        assert place.plan() is None


def test_beginning_removes_what_was_left_and_follows_no_link(tmp_path):
    kept = tmp_path / "kept"
    _result(kept)
    with run_place(tmp_path / "out") as place:
        _begun(place)
        (place.folder / "journal-0-0.jsonl").write_text("left")
        (place.folder / "link").symlink_to(kept)
        (place.result / "link").symlink_to(kept)
        place.begin()
        assert sorted(path.name for path in place.folder.iterdir()) == ["lock", "result"]
        assert list(place.result.iterdir()) == []
    assert (kept / WEIGHTS).read_bytes() == b"old"


def test_a_second_run_at_once_is_refused_and_disturbs_nothing(tmp_path):
    out = tmp_path / "out"
    with run_place(out) as place:
        _begun(place)
        with pytest.raises(StageError, match="another run is making .*out"), run_place(out):
            pass
        assert place.plan() == {"hash": "h"}
        place.finish(overwrite=False, single=None)
    with run_place(out):
        pass


def test_a_folder_that_was_taken_anew_is_not_removed_by_the_run_before(tmp_path):
    out, before = tmp_path / "out", ExitStack()
    first = before.enter_context(run_place(out))
    _begun(first)
    first.finish(overwrite=False, single=None)
    with run_place(out) as second:  # as soon as the first has let it go
        second.begin()
        before.close()  # only now the first ends
        assert second.result.is_dir()
        _begun(second)
    assert second.folder.is_dir()


def test_another_run_that_has_just_finished_is_told(tmp_path, monkeypatch):
    out = tmp_path / "out"
    # The folder vanishes between the moment when it is found and the one when its lock is opened.
    monkeypatch.setattr(Path, "mkdir", lambda self, **_: None)
    with pytest.raises(StageError, match="has just finished"), run_place(out):
        pass


# The moment when it appears -----------------------------------------------------------------------


@pytest.mark.parametrize("sync", [False, True])
def test_a_folder_appears_and_nothing_else_is_left(tmp_path, sync):
    out = tmp_path / "out"
    with run_place(out) as place:
        _begun(place, model=b"new", second=b"more")
        assert not out.exists()
        place.finish(overwrite=False, single=None, sync=sync)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        WEIGHTS: b"new",
        "second.safetensors": b"more",
    }
    assert list(tmp_path.iterdir()) == [out]


def test_a_single_file_appears_with_what_belongs_beside_it(tmp_path):
    out = tmp_path / "x.safetensors"
    with run_place(out) as place:
        _begun(place)
        (place.result / "x.conjoin.json").write_text("{}")
        place.finish(overwrite=False, single=WEIGHTS)
    assert out.read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.conjoin.json", "x.safetensors"]


def test_what_belongs_beside_a_file_is_there_before_it(tmp_path, monkeypatch):
    out = tmp_path / "x.safetensors"
    rename = Path.rename

    def watched(self, target):
        if target == out:
            assert (tmp_path / "x.conjoin.json").exists()
            seen.append(target)
        return rename(self, target)

    seen = []
    monkeypatch.setattr(Path, "rename", watched)
    with run_place(out) as place:
        _begun(place)
        (place.result / "x.conjoin.json").write_text("{}")
        place.finish(overwrite=False, single=WEIGHTS)
    assert seen == [out]


@pytest.mark.parametrize("old", ["folder", "file", "empty"])
@pytest.mark.parametrize("single", [None, WEIGHTS])
def test_an_old_result_is_replaced_whole(tmp_path, old, single):
    out = tmp_path / "out"
    if old == "file":
        out.write_bytes(b"old")
    else:
        out.mkdir()
        if old == "folder":
            (out / "model-00001-of-00002.safetensors").write_bytes(b"old shard")
            (out / "model.safetensors.index.json").write_bytes(b"old index")
    with run_place(out) as place:
        _begun(place)
        place.finish(overwrite=True, single=single)
    if single is None:
        assert [path.name for path in out.iterdir()] == [WEIGHTS]
    else:
        assert out.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("single", [None, WEIGHTS])
def test_what_has_appeared_meanwhile_is_not_replaced(tmp_path, single):
    out = tmp_path / "out"
    with run_place(out) as place:
        _begun(place)
        _result(out, b"of somebody else")
        with pytest.raises(OutputExistsError):
            place.finish(overwrite=False, single=single)
    assert (out / WEIGHTS).read_bytes() == b"of somebody else"
    assert (place.result / WEIGHTS).read_bytes() == b"new"  # nothing is lost


def test_small_files_of_a_run_that_was_killed_do_not_come_along(tmp_path):
    out = tmp_path / "out"
    with run_place(out) as place:
        _begun(place)
        (place.result / ".conjoin-1-abc.tmp").write_bytes(b"half a model card")
        place.finish(overwrite=False, single=None)
    assert [path.name for path in out.iterdir()] == [WEIGHTS]


def test_a_reader_never_finds_nothing_while_a_result_is_replaced(tmp_path):
    out = tmp_path / "out"
    contents = {bytes([65 + number]) * 1000 for number in range(30)}
    _result(out, min(contents))
    problems, seen, ended = [], set(), threading.Event()

    def read():
        while not ended.is_set():
            try:
                seen.add((out / WEIGHTS).read_bytes())
            except OSError as error:
                problems.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for content in sorted(contents):
            with run_place(out) as place:
                _begun(place, model=content)
                place.finish(overwrite=True, single=None, sync=False)
    finally:
        ended.set()
        reader.join()
    assert problems == []
    assert seen <= contents
    assert (out / WEIGHTS).read_bytes() == max(contents)


# A kill while it appears --------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for a kill: nothing of the run happens afterwards."""


def _cut_off(out, monkeypatch, where, *, overwrite, single):
    """Finish, and stop as if killed after the rename, before anything is cleaned up."""

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(f"conjoin.streaming.place.{where}", killed)
        with run_place(out) as place:
            _begun(place)
            with pytest.raises(Killed):
                place.finish(overwrite=overwrite, single=single, sync=False)
            (place.folder / "plan.json").write_text('{"hash": "h"}')  # not even that was removed


@pytest.mark.parametrize("single", [None, WEIGHTS])
def test_a_new_result_is_known_to_be_complete(tmp_path, monkeypatch, single):
    out = tmp_path / "out"
    _cut_off(out, monkeypatch, "_vanish", overwrite=False, single=single)
    with pytest.raises(OutputExistsError, match="is complete.*can be removed"):
        check_out(out, overwrite=False)


def test_what_was_replaced_is_not_taken_for_the_result(tmp_path, monkeypatch):
    # After the exchange the partial folder holds the old result, with a plan beside it.
    out = tmp_path / "out"
    _result(out)
    _cut_off(out, monkeypatch, "_vanish", overwrite=True, single=None)
    folder = partial_of(out)
    assert (out / WEIGHTS).read_bytes() == b"new"
    assert (folder / "result" / WEIGHTS).read_bytes() == b"old"
    with run_place(out) as place:
        assert place.plan() is None
    assert list(tmp_path.iterdir()) == [out]


def test_before_it_has_appeared_the_run_can_be_gone_on_with(tmp_path, monkeypatch):
    out = tmp_path / "out"
    _result(out)
    _cut_off(out, monkeypatch, "exchange", overwrite=True, single=None)
    assert (out / WEIGHTS).read_bytes() == b"old"
    assert json.loads((partial_of(out) / "appears.json").read_bytes())
    with run_place(out) as place:
        assert place.plan() == {"hash": "h"}
        place.finish(overwrite=True, single=None)
    assert (out / WEIGHTS).read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [out]


def test_a_disk_that_fails_at_the_end_leaves_all_that_was_done(tmp_path, monkeypatch):
    out = tmp_path / "out"

    def fails(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    with run_place(out) as place:
        _begun(place)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fails)
            with pytest.raises(OSError, match="Input/output"):
                place.finish(overwrite=False, single=None)
    assert not out.exists()
    with run_place(out) as place:
        assert place.plan() == {"hash": "h"}
        place.finish(overwrite=False, single=None)
    assert (out / WEIGHTS).read_bytes() == b"new"


def test_pipes_and_devices_are_never_replaced(tmp_path):
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    with pytest.raises(OutputExistsError):
        check_out(pipe, overwrite=False)
    with pytest.raises(InputError, match="a pipe or the like, which is never replaced"):
        check_out(pipe, overwrite=True)
    with pytest.raises(InputError, match="a device, a pipe"):
        save({"w": torch.zeros(2)}, pipe, overwrite=True)
    assert pipe.is_fifo()
