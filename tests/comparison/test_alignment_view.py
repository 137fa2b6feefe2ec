"""What alignment has changed, on networks of which that is known."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

import conjoin
from conjoin.comparison.alignment_view import UNITS, alignment_records, why_not_aligned
from conjoin.comparison.family import Family
from conjoin.comparison.rows import rows_for
from conjoin.comparison.subject import Group, Network, TaskData
from conjoin.comparison.views import VIEWS
from conjoin.errors import TraceError
from conjoin.records import read_records, write_csv, write_json
from conjoin.stages import Stage

WIDTH = 40


def deep(seed, *, norm=True):
    """Two hidden layers, and statistics of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        middle = [nn.BatchNorm1d(WIDTH)] if norm else []
        net = nn.Sequential(
            nn.Linear(4, WIDTH), *middle, nn.ReLU(), nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, 3)
        )
        with torch.no_grad():
            for _ in range(20):
                net(torch.randn(20, 4))
    return net.eval()


def shuffled(net):
    found = conjoin.find_symmetries(net, torch.randn(4, 4))
    return found.sample(torch.Generator().manual_seed(1)).apply(net)


@pytest.fixture
def family_of(tiny):
    def family_of(first, second, *more, without=(), own=True, **sizes):
        stage = Stage("test", 1, {}, {})
        networks = {
            name: Network(name, stage, lambda net=net: net)
            for name, net in zip("abc", (first, second, *more), strict=False)
        }
        tasks = {}
        for number, name in enumerate(("x", "y")):
            data = tiny.parts(10 * number, **sizes)
            parts = {p: lambda pair=pair: pair for p, pair in data.items() if p not in without}
            tasks[name] = TaskData(name, parts, dict.fromkeys(parts, stage))
        group = Group("pair", "a pair", networks, tuple(tasks), rows_for(list(networks)))
        chosen = {"x": "a", "y": "b"} if own else {}
        return Family(group, tasks, tiny.settings, 0, chosen)

    return family_of


def measured(family):
    data = {name: [task.parts["test"]()] for name, task in family.tasks.items()}
    steps = []
    found = alignment_records(family, data, lambda done, total: steps.append((done, total)))
    assert steps == [(n + 1, len(steps)) for n in range(len(steps))]
    return found


def of(records, kind, metric=None, **how):
    return [
        record
        for record in records
        if record.how["of"] == kind
        and metric in (None, record.metric)
        and all(record.how[key] == value for key, value in how.items())
    ]


def matrix(record):
    return np.array([row.split() for row in record.how["matrix"]], dtype=float)


def test_a_network_and_its_shuffled_copy(family_of):
    net = deep(0)
    found = measured(family_of(net, shuffled(net)))
    for record in of(found, "units", "unit correlation", aligned=True):
        assert record.value == pytest.approx(1, abs=1e-5)
    for record in of(found, "units", "matched fraction"):
        assert record.value == 1
    for record in of(found, "units", "moved fraction"):
        assert record.value > 0.5
    for record in of(found, "pairs of units", aligned=True):
        assert np.diagonal(matrix(record)).tolist() == [1] * len(matrix(record))
    for record in of(found, "pairs of units", aligned=False):
        assert np.diagonal(matrix(record)).mean() < 0.5
    for record in of(found, "barrier", reestimated=False):
        assert record.value == pytest.approx(0, abs=1e-4)
    for record in of(found, "variance", reestimated=False):
        assert record.value == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("norm", [True, False])
def test_merging_a_copy_up_to_any_layer_leaves_the_network(family_of, norm):
    net = deep(0, norm=norm)
    found = measured(family_of(net, shuffled(net)))
    assert any(record.how["reestimated"] for record in of(found, "barrier")) == norm
    for task in ("x", "y"):
        depths = [r for r in of(found, "depth", "loss") if r.task == task]
        # Of two groups of layers, none and both: every other one.
        assert [r.how["index"] for r in depths] == [0, 2]
        if not norm:  # with it, statistics are those of a few examples
            assert [r.value for r in depths] == pytest.approx([depths[0].value] * 2, abs=1e-5)


