"""Whole comparisons of tiny networks, in this process."""

import csv
import gc
import json
import random
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import conjoin
from conjoin.comparison.aligned_rows import ALIGNED_ROWS
from conjoin.comparison.rows import BEST_PARENT, SHUFFLED
from conjoin.records import read_results
from conjoin.report.table import markdown_table

REESTIMATED = "mean + re-estimated statistics"
WEIGHTED = "weighted mean (chosen on validation data)"
ALIGNED = [row.name for row in ALIGNED_ROWS]
THREAD = "the thread's code: sum, buffers left fresh"
ENSEMBLE = "ensemble of outputs"


def _in_other_order(network, examples):
    found = conjoin.find_symmetries(network, examples)
    return found.sample(torch.Generator().manual_seed(0)).apply(network)


def _specialists(models, data):
    """The best network of each task on its validation part."""
    found = {}
    for task, spec in data.items():
        inputs, labels = spec["validation"]
        right = {name: (net(inputs).argmax(1) == labels).sum() for name, net in models.items()}
        found[task] = models[max(right, key=right.get)]
    return found


def test_rows_are_what_they_say(tiny, value_of):
    models = {"first": tiny.network(0), "second": tiny.network(1)}
    data = {"x": tiny.parts(0), "y": tiny.parts(10)}
    run = tiny.compare(models, data)
    names = [row.name for row in run.info.rows]
    expected = ["first alone", "second alone", BEST_PARENT, ENSEMBLE, THREAD, "sum", "mean"]
    assert names == [*expected, REESTIMATED, WEIGHTED, *ALIGNED, SHUFFLED]
    test = {task: spec["test"] for task, spec in data.items()}
    both = list(models.values())
    direct = {
        "first alone": both[0],
        "second alone": both[1],
        ENSEMBLE: both,
        "sum": conjoin.merge(both, "sum"),
        "mean": conjoin.merge(both),
        REESTIMATED: conjoin.reestimate_batchnorm(
            conjoin.merge(both), *([spec["train"]] for spec in data.values())
        ),
        SHUFFLED: {
            task: conjoin.reestimate_batchnorm(
                conjoin.merge([own, _in_other_order(own, data[task]["validation"][0][:8])]),
                [data[task]["train"]],
            )
            for task, own in _specialists(models, data).items()
        },
    }
    told = {row.name for row in run.info.rows if row.uses_task_label}
    assert told == {SHUFFLED, *ALIGNED[-3:-1]}
    for metric in ("accuracy", "loss"):
        for name, predictor in direct.items():
            found = conjoin.evaluate({name: predictor}, test)
            assert value_of(run, name, metric) == {
                record.task: record.value for record in found if record.metric == metric
            }
    parents = [value_of(run, name, "loss") for name in ("first alone", "second alone")]
    assert value_of(run, BEST_PARENT, "loss") in parents


def test_choices_are_made_on_validation_data(tiny, value_of):
    """The network that is best on validation data is the worse one on test data."""
    one, other = tiny.network(0, norm=False), tiny.network(1, norm=False)
    data = tiny.parts()
    for part, right in (("validation", one), ("test", other)):
        x = data[part][0]
        data[part] = x, right(x).argmax(1)
    run = tiny.compare({"one": one, "other": other}, data)
    assert value_of(run, BEST_PARENT) == value_of(run, "one alone")
    assert value_of(run, "other alone") == {"task": 100}
    assert run.info.specialists == {"task": "models: one alone"}
    assert value_of(run, WEIGHTED, split="validation")["task"] == 100


def test_differences_have_the_right_sign(tiny, value_of):
    run = tiny.compare()
    own = run.info.specialists["task"]
    for row in run.info.rows:
        interval = run.interval(row.key, own, "task", "accuracy")
        if row.key == own:
            assert interval is None
            continue
        expected = value_of(run, row.name)["task"] - value_of(run, run.rows[own].name)["task"]
        assert interval.value == pytest.approx(expected)
        assert interval.low <= interval.value <= interval.high
        mean = run.interval(row.key, "models: mean", "task", "accuracy")
        assert (mean is None) == (row.name == "mean")


def test_curves_end_in_the_rows(tiny, value_of):
    """All test examples are used here: the ends are the parents, and t = 1/2 is the mean."""
    run = tiny.compare(settings=replace(tiny.settings, curve_examples=1000))
    line = {
        (r.how["t"], r.how["reestimated"]): r.value
        for r in run.view("interpolation")
        if r.metric == "loss"
    }
    for t, row in ((0.0, "a alone"), (0.5, "mean"), (1.0, "b alone")):
        assert line[t, False] == pytest.approx(value_of(run, row, "loss")["task"], rel=1e-5)
    assert line[0.5, True] == pytest.approx(value_of(run, REESTIMATED, "loss")["task"], rel=1e-5)
    views = {record.how["view"] for record in run.records}
    assert views == {
        *("row", "specialist", "interpolation", "barrier"),
        *("depth", "activations", "distances", "alignment"),
    }


