"""Whole comparisons of tiny networks, in this process."""

import csv
import gc
import json
import math
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
from conjoin.errors import DataError, InputError, MismatchError, UserCodeError
from conjoin.modules import MultiHead
from conjoin.records import read_results
from conjoin.report.table import markdown_table

REESTIMATED = "mean + re-estimated statistics"
WEIGHTED = "weighted mean (chosen on validation data)"
ALIGNED = [row.name for row in ALIGNED_ROWS]
THREAD = "the thread's code: sum, buffers left fresh"
ENSEMBLE = "ensemble of outputs"


def reasons(run):
    return {skipped.name: skipped.reason for skipped in run.info.skipped}


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
    assert told == {SHUFFLED, ALIGNED[-1]}
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


def test_three_models(tiny):
    models = {name: tiny.network(seed) for seed, name in enumerate("xyz")}
    run = tiny.compare(models)
    assert WEIGHTED in reasons(run)
    assert run.view("plane")
    lines = {(r.how["from"], r.how["to"]) for r in run.view("interpolation")}
    assert lines == {("x", "y"), ("x", "z"), ("y", "z")}
    (ensemble,) = [row for row in run.info.rows if row.name == ENSEMBLE]
    assert ensemble.networks == 3


def test_without_batchnorm_or_training_part(tiny):
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


def test_without_batchnorm_the_mean_is_the_merged_start(tiny):
    new = {**tiny.parts(50), "trained_on": False}
    models = [tiny.network(seed, norm=False) for seed in (0, 1)]
    run = tiny.compare(models, {"seen": tiny.parts(), "new": new})
    assert {r.how["start"] for r in run.view("transfer")} == {"a alone", "b alone", "mean"}


def test_an_unseen_task_without_training_part(tiny, value_of):
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


def test_a_loader_in_another_order_each_time(tiny):
    """Its generator is its own, so that it cannot be set back."""
    data = tiny.parts()
    generator = torch.Generator().manual_seed(0)
    data["test"] = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*data["test"]), batch_size=5, shuffle=True,
        generator=generator,
    )  # fmt: skip
    with pytest.raises(DataError, match="another order each time.*shuffle=False"):
        tiny.compare(data=data)
    assert len(list(tiny.folder.glob("run/cache/row-*"))) == 2
    assert not (tiny.folder / "run/results.json").exists()


