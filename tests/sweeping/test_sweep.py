"""`conjoin.continuum` on networks that train in moments."""

import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import conjoin
from conjoin.comparison import Settings
from conjoin.coupling.training import Learner, Recipe, mixed_seed, train_models
from conjoin.errors import DataError, InputError, TrainingError
from conjoin.evaluation import outcomes
from conjoin.merging import merge
from conjoin.repairing import reestimate_batchnorm

FEW = Settings(statistics=100, labels=(0, 10), transfer_steps=3, samples=0)
TASKS = ("plain", "turned")
MARKS = {"plain": 0.0, "turned": 1.0, "unseen": 0.5}


def _part(count, task, seed):
    """Points in a plane; the label is on which side of an axis they lie; the third value tells."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, generator=generator)
    x[:, 2] = MARKS[task]
    return x, (x[:, 0 if task != "turned" else 1] > 0).long()


def _data():
    data = {
        task: {
            part: _part(count, task, 10 * number + place)
            for place, (part, count) in enumerate(
                {"train": 200, "validation": 100, "test": 150}.items()
            )
        }
        for number, task in enumerate(MARKS)
    }
    data["unseen"]["trained_on"] = False
    return data


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1))
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        return self.head(self.body(x))


OPTIONS = {
    "epochs": 6, "heads": ["head.*"], "strengths": [0, 1, math.inf],
    "profiles": ["uniform", "trunk"], "batch_size": 20, "settings": FEW, "seeds": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return conjoin.continuum(Net, _data(), out=tmp_path_factory.mktemp("runs") / "run", **OPTIONS)


def _accuracy(run, what, task, seed=0, part="test"):
    return next(
        r.value
        for r in run.view("continuum")
        if (r.model, r.task, r.seed) == (": ".join(what), task, seed)
        and (r.split, r.metric) == (part, "accuracy")
    )


def test_every_point_is_measured_on_every_task_for_every_seed(run):
    found = {
        (r.model, r.task, r.split, r.seed) for r in run.view("continuum") if r.metric == "accuracy"
    }
    points = ["uniform 0", "uniform 1", "uniform inf", "trunk 1", "trunk inf"]
    expected = {
        (f"{point}: {what}", task, part, seed)
        for point in points
        for what in ("specialists", "one network", "heads")
        for task in (*TASKS, *(["unseen"] if what == "one network" else []))
        for part in (("validation", "test") if task != "unseen" else ("test",))
        for seed in (0, 1)
    }
    assert found == expected
    label = {r.how["what"]: r.how["uses_task_label"] for r in run.view("continuum")}
    assert label == {"specialists": True, "one network": False, "heads": True}


def test_the_numbers_are_those_of_the_networks(run, tmp_path):
    """An independent training of one point, measured by hand, gives the same numbers."""
    data = _data()
    torch.manual_seed(0)
    learners = {}
    for number, task in enumerate(TASKS):
        x, y = data[task]["train"]

        def batches(epoch, x=x, y=y):
            order = torch.randperm(len(y))
            for start in range(0, len(y) - 19, 20):
                rows = order[start : start + 20]
                yield x[rows], y[rows]

        def loss(module, batch):
            return nn.functional.cross_entropy(module(batch[0]), batch[1])

        torch.manual_seed(0)
        learners[task] = Learner(Net(), batches, loss, mixed_seed(0, number))
    recipe = Recipe(
        6,
        10,
        lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4),
        lambda o, total: torch.optim.lr_scheduler.OneCycleLR(
            o, 0.05, total_steps=total, cycle_momentum=False
        ),
        5.0,
    )
    trained = train_models(learners, recipe, strength=1.0)
    one = merge(list(trained.modules.values()))
    one = reestimate_batchnorm(
        one, *[(data[t]["train"][0][:100], data[t]["train"][1][:100]) for t in TASKS]
    )
    for task in TASKS:
        own = outcomes(trained.modules[task], data[task]["test"], task).metrics()["accuracy"]
        assert own == _accuracy(run, ("uniform 1", "specialists"), task)
        merged = outcomes(one, data[task]["test"], task).metrics()["accuracy"]
        # The statistics are those of the same examples, perhaps in another order.
        assert merged == pytest.approx(_accuracy(run, ("uniform 1", "one network"), task), abs=1.0)


def test_coupling_closes_the_gap(run):
    last = {}
    for record in run.view("gap"):
        if record.how["step"] == record.how["steps"]:
            point = f"{record.how['profile']} {record.how['strength']}"
            last.setdefault(point, {}).setdefault(record.how["layer"], []).append(record.value)
    assert max(last["uniform inf"]["body.0"]) == max(last["uniform inf"]["head"]) == 0.0
    assert max(last["trunk inf"]["body.0"]) == 0.0 < min(last["trunk inf"]["head"])
    assert max(last["uniform 1"]["body.0"]) < min(last["uniform 0"]["body.0"])


def test_the_choice_is_the_best_on_validation_data(run):
    chosen = run.info.continuum.chosen
    points = ["uniform 0", "uniform 1", "uniform inf", "trunk 1", "trunk inf"]
    scores = {
        point: sum(
            _accuracy(run, (point, "one network"), task, seed, "validation")
            for task in TASKS
            for seed in (0, 1)
        )
        for point in points
    }
    assert f"{chosen.profile} {chosen.strength}" == max(scores, key=lambda p: scores[p])
    assert chosen.trainings is None


def test_differences_are_paired_with_the_references(run):
    references = run.info.continuum.references
    assert references == {
        "independent": "uniform 0: specialists",
        "two-headed": "trunk inf: heads",
        "all data": "references: one network on all data",
    }
    for other in references.values():
        for task in TASKS:
            found = run.interval("uniform 1: one network", other, task, "accuracy")
            assert found is not None
            assert found.seeds == 2
            assert found.low <= found.value <= found.high
            mine = [_accuracy(run, ("uniform 1", "one network"), task, s) for s in (0, 1)]
            rows = [r for r in run.records if r.model == other and r.task == task]
            theirs = [r.value for r in rows if (r.split, r.metric) == ("test", "accuracy")]
            assert found.value == pytest.approx(sum(mine) / 2 - sum(theirs) / 2)


def test_running_again_trains_nothing(run, monkeypatch):
    import conjoin.sweeping.trainings as trainings

    before = (run.folder / "results.json").read_bytes()

    def no_training(*_, **__):
        raise AssertionError("a training began")

    monkeypatch.setattr(trainings, "train_models", no_training)
    conjoin.continuum(Net, _data(), out=run.folder, **OPTIONS)
    assert (run.folder / "results.json").read_bytes() == before


def test_other_data_or_another_loss_train_again(run, tmp_path, monkeypatch):
    import conjoin.sweeping.trainings as trainings

    def trained(*_, **__):
        raise TrainingError("it trains")

    monkeypatch.setattr(trainings, "train_models", trained)
    other = _data()
    other["plain"]["train"] = _part(200, "plain", 99)
    for data, changes in (
        (other, {}),
        (_data(), {"loss": nn.functional.multi_margin_loss}),
        (_data(), {"learning_rate": 0.01}),
        (_data(), {"epochs": 7}),
    ):
        with pytest.raises(TrainingError, match="it trains"):
            conjoin.continuum(Net, data, out=run.folder, **{**OPTIONS, **changes})


def test_a_strength_is_found_with_few_trainings_on_loaders(tmp_path):
    data = _data()
    for task in TASKS:
        loader = DataLoader(TensorDataset(*data[task]["train"]), batch_size=20, shuffle=True)
        data[task]["train"] = loader
    said = []
    run = conjoin.continuum(
        Net, data, out=tmp_path, epochs=2, strengths="auto", settings=FEW, notice=said.append
    )
    chosen = run.info.continuum.chosen
    assert chosen.trainings == len(chosen.tried) == len(said) == 5
    best = max(chosen.tried, key=lambda one: one.score)
    assert (chosen.profile, chosen.strength) == (best.profile, best.strength)
    assert {"0", "inf", chosen.strength} <= set(run.info.continuum.strengths)
    assert run.info.continuum.references["two-headed"] is None  # no heads were named
    conjoin.write_report([tmp_path])


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"profiles": ["trunk"], "heads": []}, InputError, "heads="),
        ({"profiles": ["sideways"]}, InputError, "no profile"),
        ({"heads": ["haed.*"]}, InputError, "head"),
        ({"strengths": "many"}, InputError, "auto"),
        ({"strengths": [-1.0]}, InputError, "strength"),
        ({"seeds": 0}, InputError, "seeds"),
        ({"seeds": [0, 1]}, InputError, "seeds has to be a whole number"),
        ({"epochs": 0}, InputError, "epochs"),
        ({"epochs": 1.5}, InputError, "epochs has to be a whole number"),
        ({"steps": 0}, InputError, "steps has to be a whole number from 1 on"),
        ({"batch_size": 0}, InputError, "batch_size has to be"),
        ({"clip": 0}, InputError, "clip is a number above 0, not 0; None does not clip"),
        ({"learning_rate": "0.1"}, InputError, "learning_rate is a number above 0, not '0.1'"),
        ({"learning_rate": -1}, InputError, "learning_rate is a number above 0"),
        ({"optimizer": "adam"}, InputError, "optimizer is a function or a class, not 'adam'$"),
        (
            {"optimizer": torch.optim.SGD(Net().parameters(), 0.1)},
            InputError,
            "(?s)optimizer is a function.*, but what makes one",
        ),
        ({"loss": nn.CrossEntropyLoss}, InputError, r"such as CrossEntropyLoss\(\)"),
        ({"loss": "mse"}, InputError, "loss is a function"),
        ({"progress": True}, InputError, "progress is a function"),
        ({"settings": {"points": 3}}, InputError, "such as Settings"),
        ({"out": None}, InputError, "out is the folder"),
        ({"heads": "haed.*"}, InputError, "'haed.*' matches none"),
        ({"profiles": "sideways"}, InputError, "no profile 'sideways'"),
        ({"strengths": -1.0}, InputError, "strength"),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_is_trained(tmp_path, changes, error, match):
    with pytest.raises(error, match=match):
        conjoin.continuum(Net, _data(), **{"out": tmp_path / "run", **OPTIONS, **changes})
    assert not list(tmp_path.rglob("*.safetensors"))


def test_one_pattern_profile_or_strength_is_a_list_of_one(tmp_path):
    changes = {"heads": "head.*", "profiles": "uniform", "strengths": 1, "epochs": 1, "seeds": 1}
    found = conjoin.continuum(Net, _data(), out=str(tmp_path), **{**OPTIONS, **changes}, title=3)
    assert found.info.continuum.strengths == ["1", "inf"]  # and that of the heads
    assert found.info.title == "3"


def test_one_task_cannot_be_coupled(tmp_path):
    data = _data()
    del data["turned"]
    with pytest.raises(DataError, match="two tasks"):
        conjoin.continuum(Net, data, out=tmp_path, **OPTIONS)
    data = _data()
    del data["turned"]["train"]
    with pytest.raises(DataError, match="turned"):
        conjoin.continuum(Net, data, out=tmp_path, **OPTIONS)