def test_curves_of_sorted_data_see_every_class(tiny):
    """One class is answered rightly, and it is a third of the test part: also of a part of it."""

    class First(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 0 + torch.tensor([1.0, 0, 0])

    x, y = tiny.examples(60, 0)
    data = {**tiny.parts(), "test": (x, y.sort().values)}
    run = tiny.compare([First(4, 3), First(4, 3)], data)
    line = [r for r in run.view("interpolation") if r.metric == "accuracy"]
    assert {r.count for r in line} == {20}
    assert all(30 <= r.value <= 40 for r in line)


def test_files_of_the_folder(tiny):
    run = tiny.compare()
    results = read_results(run.folder / "results.json")
    assert results.records == run.records
    with (run.folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["value"]) for row in rows] == [r.value for r in run.records]
    costs = json.loads((run.folder / "costs.json").read_text())
    assert [cost["row"] for cost in costs["rows"]] == [row.key for row in run.info.rows]
    parameters = sum(p.numel() for p in tiny.network(0).parameters())
    for cost in run.costs:
        assert cost.make_seconds >= 0
        assert cost.test_seconds > 0
        assert cost.peak_bytes is None or cost.peak_bytes >= 0
        assert cost.parameters == parameters * (2 if ENSEMBLE in cost.row else 1)
    models = [tiny.network(0), tiny.network(1)]
    saved = conjoin.open_checkpoint(run.folder / "checkpoints/seed-0/models-mean.safetensors")
    merged = conjoin.merge(models).state_dict()
    assert saved.keys() == merged.keys()
    assert all(torch.equal(saved[name], merged[name]) for name in merged)
    assert (run.folder / "table.md").read_text() == markdown_table(run)


def test_an_unseen_task(tiny, value_of):
    new = {**tiny.parts(50), "trained_on": False}
    run = tiny.compare(data={"seen": tiny.parts(), "new": new}, model=lambda: tiny.network(9))
    assert run.tasks["new"].trained_on is False
    assert "new" not in run.info.specialists
    assert all("new" in value_of(run, row.name) for row in run.info.rows)
    assert {r.split for r in run.view("row") if r.task == "new"} == {"test"}
    starts = {record.how["start"] for record in run.view("transfer")}
    assert starts == {"a alone", "b alone", REESTIMATED, "a new network, never trained"}
    # No label: the row itself.
    zero = {
        record.how["start"]: record.value
        for record in run.view("transfer")
        if record.how["labels"] == 0 and record.metric == "accuracy"
    }
    assert zero["a alone"] == value_of(run, "a alone")["new"]
    found = [i for i in run.intervals if i.task == "new"]
    assert {i.against for i in found if i.model in run.rows} == {
        f"models: {BEST_PARENT}",
        f"models: {ENSEMBLE}",
        "models: mean",
    }
    # The merged start against every other one, with as many labels.
    tuned = {
        (record.how["start"], record.how["labels"]): record.value
        for record in run.view("transfer")
        if record.metric == "accuracy"
    }
    pairs = {(i.model, i.against): i.value for i in found if i.model not in run.rows}
    assert pairs == {
        (f"transfer: {REESTIMATED} at {n} labels", f"transfer: {start} at {n} labels"):
            pytest.approx(tuned[REESTIMATED, n] - tuned[start, n])
        for start in starts - {REESTIMATED} for n in (0, 6)
    }  # fmt: skip


def test_what_was_chosen_is_recorded_and_is_what_was_made(tiny):
    models = [tiny.network(0), tiny.network(1)]
    data = tiny.parts()
    run = tiny.compare(models, data)
    chosen = {r.how["row"]: r.how["chosen"] for r in run.view("row") if "chosen" in r.how}
    assert {BEST_PARENT, "weighted mean (chosen on validation data)"} <= set(chosen)
    assert chosen[BEST_PARENT]["network"] in ("a", "b")
    share = chosen["weighted mean (chosen on validation data)"]
    assert share["of"] == "b"
    scores = {}
    for tenth in range(1, 10):
        mean = conjoin.merge(models, "linear", weights=[1 - tenth / 10, tenth / 10])
        mean = conjoin.reestimate_batchnorm(mean, data["train"])
        found = conjoin.evaluate({"m": mean}, {"t": data["validation"]})
        scores[tenth / 10] = found[0].value
    assert scores[share["share"]] == max(scores.values())
    folder = run.folder / "checkpoints" / "seed-0"
    kept = conjoin.open_checkpoint(
        folder / "models-weighted-mean-chosen-on-validation-data.safetensors"
    )
    step = (kept["0.weight"] - models[0][0].weight.detach()).flatten()
    whole = (models[1][0].weight - models[0][0].weight).detach().flatten()
    assert float(step @ whole / (whole @ whole)) == pytest.approx(share["share"], abs=1e-4)


