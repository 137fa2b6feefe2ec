"""`conjoin.continuum` where targets are floating-point numbers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import conjoin
from conjoin.comparison import Settings
from conjoin.errors import DataError, TrainingError
from conjoin.sweeping.trainings import squared_error

FEW = Settings(statistics=40, samples=0)
OPTIONS = {"epochs": 8, "strengths": [0, 1], "batch_size": 20, "settings": FEW}


def _parts(target, seed):
    """Give the parts of a task that a linear network solves."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, count in (("train", 400), ("validation", 60), ("test", 60)):
        x = torch.randn(count, 4, generator=generator)
        found[name] = x, target(x)
    return found


def _column(x):
    return x.sum(1, keepdim=True)


def _line(x):
    return x.sum(1)


def _several(x):
    return x[:, :3] - x[:, 3:]


def _labels(x):
    return x[:, :3].argmax(1)


def _losses(data, outputs, out, **options):
    torch.manual_seed(0)
    run = conjoin.continuum(nn.Linear(4, outputs), data, out=out, **{**OPTIONS, **options})
    return {
        (r.model, r.task): r.value
        for r in run.records
        if r.metric == "loss" and r.split == "test" and r.how.get("view") != "transfer"
    }


@pytest.mark.parametrize(
    ("target", "outputs", "loss"),
    [
        (_column, 1, F.mse_loss),
        (_line, 1, lambda outputs, targets: F.mse_loss(outputs[:, 0], targets)),
        (_several, 3, F.mse_loss),
    ],
)
def test_regressions_are_trained_by_the_squared_error(target, outputs, loss, tmp_path):
    data = {"one": _parts(target, 0), "other": _parts(target, 1)}
    found = _losses(data, outputs, tmp_path / "default")
    assert found == _losses(data, outputs, tmp_path / "given", loss=loss)
    assert {model for model, _ in found} >= {
        "uniform 1: specialists",
        "uniform 1: one network",
        "references: one network on all data",
    }
    assert max(found.values()) < 0.01  # it is 4 or more of a network that gives zeros


def test_each_task_has_the_loss_that_it_is_measured_by(tmp_path):
    data = {"numbers": _parts(_several, 0), "labels": _parts(_labels, 1)}
    seen = []

    def loss(outputs, targets):
        seen.append(targets.is_floating_point())
        regression = targets.is_floating_point()
        return F.mse_loss(outputs, targets) if regression else F.cross_entropy(outputs, targets)

    found = _losses(data, 3, tmp_path / "default")
    assert found == _losses(data, 3, tmp_path / "given", loss=loss)
    assert set(seen) == {True, False}
    assert found["uniform 0: specialists", "numbers"] < 0.01
    assert found["uniform 0: specialists", "labels"] < 0.6  # it is 1.1 of outputs that are all one


def test_a_loss_that_is_given_is_taken(tmp_path):
    data = {"one": _parts(_several, 0), "other": _parts(_several, 1)}
    found = _losses(data, 3, tmp_path, loss=lambda outputs, _: outputs.square().mean())
    size = data["one"]["test"][1].square().mean().item()  # of outputs that are about zero
    assert found["uniform 0: specialists", "one"] == pytest.approx(size, rel=0.1)


def test_trainings_with_another_loss_are_not_taken_for_these(tmp_path, monkeypatch):
    import conjoin.sweeping.trainings as trainings

    data = {"one": _parts(_several, 0), "other": _parts(_several, 1)}
    wrong = _losses(data, 3, tmp_path, loss=F.cross_entropy)  # what was the default for all targets
    found = _losses(data, 3, tmp_path)
    assert found["uniform 0: specialists", "one"] < 0.01 < wrong["uniform 0: specialists", "one"]

    def trained(*_, **__):
        raise TrainingError("it trains")

    monkeypatch.setattr(trainings, "train_models", trained)
    assert _losses(data, 3, tmp_path) == found
    # Of labels, the default is the very loss that it was.
    data = {"one": _parts(_labels, 0), "other": _parts(_labels, 1)}
    monkeypatch.undo()
    found = _losses(data, 3, tmp_path / "labels", loss=F.cross_entropy)
    monkeypatch.setattr(trainings, "train_models", trained)
    assert _losses(data, 3, tmp_path / "labels") == found


def test_squared_error_is_what_evaluate_measures():
    torch.manual_seed(0)
    for outputs, targets in (((7, 1), (7,)), ((7, 3), (7, 3)), ((7, 2, 3), (7, 2, 3))):
        y, t = torch.randn(outputs), torch.randn(targets, dtype=torch.float64)
        (record,) = conjoin.evaluate({"m": nn.Identity()}, {"t": (y, t)})
        assert squared_error(y, t).item() == pytest.approx(record.value, rel=1e-6)
        assert squared_error({"logits": y.half()}, t).item() == pytest.approx(
            record.value, rel=0.01
        )
    with pytest.raises(DataError, match=r"outputs' shape \[7, 3\]; the training part has \[7\]"):
        squared_error(torch.zeros(7, 3), torch.zeros(7))
