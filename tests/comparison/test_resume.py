"""What is finished is kept: a run goes on, and measures again only what has changed."""

import errno
import json
import os
from dataclasses import replace

import pytest
import torch
from torch import nn

import conjoin.comparison.running
from conjoin.comparison.rows import BEST_PARENT
from conjoin.errors import StageError
from conjoin.stages import StageCache

ROWS = 14
RUNNING = {"interpolation", "depth", "activations", "alignment"}


def stages(folder):
    """What each finished stage is of -> when it was finished."""
    found = {}
    for path in folder.glob("cache/*[!l]/stage.json"):  # none that is .partial
        stage = json.loads(path.read_text())
        settings = stage["settings"]
        what = {
            "row": lambda s: s["row"].removeprefix("models: "),
            "view": lambda s: s["view"],
            "specialist": lambda s: f"validated {s['network']}",
            "transfer": lambda s: f"transfer {s['start']}",
        }[stage["name"]](settings)
        found[what, path.parent.name] = path.stat().st_mtime_ns
    return found


def remade(before, after):
    assert before.items() <= after.items(), "something was made again though it was there"
    return {what for what, _ in after.keys() - before.keys()}


def clone(data):
    return {part: tuple(t.clone() for t in pair) for part, pair in data.items()}


@pytest.fixture
def given(tiny):
    seen = clone(tiny.parts())
    new = {**clone(tiny.parts(50)), "trained_on": False}
    return [tiny.network(0), tiny.network(1)], {"seen": seen, "new": new}


def test_the_same_again(tiny, given):
    first = tiny.compare(*given)
    before, results = stages(first.folder), (first.folder / "results.json").read_bytes()
    checkpoints = {p: p.read_bytes() for p in first.folder.glob("checkpoints/*/*")}
    # 14 rows; 4 running views and distances; 2 networks on validation data; 3 starts.
    assert len(before) == ROWS + 5 + 2 + 3
    second = tiny.compare(*given)
    assert remade(before, stages(second.folder)) == set()
    assert (second.folder / "results.json").read_bytes() == results
    assert {p: p.read_bytes() for p in first.folder.glob("checkpoints/*/*")} == checkpoints
    assert second.costs == first.costs
    elsewhere = tiny.compare(*given, out="elsewhere")
    assert (elsewhere.folder / "results.json").read_bytes() == results


def _rows(names):
    return (
        {n for n in names if n.split()[0] not in ("validated", "transfer")}
        - RUNNING
        - {"distances"}
    )


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"points": 5}, {"interpolation", "alignment"}),
        ({"layers": 1}, {"depth", "alignment"}),
        ({"resolution": 5}, set()),
        ({"samples": 1}, set()),
        ({"curve_examples": 5}, RUNNING),
        ({"labels": (0, 3)}, {"transfer"}),
        ({"transfer_steps": 3}, {"transfer"}),
    ],
)
def test_a_changed_setting(tiny, given, changed, expected):
    run = tiny.compare(*given)
    before = stages(run.folder)
    tiny.compare(*given, settings=replace(tiny.settings, **changed), title="another title")
    again = remade(before, stages(run.folder))
    assert {"transfer" if what.startswith("transfer") else what for what in again} == expected


def test_changed_data(tiny, given):
    models, data = given
    run = tiny.compare(models, data)
    before = stages(run.folder)
    everything = {what for what, _ in before}
    rows = _rows(everything)
    assert len(rows) == ROWS

    data["seen"]["test"][0][0, 0] += 1
    tiny.compare(models, data)
    after = stages(run.folder)
    # Starts of transfer that are made of the rows' training part are made again with them.
    assert remade(before, after) - {"transfer mean + re-estimated statistics"} == rows | RUNNING

    data["seen"]["validation"][1][0] = 2
    tiny.compare(models, data)
    changed = remade(after, stages(run.folder))
    assert changed >= rows | {"validated a", "validated b"}
    assert "distances" not in changed

    after = stages(run.folder)
    data["new"]["train"][0][0, 0] += 1
    tiny.compare(models, data)
    changed = remade(after, stages(run.folder))
    assert not changed & {*rows, *RUNNING}
    assert len(changed) == 3


def test_changed_weights(tiny, given):
    models, data = given
    run = tiny.compare(models, data)
    before = stages(run.folder)
    with torch.no_grad():
        models[1][0].bias[0] += 1
    tiny.compare(models, data)
    kept = {"validated a", "transfer a alone"}
    assert remade(before, stages(run.folder)) == {what for what, _ in before} - kept