class Particular(nn.Module):
    """Does not take every number of examples."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 3)

    def forward(self, x):
        if len(x) > 5:
            raise ArithmeticError("too many")
        return self.net(x)


def test_a_network_that_raises_later(tiny):
    with pytest.raises(UserCodeError, match=r'(?s)raise ArithmeticError\("too many"\)') as caught:
        tiny.compare([Particular(), Particular()])
    assert "src/conjoin" not in str(caught.value)


class Vector(nn.Module):
    """Has no layer: its only parameter is its own."""

    def __init__(self, value):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([value, 1.0, -value]))

    def forward(self, x):
        return x[:, :3] * self.scale


def test_what_does_not_apply_says_why(tiny):
    run = tiny.compare([Vector(1.0), Vector(2.0)])
    skipped = reasons(run)
    assert "two" in skipped["loss surface"]
    assert skipped["transfer"].startswith("no data of a domain")
    shown = {record.how["view"] for record in run.records}
    assert {"row", "interpolation"} <= shown
    for view, title in (("activations", "activations"), ("depth", "layer by layer")):
        assert (view in shown) != (title in skipped)


def test_one_label_for_batchnorm(tiny):
    """It cannot be trained on one example: that view is left out, and the rest is there."""
    settings = replace(tiny.settings, labels=(1,))
    data = {"seen": tiny.parts(), "new": {**tiny.parts(9), "trained_on": False}}
    run = tiny.compare(data=data, settings=settings)
    assert "2 labels" in reasons(run)["transfer"]
    assert run.view("row")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"models": [nn.Linear(4, 3)]}, InputError, "only one is given"),
        ({"models": [nn.Linear(4, 3), nn.Linear(4, 2)]}, MismatchError, "not of one structure"),
        ({"device": "nowhere"}, InputError, "cannot run on the device 'nowhere'"),
        ({"repeats": [[nn.Linear(4, 3)]]}, InputError, "repetition 1 has 1 models"),
        ({"references": {"x": nn.Linear(4, 2)}}, DataError, "2 outputs"),
    ],
)
def test_what_cannot_be_compared(tiny, options, error, message):
    with pytest.raises(error, match=message):
        tiny.compare(**options)
    assert not (tiny.folder / "run/results.json").exists()


def test_models_without_data(tiny):
    with pytest.raises(InputError, match="data are needed"):
        conjoin.compare([tiny.network(0), tiny.network(1)], out=tiny.folder / "run")


@pytest.mark.parametrize(
    "changed",
    [{"points": 2}, {"statistics": 1}, {"labels": (-1,)}, {"samples": -1}, {"layers": 0}],
)
def test_settings_that_cannot_be_used(tiny, changed):
    with pytest.raises(InputError, match=next(iter(changed))):
        replace(tiny.settings, **changed)


def test_names_are_shown_and_not_obeyed(tiny):
    names = ["../../up", "<script>alert(1)</script>", "[red]x[/red]\n\x1b[2J", "Ω" * 200]
    tasks = ["a/b", "..", "|`*_"]
    models = {name: tiny.network(seed) for seed, name in enumerate(names)}
    run = tiny.compare(models, {task: tiny.parts(seed) for seed, task in enumerate(tasks)})
    assert run.info.groups[0].models == names
    assert list(run.tasks) == tasks
    assert {r.task for r in run.view("row")} == set(tasks)
    assert [path.name for path in tiny.folder.iterdir()] == ["run"]
    checkpoints = {path.name for path in (run.folder / "checkpoints/seed-0").iterdir()}
    assert "models-mean.safetensors" in checkpoints


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


def test_outputs_that_are_not_finite(tiny, value_of):
    huge = tiny.network(0)
    with torch.no_grad():
        huge[0].weight.mul_(1e30)
        huge[3].weight.mul_(1e30)
    other = tiny.network(1)
    data = {part: (x, other(x).argmax(1)) for part, (x, _) in tiny.parts().items()}
    run = tiny.compare([huge, other], data)
    assert math.isnan(value_of(run, "a alone", "loss")["task"])
    assert run.info.specialists == {"task": "models: b alone"}
    names = [row.name for row in run.info.rows]
    assert {WEIGHTED, SHUFFLED} <= set(names)
    assert math.isfinite(value_of(run, WEIGHTED, "loss")["task"])
    assert markdown_table(run)


def test_a_sum_beyond_floats_is_left_out(tiny):
    huge = tiny.network(0)
    with torch.no_grad():
        huge[0].weight.fill_(2e38)
    run = tiny.compare([huge, huge])
    assert "finite" in reasons(run)["sum"]
    assert "sum" not in {row.name for row in run.info.rows}
    assert "a alone" in {row.name for row in run.info.rows}
    assert not (run.folder / "checkpoints/seed-0/models-sum.safetensors").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(tiny, dtype):
    def cast(data):
        return {part: (x.to(dtype), y) for part, (x, y) in data.items()}

    models = [tiny.network(seed).to(dtype) for seed in (0, 1)]
    run = tiny.compare(models, cast(tiny.parts()))
    saved = conjoin.open_checkpoint(run.folder / "checkpoints/seed-0/models-mean.safetensors")
    assert saved["0.weight"].dtype == dtype


def test_files_alone(tiny, tmp_path):
    paths = [conjoin.save(tiny.network(i), tmp_path / f"{n}.pth") for i, n in enumerate("ab")]
    run = conjoin.compare(paths, out=tmp_path / "run")
    assert {record.metric for record in run.records} == {"relative distance", "cosine"}
    assert "--model" in reasons(run)["rows and curves"]
    saved = conjoin.open_checkpoint(tmp_path / "run/checkpoints/mean.safetensors")
    merged = conjoin.merge(paths)
    assert all(torch.equal(saved[name], merged[name]) for name in merged)
    assert run.info.hashes.keys() == {"a", "b"}


def test_files_alone_after_a_run_with_networks(tiny, tmp_path):
    paths = [conjoin.save(tiny.network(i), tmp_path / f"{n}.pth") for i, n in enumerate("ab")]
    tiny.compare(paths, model=lambda: tiny.network(5))
    run = conjoin.compare(paths, out=tmp_path / "run")
    assert run.costs == ()
    assert not (run.folder / "table.md").exists()
