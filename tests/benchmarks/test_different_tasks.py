"""The rows of different_tasks.py, on a small made-up run."""

import itertools
import json
import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from conjoin.errors import CheckpointError, DataError

pytestmark = pytest.mark.usefixtures("importable")


@pytest.fixture
def run(tmp_path):
    from conjoin.checkpoints import save
    from conjoin.experiments.digits.network import new_network

    settings = {"width": 1 / 32, "sources": ["a", "b"]}
    settings["counts"] = [{"train": 8, "validation": 4, "test": 6} for _ in "ab"]
    (tmp_path / "results.json").write_text(json.dumps({"run": {"settings": settings}}))
    for number, name in enumerate(("first", "second", "second-shared-start")):
        path = tmp_path / f"checkpoints/seed-0/{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(new_network(number, width=1 / 32), path)
    for number, (source, split) in enumerate(
        itertools.product("ab", ("train", "validation", "test"))
    ):
        folder = tmp_path / f"cache/images-{number}"
        folder.mkdir(parents=True)
        count = settings["counts"][0][split]
        seed = 0 if split == "train" else None
        described = {"source": source, "split": split, "count": count, "seed": seed}
        (folder / "stage.json").write_text(json.dumps({"settings": described}))
        images = torch.full((count, 1, 32, 32), 10 * number, dtype=torch.uint8)
        images[:, 0, :4, :4] = torch.randint(0, 255, (count, 4, 4), dtype=torch.uint8)
        labels = torch.arange(count)
        save({"images": images, "labels": labels}, folder / "images.safetensors")
    return tmp_path


@pytest.mark.slow
def test_all_rows(run, capsys, monkeypatch):
    import different_tasks

    rows = {  # the first of several ways, and two of ZipIt
        name: row if callable(row) else dict(itertools.islice(row.items(), 1 + (name == "ZipIt")))
        for name, row in different_tasks.ROWS.items()
    }
    rows["PLeaS"] = {"few steps": lambda *given: different_tasks.pleas(*given, steps=1)}
    monkeypatch.setattr(different_tasks, "ROWS", rows)
    assert different_tasks.main(["--run", str(run), "--seeds", "0", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["rows"]) == list(rows)
    for row in report["rows"].values():
        assert row["mean"] == pytest.approx(sum(row["accuracy"]) / 2)
        assert row["interval"][0] <= row["mean"] <= row["interval"][1]
    assert len(report["rows"]["ZipIt"]["tried"][0]) == 2
    lines = different_tasks.table(report).splitlines()
    assert any(line.startswith("mean + re-estimated") for line in lines)


def test_the_pair_is_that_of_the_run(run):
    import different_tasks

    pair = different_tasks.load(run, 0, images=3)
    assert [len(x) for x in pair.inputs] == [3, 3]
    # The second task's training images are the fourth that were written: grey 30.
    assert float(pair.inputs[1][0, 0, -1, -1]) == pytest.approx(30 / 127.5 - 1)
    shared = different_tasks.load(run, 0, images=3, shared=True)
    assert torch.equal(shared.networks[0].block_1[0].weight, pair.networks[0].block_1[0].weight)
    assert not torch.equal(shared.networks[1].block_1[0].weight, pair.networks[1].block_1[0].weight)
    with pytest.raises(CheckpointError, match="seed-1"):
        different_tasks.load(run, 1, images=3)
    shutil.copytree(run / "checkpoints/seed-0", run / "checkpoints/seed-1")
    with pytest.raises(DataError, match="no train images of 'a', 8 of seed 1"):
        different_tasks.load(run, 1, images=3)


def test_of_several_ways_the_best_on_validation_images_is_taken(run):
    import different_tasks

    class Says(nn.Module):
        def __init__(self, classes):
            super().__init__()
            self.classes = classes

        def forward(self, x):
            return F.one_hot(torch.tensor(self.classes), 10).float().repeat(len(x), 1)[: len(x)]

    # Labels are 0, 1, 2, 3 of four validation images, and 0 to 5 of six test images.
    ways = {
        "half right": lambda *_: Says([0, 1, 9, 9, 9, 9]),
        "all right": lambda *_: Says([0, 1, 2, 3, 9, 9]),
    }
    found = different_tasks.measure(ways, different_tasks.load(run, 0, images=3))
    assert found["chosen"] == "all right"
    assert found["tried"] == {"half right": 0.5, "all right": 1.0}
    assert [float(correct.mean()) for correct in found["correct"]] == [pytest.approx(4 / 6)] * 2


def test_unknown_rows_are_refused(run):
    import different_tasks

    with pytest.raises(SystemExit):
        different_tasks.main(["--run", str(run), "--only", "nothing"])
