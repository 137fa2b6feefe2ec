"""`repair`: the best is chosen, on validation data or on what is held out, and reported."""

import json

import pytest
import torch
from torch import nn

from conjoin.errors import InputError
from conjoin.repairing import repair

from .networks import (
    branches,
    images,
    mean_of,
    mlp,
    points,
    same,
    same_weights,
)


def test_the_worse_one_is_not_returned_by_auto():
    # Labels are what the merged network says: whatever is moved can only be worse.
    parents = [mlp(1), mlp(2)]
    merged = mean_of(*parents)
    x = points(200)[0]
    with torch.no_grad():
        validation = {"its own": (x, merged(x).argmax(1))}
    fixed, report = repair(merged, parents, [points(100, 1)], validation=validation)
    same_weights(fixed, merged)
    assert report.chosen == "none"
    assert set(report.scores) == {"none", "repair", "rescale", "bias"}
    assert report.scores["none"] == 100.0 > report.scores["repair"]
    assert "Nothing was repaired" in report.why
    assert {layer.done for layer in report.layers} == {"nothing"}
    assert all(layer.before == layer.after for layer in report.layers)
    asked, report = repair(
        merged, parents, [points(100, 1)], validation=validation, method="repair"
    )
    assert report.worse
    assert str(report).startswith("Worse than the merged network as it was")
    assert not torch.equal(asked[0].weight, merged[0].weight)


def test_the_best_is_returned_by_auto():
    parents = [branches(1, normalized=True), branches(2, normalized=True)]
    merged = mean_of(*parents)
    data = [images(60, 1), images(60, 2)]
    asked = {
        name: repair(merged, parents, data, method=name, validation=data)
        for name in ("reestimate", "repair", "rescale", "bias")
    }
    fixed, report = repair(merged, parents, data, validation=data)
    scores = {name: found[1].scores[name] for name, found in asked.items()}
    assert {n: v for n, v in report.scores.items() if n != "none"} == scores
    best = max(report.scores, key=report.scores.get)
    assert report.chosen == best
    same_weights(fixed, merged if best == "none" else asked[best][0])


def test_without_validation_every_fifth_example_is_held_out():
    parents = [mlp(1), mlp(2)]
    x, labels = points(50)
    is_out = torch.arange(50) % 5 == 4
    fixed, report = repair(mean_of(*parents), parents, [(x, labels)], method="repair")
    kept = (x[~is_out], labels[~is_out])
    wanted, _ = repair(
        mean_of(*parents),
        parents,
        [kept],
        method="repair",
        validation=[(x[is_out], labels[is_out])],
    )
    for name, tensor in fixed.state_dict().items():
        same(tensor, wanted.state_dict()[name])
    assert (report.held_out, report.examples) == (0.2, 40)
    assert "held out" in report.measure
    with torch.no_grad():
        ours = fixed(x[is_out]).log_softmax(1)
        logs = [parent(x[is_out]).log_softmax(1) for parent in parents]
    divergence = sum((one.exp() * (one - ours)).sum(1).mean() for one in logs) / 2
    assert report.scores["repair"] == pytest.approx(-float(divergence), rel=1e-6)
    assert "Kullback-Leibler" in report.measure


def test_unlabelled_validation_of_one_output_is_a_squared_distance():
    parents = [nn.Sequential(mlp(seed), nn.Linear(3, 1).double()) for seed in (1, 2)]
    merged, x = mean_of(*parents), points(50)[0]
    _, report = repair(merged, parents, [[x]], validation=[[x], [x + 1]])
    with torch.no_grad():
        wanted = [
            (merged(at) - parent(at)).square().mean()
            for parent, at in zip(parents, (x, x + 1), strict=True)
        ]
    assert report.scores["none"] == pytest.approx(-float(sum(wanted) / 2))
    assert "mean squared distance" in report.measure
    with pytest.raises(InputError, match="there are 3"):
        repair(merged, parents, [[x]], validation=[[x], [x], [x]])


def test_a_regression_is_scored_by_its_loss():
    parents = [mlp(1), mlp(2)]
    merged, x = mean_of(*parents), points(50)[0]
    targets = torch.zeros(50, 3, dtype=torch.float64)
    _, report = repair(merged, parents, [[x]], validation={"t": (x, targets)})
    with torch.no_grad():
        assert report.scores["none"] == pytest.approx(-float(merged(x).square().mean()))
    assert "minus the mean squared error" in report.measure


def test_the_report_is_json_and_a_table():
    parents = [mlp(1), mlp(2)]
    steps = []
    _, report = repair(
        mean_of(*parents), parents, [points(50)], progress=lambda *step: steps.append(step)
    )
    assert json.loads(json.dumps(report.as_dict()))["chosen"] == report.chosen
    lines = str(report).splitlines()
    assert any(line.startswith("layer") for line in lines)
    assert any(line.startswith("0 ") and "linear" in line for line in lines)
    assert steps[-1][0] == steps[-1][1] == len(report.candidates) + 1
