"""What a comparison leaves out or refuses, and what it says of it."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import conjoin
from conjoin.comparison.rows import SHUFFLED
from conjoin.errors import DataError, InputError, MismatchError, UserCodeError
from conjoin.report.table import markdown_table

WEIGHTED = "weighted mean (chosen on validation data)"


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


def test_what_does_not_apply_says_why(tiny, reasons):
    run = tiny.compare([Vector(1.0), Vector(2.0)])
    skipped = reasons(run)
    assert "two" in skipped["loss surface"]
    assert skipped["transfer"].startswith("no data of a domain")
    shown = {record.how["view"] for record in run.records}
    assert {"row", "interpolation"} <= shown
    for view, title in (("activations", "activations"), ("depth", "layer by layer")):
        assert (view in shown) != (title in skipped)


def test_one_label_for_batchnorm(tiny, reasons):
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
        (
            {"models": nn.Sequential(nn.Linear(4, 3))},
            InputError,
            "a list or a mapping, .*Sequential",
        ),
        ({"models": "a.pt"}, InputError, "a list or a mapping, .* not one str"),
        ({"base": [nn.Linear(4, 3)]}, InputError, "a file of weights, not list"),
        ({"settings": {"points": 3}}, InputError, r"such as Settings\(points=5\), not"),
        ({"progress": True}, InputError, "progress is a function or a class, not True"),
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


def test_models_may_come_one_by_one_and_a_title_may_be_a_number(tiny):
    run = tiny.compare(
        models=(tiny.network(seed) for seed in (0, 1)), out=str(tiny.folder), title=3
    )
    assert (run.info.groups[0].models, run.info.title) == (["a", "b"], "3")


def test_models_without_data(tiny):
    with pytest.raises(InputError, match="data are needed"):
        conjoin.compare([tiny.network(0), tiny.network(1)], out=tiny.folder / "run")
    with pytest.raises(InputError, match="out is the folder to write the run into, not None"):
        conjoin.compare([tiny.network(0), tiny.network(1)], out=None)


@pytest.mark.parametrize(
    "changed",
    [
        {"points": 2},
        {"statistics": 1},
        {"labels": (-1,)},
        {"labels": 10},
        {"samples": -1},
        {"layers": 0},
    ],
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


def test_a_sum_beyond_floats_is_left_out(tiny, reasons):
    huge = tiny.network(0)
    with torch.no_grad():
        huge[0].weight.fill_(2e38)
    run = tiny.compare([huge, huge])
    assert "finite" in reasons(run)["sum"]
    assert "sum" not in {row.name for row in run.info.rows}
    assert "a alone" in {row.name for row in run.info.rows}
    assert not (run.folder / "checkpoints/seed-0/models-sum.safetensors").exists()