def test_the_order_of_models(tiny, given):
    models, data = given
    run = tiny.compare({"a": models[0], "b": models[1]}, data)
    before = stages(run.folder)
    other = tiny.compare({"b": models[1], "a": models[0]}, data)
    made = remade(before, stages(run.folder))
    assert made >= _rows({what for what, _ in before}) | {"interpolation", "distances"}
    assert [row.name for row in other.info.rows][:2] == ["b alone", "a alone"]
    assert {record.how["from"] for record in other.view("interpolation")} == {"b"}


def test_the_order_of_tasks(tiny, given):
    models, data = given
    tasks = {"x": data["seen"], "y": tiny.parts(9)}
    before = stages(tiny.compare(models, tasks).folder)
    other = tiny.compare(models, dict(reversed(tasks.items())))
    assert remade(before, stages(other.folder)) >= _rows({what for what, _ in before})
    found = [record.task for record in other.view("row") if record.how["row"] == "mean"]
    assert found[0] == "y"


def _stopping(after, error):
    """Progress that raises at its n-th call."""
    calls = 0

    def progress(title):
        def update(done, total):
            nonlocal calls
            calls += 1
            if calls == after:
                raise error

        return update

    return progress


class Dice(nn.Module):
    """Draws random numbers though it is in eval mode."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x) + torch.rand(3)


def test_interrupted_at_many_moments(tiny, given):
    given = [Dice(net) for net in given[0]], given[1]
    expected = (tiny.compare(*given, out="whole").folder / "results.json").read_bytes()
    folder, interrupted = tiny.folder / "run", 0
    for after in (1, 6, 9, 15, 17, 23, 1000):
        before = stages(folder)
        try:
            tiny.compare(*given, progress=_stopping(after, KeyboardInterrupt()))
        except KeyboardInterrupt:
            interrupted += 1
            assert not (folder / "results.json").exists()
        remade(before, stages(folder))
    assert interrupted >= 4
    assert (folder / "results.json").read_bytes() == expected


@pytest.mark.parametrize("at", [1, 40, "results.json"])
def test_a_full_disk(tiny, given, monkeypatch, at):
    run = tiny.compare(*given)
    earlier = (run.folder / "results.json").read_bytes()
    settings = replace(tiny.settings, statistics=20)
    calls, real = 0, os.fsync

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fsync(descriptor):
        nonlocal calls
        calls += 1
        return full() if calls >= at else real(descriptor)

    with monkeypatch.context() as patch:
        if at == "results.json":
            patch.setattr(conjoin.comparison.running, "write_json", full)
        else:
            patch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="No space left"):
            tiny.compare(*given, settings=settings)
    assert (run.folder / "results.json").read_bytes() == earlier
    assert not list(run.folder.glob(".conjoin-*"))
    before = stages(run.folder)
    again = tiny.compare(*given, settings=settings)
    made = remade(before, stages(run.folder))
    assert (made == set()) == (at == "results.json")
    whole = tiny.compare(*given, settings=settings, out="whole")
    assert [r.value for r in again.records] == pytest.approx(
        [r.value for r in whole.records], nan_ok=True, abs=0
    )


def test_a_folder_in_use(tiny, given):
    held = StageCache(tiny.folder / "run" / "cache").locked()
    with held, pytest.raises(StageError, match="another run is using"):
        tiny.compare(*given)
    assert tiny.compare(*given).records


def test_a_damaged_stage_is_made_again(tiny, given):
    run = tiny.compare(*given)
    results = (run.folder / "results.json").read_bytes()
    (path,) = [
        path.parent / "records.json"
        for path in run.folder.glob("cache/row-*/stage.json")
        if json.loads(path.read_text())["settings"]["row"].endswith(BEST_PARENT)
    ]
    path.write_bytes(path.read_bytes()[:-10])
    notices = []
    tiny.compare(*given, notice=notices.append)
    assert len(notices) == 1
    assert "is damaged" in notices[0]
    assert (run.folder / "results.json").read_bytes() == results


def test_checkpoints_of_rows_that_are_left_out_now(tiny, given):
    models, data = given
    run = tiny.compare(models, data)
    folder = run.folder / "checkpoints" / "seed-0"
    name = "models-mean-re-estimated-statistics.safetensors"
    own = folder / "mine.safetensors"
    own.write_bytes(b"")
    assert (folder / name).exists()
    del data["seen"]["train"]
    tiny.compare(models, data)
    assert not (folder / name).exists()
    assert own.exists()