def test_numbers_against_numpy(family_of):
    """Correlations on the test part, of what the next layer reads."""
    first, second = deep(0), deep(1)
    family = family_of(first, second)
    found = measured(family)
    x = torch.cat([task.parts["test"]()[0] for task in family.tasks.values()])
    (early,) = of(found, "pairs of units", place="early", aligned=False)
    one, two = (net[:3](x).detach().double().numpy() for net in (first, second))
    with np.errstate(invalid="ignore"):
        full = np.nan_to_num(np.corrcoef(one.T, two.T)[:WIDTH, WIDTH:])
    np.testing.assert_allclose(matrix(early), full[:UNITS, :UNITS], atol=0.0051)
    assert matrix(early).shape == (UNITS, UNITS)
    assert early.how["size"] == WIDTH
    before, after = (
        of(found, "units", "unit correlation", units="0.weight:0", aligned=aligned)[0]
        for aligned in (False, True)
    )
    assert before.value == pytest.approx(np.diagonal(full).mean(), abs=1e-5)
    assert after.value > before.value
    assert (before.split, before.count, before.task) == ("test", len(x), "x + y")


def test_what_is_there(family_of):
    found = measured(family_of(deep(0), deep(1)))
    points, tasks = 3, 2
    assert Counter((r.how["of"], r.metric) for r in found) == {
        ("units", "matched fraction"): 2,
        ("units", "moved fraction"): 2,
        ("units", "unit correlation"): 2 * 2,
        ("pairs of units", "unit correlation"): 2 * 2,
        ("variance", "activation variance"): 3 * tasks * 2,
        ("interpolation", "accuracy"): points * tasks * 2,
        ("interpolation", "loss"): points * tasks * 2,
        ("barrier", "accuracy barrier"): tasks * 2,
        ("barrier", "loss barrier"): tasks * 2,
        ("depth", "accuracy"): 2 * tasks,
        ("depth", "loss"): 2 * tasks,
    }
    for record in found:
        assert record.how["view"] == "alignment"
        assert (record.how["group"], record.how["from"], record.how["to"]) == ("pair", "a", "b")
        assert record.model == "pair: alignment"


def test_the_ends_of_the_line_are_the_networks(family_of):
    """The aligned network computes what the second one computed."""
    family = family_of(deep(0), deep(1))
    line = of(measured(family), "interpolation", "loss", reestimated=False)
    test = {name: task.parts["test"]() for name, task in family.tasks.items()}
    for t, name in ((0.0, "a"), (1.0, "b")):
        alone = conjoin.evaluate({name: family.networks[name].load()}, test)
        expected = {r.task: r.value for r in alone if r.metric == "loss"}
        ends = {r.task: r.value for r in line if r.how["t"] == t}
        assert ends == pytest.approx(expected, rel=1e-5)


def test_records_are_written_and_read(family_of, tmp_path):
    found = measured(family_of(deep(0), deep(1)))
    for write, name in ((write_json, "r.json"), (write_csv, "r.csv")):
        write(tmp_path / name, found)
        assert read_records(tmp_path / name) == found


def test_no_task_has_a_network_of_its_own(family_of):
    found = measured(family_of(deep(0), deep(1), own=False))
    assert not of(found, "depth")
    assert of(found, "interpolation")


def test_nothing_can_be_reordered(family_of):
    assert measured(family_of(nn.Linear(4, 3), nn.Linear(4, 3))) == []


class Untraceable(nn.Linear):
    def forward(self, x):
        return super().forward(x) if x.sum() > 1e9 else super().forward(x) + 1


def test_what_cannot_be_had(family_of):
    nets = deep(0), deep(1)
    assert why_not_aligned(family_of(*nets)) is None
    assert "there are 3" in why_not_aligned(family_of(*nets, deep(2)))
    assert "x, y has no training part" in why_not_aligned(family_of(*nets, without=("train",)))
    with pytest.raises(TraceError, match="cannot be traced"):
        measured(family_of(Untraceable(4, 3), Untraceable(4, 3)))


def test_a_run_leaves_it_out_with_its_reason(tiny):
    run = tiny.compare([Untraceable(4, 3), Untraceable(4, 3)])
    (kind,) = [kind for kind in VIEWS if kind.name == "alignment"]
    (skipped,) = [skip for skip in run.info.skipped if skip.name == kind.title]
    assert "cannot be traced" in skipped.reason
    assert run.view("alignment") == ()
    assert run.view("interpolation")