def test_distances_are_of_layers_that_have_a_matrix(tiny):
    run = tiny.compare()
    found = {r.how["layer"]: r for r in run.view("distances") if r.metric == "relative distance"}
    assert list(found) == ["0", "3"]  # "1" is BatchNorm
    a, b = tiny.network(0), tiny.network(1)
    flat = [torch.cat([p.detach().flatten() for p in net[0].parameters()]) for net in (a, b)]
    assert found["0"].value == pytest.approx(float((flat[0] - flat[1]).norm() / flat[0].norm()))


def test_an_unseen_task_without_training_part(tiny, value_of, reasons):
    new = {"test": tiny.examples(12, 50), "trained_on": False}
    run = tiny.compare(data={"seen": tiny.parts(), "new": new})
    assert "new has no train and no validation part" in reasons(run)["transfer"]
    assert not run.view("transfer")
    assert "new" in value_of(run, "mean")


def test_seeds(tiny):
    repeats = [[tiny.network(2), tiny.network(3)]]
    references = {"all data": tiny.network(7)}
    run = tiny.compare(repeats=repeats, references=references)
    assert run.info.seeds == [0, 1]
    for row in run.info.rows:
        found = [r for r in run.view("row") if r.model == row.key and r.split == "test"]
        assert {r.seed for r in found} == {0, 1}
    assert {interval.seeds for interval in run.intervals} == {2}
    # Two seeds make for wide intervals, but no difference is larger than 100 points.
    ends = [end for interval in run.intervals for end in (interval.low, interval.high)]
    assert max(map(abs, ends)) == 100
    assert "±" in markdown_table(run)
    assert [row.key for row in run.info.rows if row.kind == "reference"] == [
        f"models: {BEST_PARENT}",
        "references: all data",
    ]
    second = conjoin.open_checkpoint(run.folder / "checkpoints/seed-1/models-mean.safetensors")
    assert torch.equal(second["0.weight"], conjoin.merge(repeats[0]).state_dict()["0.weight"])


def test_the_callers_random_numbers(tiny):
    """Those of the caller go on as if nothing had been; those of the loader are drawn alike."""
    x, y = tiny.examples(30, 0)

    class Noisy(torch.utils.data.Dataset):
        def __len__(self):
            return 30

        def __getitem__(self, index):
            noise = torch.randn(4) + np.random.rand() + random.random()
            return x[index] + noise.float(), y[index]

    train = torch.utils.data.DataLoader(Noisy(), batch_size=7, shuffle=True)
    data = {**tiny.parts(), "train": train}

    class Dice(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = tiny.network(0)

        def forward(self, x):
            return self.net(x) + 0.1 * torch.rand(3)

    runs = []
    for out in ("one", "two"):
        before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
        runs.append(tiny.compare([Dice(), Dice()], data, out=out))
        assert torch.equal(before[0], torch.get_rng_state())
        assert (before[1] == np.random.get_state()[1]).all()
        assert before[2] == random.getstate()
        torch.rand(3), np.random.rand(), random.random()  # the next run begins elsewhere
    one, two = (run.folder / "results.json" for run in runs)
    assert one.read_bytes() == two.read_bytes()
    assert runs[0].tasks["task"].counts["train"] == 30


def test_a_shuffled_test_part_is_gone_through_in_one_order(tiny):
    data = tiny.parts()
    plain = tiny.compare(data=data)
    pairs = torch.utils.data.TensorDataset(*data["test"])
    shuffled = torch.utils.data.DataLoader(pairs, batch_size=5, shuffle=True)
    run = tiny.compare(data={**data, "test": shuffled}, out="shuffled")
    assert run.intervals
    for one, other in zip(run.view("row"), plain.view("row"), strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-5)


def test_networks_are_let_go(tiny):
    alive = weakref.WeakSet()

    class Counted(nn.Linear):
        def __init__(self):
            super().__init__(4, 3)
            alive.add(self)

        def __deepcopy__(self, memo):
            new = Counted()
            new.load_state_dict(self.state_dict())
            return new

    models = [Counted(), Counted()]
    most = 0

    def progress(title):
        def update(done, total):
            nonlocal most
            if done == total:
                gc.collect()
                most = max(most, len(alive))

        return update

    data = {"t": tiny.parts(), "u": {**tiny.parts(9), "trained_on": False}}
    run = tiny.compare(models, data, model=Counted, progress=progress)
    gc.collect()
    assert len(alive) == 2
    assert run.view("transfer")
    assert most <= 7
