"""What a run has done, whatever the file has gone through since."""

import errno
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streaming_runs import some

from conjoin.streaming.journal import Done, Journal, read_journals

dones = st.builds(
    Done,
    st.integers(0, 10**6),
    st.text("0123456789abcdef", min_size=16, max_size=16),
    st.lists(st.none() | st.text("0123456789abcdef", max_size=16), max_size=3).map(tuple),
)


def _write(folder, found, rank=0):
    with Journal(folder, rank) as journal:
        for done in found:
            journal.write(done)


@some
@given(st.lists(st.lists(dones, max_size=5), max_size=4))
def test_what_was_written_is_read_from_all_journals(tmp_path_factory, runs):
    folder = tmp_path_factory.mktemp("journals")
    for rank, run in enumerate(runs):
        _write(folder, run, rank % 2)
    expected = {done.job: done for run in runs for done in run}
    found = read_journals(folder)
    assert found.keys() == expected.keys()
    assert all(done in [one for run in runs for one in run] for done in found.values())


def test_each_run_has_a_journal_of_its_own(tmp_path):
    for number in range(12):
        _write(tmp_path, [Done(number, "aa", ())])
    assert len(list(tmp_path.iterdir())) == 12
    assert list(read_journals(tmp_path)) != []
    assert read_journals(tmp_path).keys() == set(range(12))


@some
@given(st.integers(1, 60))
def test_a_torn_last_line_is_passed_over_and_the_next_run_is_not_appended_to_it(
    tmp_path_factory, cut
):
    folder = tmp_path_factory.mktemp("journals")
    _write(folder, [Done(0, "aa", (None, "b")), Done(1, "cc", ("d", "e"))])
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    last = len(whole) - whole[:-1].rindex(b"\n") - 1
    path.write_bytes(whole[: len(whole) - min(cut, last)])
    assert read_journals(folder) == {0: Done(0, "aa", (None, "b"))}
    _write(folder, [Done(2, "ee", ())])
    assert read_journals(folder).keys() == {0, 2}


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\0" * 100,
        b"\xff\xfe",
        b"{",
        b"null",
        b"3",
        b"[1, 2]",
        b"[" * 100_000,
        b"9" * 10_000,
        b'{"job": 1}',
        b'{"job": true, "out": "aa", "inputs": []}',
        b'{"job": 1.0, "out": "aa", "inputs": []}',
        b'{"job": 1, "out": 5, "inputs": []}',
        b'{"job": 1, "out": "aa", "inputs": "ab"}',
        b'{"job": 1, "out": "aa", "inputs": [5]}',
        b'{"job": 1, "out": "aa", "inputs": [["a"]]}',
        b'{"job": "1", "out": "aa", "inputs": []}',
    ],
)
def test_lines_that_say_nothing_are_passed_over(tmp_path, garbage):
    good = json.dumps({"job": 7, "out": "aa", "inputs": ["b", None]}).encode()
    (tmp_path / "journal-0-0.jsonl").write_bytes(garbage + b"\n" + good + b"\n" + garbage + b"\n")
    assert read_journals(tmp_path) == {7: Done(7, "aa", ("b", None))}


def test_a_line_that_the_disk_takes_in_parts_is_whole(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    _write(tmp_path, [Done(0, "aa", ()), Done(1, "bb", ("c",))])
    monkeypatch.undo()
    assert read_journals(tmp_path) == {0: Done(0, "aa", ()), 1: Done(1, "bb", ("c",))}


def test_a_line_for_which_there_is_no_room_is_an_error(tmp_path, monkeypatch):
    write, room = os.write, [10]

    def full(descriptor, data):
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = write(descriptor, data[: room[0]])
        room[0] -= count
        return count

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        _write(tmp_path, [Done(0, "aa", ())])
    monkeypatch.undo()
    assert read_journals(tmp_path) == {}


def test_a_folder_without_journals(tmp_path):
    (tmp_path / "plan.json").write_text("{}")
    assert read_journals(tmp_path) == {}
