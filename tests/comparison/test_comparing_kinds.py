"""Networks, data and files of all kinds can be compared."""

import pytest
import torch
from torch import nn

import conjoin
from conjoin.comparison.rows import BEST_PARENT
from conjoin.modules import MultiHead
from conjoin.report.table import markdown_table

REESTIMATED = "mean + re-estimated statistics"
WEIGHTED = "weighted mean (chosen on validation data)"
THREAD = "the thread's code: sum, buffers left fresh"
ENSEMBLE = "ensemble of outputs"


def test_three_models(tiny, reasons):
    models = {name: tiny.network(seed) for seed, name in enumerate("xyz")}
    run = tiny.compare(models)
    assert WEIGHTED in reasons(run)
    assert run.view("plane")
    lines = {(r.how["from"], r.how["to"]) for r in run.view("interpolation")}
    assert lines == {("x", "y"), ("x", "z"), ("y", "z")}
    (ensemble,) = [row for row in run.info.rows if row.name == ENSEMBLE]
    assert ensemble.networks == 3


def test_without_batchnorm_or_training_part(tiny, reasons):
    run = tiny.compare([tiny.network(0, norm=False), tiny.network(1, norm=False)])
    assert "no BatchNorm" in reasons(run)[THREAD]
    assert "no BatchNorm" in reasons(run)[REESTIMATED]
    assert not any(record.how.get("reestimated") for record in run.records)
    data = tiny.parts()
    del data["train"]
    run = tiny.compare(data=data, out="other")
    assert "task has no training part" in reasons(run)[REESTIMATED]
    assert not any(record.how.get("reestimated") for record in run.records)
    assert run.tasks["task"].counts == {"validation": 21, "test": 24}


