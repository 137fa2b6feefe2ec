"""A row for every method, of networks that were fine-tuned from one."""

import copy

import pytest
import torch

import conjoin
from conjoin.comparison.method_rows import SCALES, method_rows
from conjoin.errors import InputError, MismatchError
from conjoin.evaluation import outcomes
from conjoin.merging import merge
from conjoin.methods import METHODS, Need
from conjoin.repairing import reestimate_batchnorm


def _tuned(base, seed, far=0.1):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = copy.deepcopy(base)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter += far * torch.randn_like(parameter)
    return net


def test_every_method_that_fits_has_a_row():
    two, three = (method_rows(count, base=True) for count in (2, 3))
    assert {row.name for row in two} - {row.name for row in three} >= {"slerp"}
    needing = {
        name
        for name, method in METHODS.items()
        if Need.BASE in method.needs and method.models in (None, 2)
    }
    assert needing <= {row.name for row in two}
    assert not needing & {row.name for row in method_rows(2, base=False)}
    assert {"linear", "mean", "slerp"} <= {row.name for row in method_rows(2, base=False)}


@pytest.fixture
def compared(tiny):
    base = tiny.network(0)
    models = {"a": _tuned(base, 1), "b": _tuned(base, 2)}
    return base, models, tiny.parts(), tiny.compare(models, base=base)


def _accuracy(run, row, split):
    (value,) = [
        r.value
        for r in run.view("row")
        if r.how["group"] == "methods" and r.how["row"] == row
        and (r.split, r.metric) == (split, "accuracy")
    ]  # fmt: skip
    return value


def test_a_row_is_what_the_method_gives(compared):
    _, models, parts, run = compared
    merged = merge(list(models.values()), "slerp")
    merged = reestimate_batchnorm(merged, [parts["train"]])
    expected = outcomes(merged, parts["test"], "task").metrics()["accuracy"]
    assert _accuracy(run, "slerp", "test") == expected
    assert run.rows["references: base"].kind == "reference"


def test_the_factor_is_the_best_on_validation_data(compared):
    base, models, parts, run = compared
    (how,) = {
        tuple(r.how["chosen"].items())
        for r in run.view("row")
        if r.how["group"] == "methods" and r.how["row"] == "task_arithmetic"
    }
    scores = {}
    for scale in SCALES:
        merged = merge(
            list(models.values()), "task_arithmetic", base=base, parameters={"scale": scale}
        )
        merged = reestimate_batchnorm(merged, [parts["train"]])
        scores[scale] = outcomes(merged, parts["validation"], "task").metrics()["accuracy"]
    assert how == (("scale", max(scores, key=scores.get)),)
    assert _accuracy(run, "task_arithmetic", "validation") == max(scores.values())


def test_one_network_for_each_task_is_told_the_task(tiny):
    base = tiny.network(0)
    models = {"a": _tuned(base, 1), "b": _tuned(base, 2)}
    data = {"one": tiny.parts(), "two": tiny.parts(seed=9)}
    run = tiny.compare(models, data, base=base)
    told = {r.how["row"] for r in run.view("row") if r.how["group"] == "methods"
            and r.how["uses_task_label"]}  # fmt: skip
    assert told == {name for name, method in METHODS.items() if method.per_task}


def test_no_method_is_left_out(compared):
    run = compared[-1]
    measured = {r.how["row"] for r in run.view("row") if r.how["group"] == "methods"}
    missing = {row.name for row in method_rows(2, base=True)} - measured
    assert not missing


def test_a_base_of_another_structure(tiny):
    base = tiny.network(0)
    with pytest.raises(MismatchError, match="not of one structure"):
        tiny.compare([base, _tuned(base, 1)], base=tiny.network(0, width=9))
    files = [conjoin.save(tiny.network(k), tiny.folder / f"{k}.pt") for k in (0, 1)]
    with pytest.raises(InputError, match="a base are only run"):
        conjoin.compare(files, out=tiny.folder / "files", base=files[0])