class Pair(nn.Module):
    """Of two inputs."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.left, self.right = nn.Linear(4, 5), nn.Linear(2, 5)
        self.out = nn.Linear(5, 3)

    def forward(self, x, z):
        return self.out(torch.relu(self.left(self.norm(x)) + self.right(z)))


@pytest.mark.parametrize("kind", ["tuple", "mapping"])
def test_several_inputs(tiny, kind, value_of):
    def given(seed, count):
        x, labels = tiny.examples(count, seed)
        return ((x, x[:, :2]) if kind == "tuple" else {"z": x[:, :2], "x": x}), labels

    torch.manual_seed(0)
    models = [Pair().eval(), Pair().eval()]
    data = {"train": [given(0, 16)] * 2, "validation": given(1, 21), "test": given(2, 24)}
    unseen = {**data, "test": given(3, 24), "trained_on": False}
    run = tiny.compare(models, {"seen": data, "other": unseen})
    expected = conjoin.evaluate({"m": conjoin.merge(models)}, {"seen": data["test"]})
    assert value_of(run, "mean")["seen"] == expected[0].value
    assert REESTIMATED in {row.name for row in run.info.rows}
    assert run.view("transfer")
    assert any(record.how.get("reestimated") for record in run.view("activations"))


def test_regression(tiny, value_of):
    def given(seed, count):
        x, _ = tiny.examples(count, seed)
        return x, x.sum(1, keepdim=True)

    models = [tiny.network(0, outputs=1), tiny.network(1, outputs=1)]
    data = {part: given(seed, 24) for seed, part in enumerate(("train", "validation", "test"))}
    run = tiny.compare(models, {"sum": data, "new": {**data, "trained_on": False}})
    assert {record.metric for record in run.view("row")} == {"loss"}
    assert not any("accuracy" in record.metric for record in run.records)
    assert [task.metric for task in run.info.tasks] == ["loss", "loss"]
    assert "loss" in {record.metric for record in run.view("transfer")}
    own = run.info.specialists["sum"]
    found = {r.model: r.value for r in run.view("specialist") if r.task == "sum"}
    assert own == f"models: {min(found, key=found.get)} alone"
    best = [value_of(run, BEST_PARENT, "loss", part)["sum"] for part in ("validation", "test")]
    assert best[0] == min(found.values())
    for interval in run.intervals:
        assert interval.metric == "loss"
    assert "%" not in markdown_table(run)


def test_without_batchnorm_the_mean_is_the_merged_start(tiny):
    new = {**tiny.parts(50), "trained_on": False}
    models = [tiny.network(seed, norm=False) for seed in (0, 1)]
    run = tiny.compare(models, {"seen": tiny.parts(), "new": new})
    assert {r.how["start"] for r in run.view("transfer")} == {"a alone", "b alone", "mean"}


def test_a_network_of_several_heads_as_reference(tiny, value_of):
    trunk = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
    both = MultiHead(trunk, {"x": nn.Linear(5, 3), "y": nn.Linear(5, 3)})
    data = {"x": tiny.parts(0), "y": tiny.parts(5), "z": {**tiny.parts(9), "trained_on": False}}
    run = tiny.compare(data=data, references={"shared trunk": both})
    expected = conjoin.evaluate(
        {"m": {name: both.for_task(name) for name in "xy"}},
        {name: data[name]["test"] for name in "xy"},
    )
    assert value_of(run, "shared trunk") == {
        r.task: r.value for r in expected if r.metric == "accuracy"
    }
    assert run.rows["references: shared trunk"].uses_task_label


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(tiny, dtype):
    def cast(data):
        return {part: (x.to(dtype), y) for part, (x, y) in data.items()}

    models = [tiny.network(seed).to(dtype) for seed in (0, 1)]
    run = tiny.compare(models, cast(tiny.parts()))
    saved = conjoin.open_checkpoint(run.folder / "checkpoints/seed-0/models-mean.safetensors")
    assert saved["0.weight"].dtype == dtype


def test_files_alone(tiny, tmp_path, reasons):
    paths = [conjoin.save(tiny.network(i), tmp_path / f"{n}.pth") for i, n in enumerate("ab")]
    run = conjoin.compare(paths, out=tmp_path / "run")
    assert {record.metric for record in run.records} == {"relative distance", "cosine"}
    assert "--model" in reasons(run)["rows and curves"]
    saved = conjoin.open_checkpoint(tmp_path / "run/checkpoints/mean.safetensors")
    merged = conjoin.merge(paths)
    assert all(torch.equal(saved[name], merged[name]) for name in merged)
    assert run.info.hashes.keys() == {"a", "b"}


def test_folders_are_as_good_as_files(tiny, tmp_path):
    files, folders = [], []
    for number, name in enumerate(("v1.5", "v1.6")):
        (tmp_path / name).mkdir()
        files.append(conjoin.save(tiny.network(number), tmp_path / f"{name}.pth"))
        conjoin.save(tiny.network(number), tmp_path / name / "model.safetensors")
        folders.append(tmp_path / name)
    of_files = conjoin.compare(files, out=tmp_path / "files")
    of_folders = conjoin.compare(folders, out=tmp_path / "folders")
    assert [record.value for record in of_folders.records] == [r.value for r in of_files.records]
    assert list(of_folders.info.hashes) == ["v1.5", "v1.6"]
    run = tiny.compare(folders, model=lambda: tiny.network(5))
    by_module = tiny.compare([tiny.network(0), tiny.network(1)], out=tmp_path / "modules")
    assert [r.value for r in run.view("row")] == [r.value for r in by_module.view("row")]


def test_a_folder_is_known_by_what_its_weights_are(tiny, tmp_path):
    (tmp_path / "a").mkdir()
    conjoin.save(tiny.network(0), tmp_path / "a/model.safetensors")
    other = conjoin.save(tiny.network(1), tmp_path / "b.pth")
    hashes = [conjoin.compare([tmp_path / "a", other], out=tmp_path / "run").info.hashes]
    (tmp_path / "a/README.md").write_text("nothing that counts", encoding="utf-8")
    hashes.append(conjoin.compare([tmp_path / "a", other], out=tmp_path / "run").info.hashes)
    conjoin.save(tiny.network(2), tmp_path / "a/model.safetensors", overwrite=True)
    hashes.append(conjoin.compare([tmp_path / "a", other], out=tmp_path / "run").info.hashes)
    assert hashes[0] == hashes[1] != hashes[2]
    assert hashes[0]["b"] == hashes[2]["b"]


def test_files_alone_after_a_run_with_networks(tiny, tmp_path):
    paths = [conjoin.save(tiny.network(i), tmp_path / f"{n}.pth") for i, n in enumerate("ab")]
    tiny.compare(paths, model=lambda: tiny.network(5))
    run = conjoin.compare(paths, out=tmp_path / "run")
    assert run.costs == ()
    table = (run.folder / "table.md").read_text(encoding="utf-8")
    assert table.startswith("Distances between the weights")
    assert "Accuracy" not in table
