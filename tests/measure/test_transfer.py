"""Fine-tuning on few labels."""

import copy
import math

import pytest
import torch
from torch import nn

from conjoin.errors import DataError, InputError
from conjoin.evaluation import evaluate
from conjoin.measure.transfer import transfer, transfer_outcomes


def _draw(seed, count=60, classes=3, features=12):
    """Classes are told apart by the first two features; the others are noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    angles = 2 * math.pi * labels / classes
    x = torch.randn(count, features, generator=generator)
    x[:, 0] = 0.4 * x[:, 0] + torch.cos(angles)
    x[:, 1] = 0.4 * x[:, 1] + torch.sin(angles)
    return x, labels


def _start(seed=0, outputs=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, outputs)
        )


DATA = {"train": _draw(0, 90), "validation": _draw(1), "test": _draw(2)}


def _outcomes(starts, **changes):
    arguments = {**DATA, "task": "t", "labels": [6], "rates": [0.01, 0.1], "steps": 5, **changes}
    return list(transfer_outcomes(starts, **arguments))


def _same(first, second):
    return (
        (first.start, first.labels, first.rate) == (second.start, second.labels, second.rate)
        and torch.equal(first.outcomes.loss, second.outcomes.loss)
        and torch.equal(first.outcomes.confidence, second.outcomes.confidence)
    )


class Counting:
    """A set of one batch that counts how often it is gone through, and in what order."""

    def __init__(self, name, data, log):
        self.name, self.data, self.log = name, data, log

    def __iter__(self):
        self.log.append(self.name)
        yield self.data


# What it is for.


def test_a_start_that_knows_the_features_needs_fewer_labels():
    """Pretrained: the trunk passes on the two features that matter. Scratch: any features."""
    trained = nn.Sequential(nn.Linear(12, 6, bias=False), nn.ReLU(), nn.Linear(6, 3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        scratch = copy.deepcopy(trained)
        for part in (scratch[0], scratch[2]):
            part.reset_parameters()
    with torch.no_grad():
        trained[0].weight.zero_()
        angles = 2 * math.pi * torch.arange(6) / 6
        trained[0].weight[:, :2] = torch.stack([angles.cos(), angles.sin()], 1)
    arguments = {"labels": [0, 6, 60], "rates": [0.03, 0.1, 0.3], "steps": 40, "new_head": True}
    records = transfer({"trained": trained, "scratch": scratch}, **DATA, task="t", **arguments)
    accuracy = {
        (r.how["start"], r.how["labels"]): r.value for r in records if r.metric == "accuracy"
    }
    assert accuracy["trained", 6] > accuracy["scratch", 6] + 15
    assert accuracy["trained", 60] > 90
    assert accuracy["scratch", 60] > accuracy["scratch", 6] + 10


def test_one_step_by_hand():
    """From zero weights, one step of full-batch gradient: w = rate * mean (onehot - 1/2) x."""
    x, y = torch.tensor([[2.0], [-1.0]]), torch.tensor([0, 1])
    start = nn.Linear(1, 2)
    for parameter in start.parameters():
        nn.init.zeros_(parameter)
    (one,) = transfer_outcomes(
        {"s": start}, (x, y), (x, y), (x, y), task="t", labels=[2], rates=[0.1], steps=1
    )
    # w_0 = 0.1 * (0.5 * 2 - 0.5 * -1) / 2, w_1 = -w_0; biases stay zero.
    w = 0.1 * 1.5 / 2
    expected = [math.log(1 + math.exp(-2 * w * 2)), math.log(1 + math.exp(-2 * w * 1))]
    assert one.outcomes.loss.tolist() == pytest.approx(expected, rel=1e-6)


def test_momentum_and_cosine_by_hand():
    """A quadratic: mean squared error of w against 1, from 0, in three steps."""
    x, y = torch.ones(2, 1), torch.ones(2)
    start = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(start.weight)
    (one,) = transfer_outcomes(
        {"s": start}, (x, y), (x, y), (x, y), task="t", labels=[2], rates=[0.1], steps=3
    )
    w = velocity = 0.0
    for step in range(3):
        velocity = 0.9 * velocity + 2 * (w - 1)
        w -= 0.1 * (1 + math.cos(math.pi * step / 3)) / 2 * velocity
    assert one.outcomes.loss.tolist() == pytest.approx([(w - 1) ** 2] * 2, rel=1e-5)
    assert one.outcomes.prediction is None


def test_no_labels_is_the_start_as_it_is():
    start = _start()
    for new_head in (False, True):
        found = transfer({"s": start}, **DATA, task="t", labels=[0], new_head=new_head)
        direct = evaluate({"s": start}, {"t": DATA["test"]})
        assert [(r.metric, r.value, r.count) for r in found] == [
            (r.metric, r.value, r.count) for r in direct
        ]
        assert {r.how["rate"] for r in found} == {0.0}


def test_records_say_what_they_are():
    arguments = {"labels": [3, 6], "rates": [0.01], "steps": 2, "seed": 5}
    records = transfer({"a": _start()}, **DATA, task="new", how={"group": "A"}, **arguments)
    assert [(r.model, r.metric) for r in records] == [
        (f"transfer: a at {n} labels", metric) for n in (3, 6) for metric in ("accuracy", "loss")
    ]
    assert {(r.task, r.split, r.seed, r.count) for r in records} == {("new", "test", 5, 60)}
    expected = {"view": "transfer", "group": "A", "start": "a", "labels": 3, "rate": 0.01}
    assert records[0].how == expected


# The choice of the rate.


def test_the_rate_is_chosen_on_validation_and_test_is_read_once_after_it():
    log = []
    x, y = DATA["validation"]
    parts = {
        "validation": Counting("validation", (x, y), log),
        "test": Counting("test", DATA["test"], log),
    }
    rates = [1e-6, 0.1, 1e-5]
    (one,) = _outcomes({"s": _start()}, **parts, rates=rates, steps=30)
    assert one.rate == 0.1
    assert log == ["validation"] * 3 + ["test"]
    # Validation labels that are wrong on purpose choose a rate that is worse on the test part.
    parts["validation"] = Counting("validation", (x, (y + 1) % 3), log)
    (other,) = _outcomes({"s": _start()}, **parts, rates=rates, steps=30)
    assert other.rate != 0.1
    assert other.outcomes.metrics()["accuracy"] < one.outcomes.metrics()["accuracy"]


def test_of_equal_accuracies_the_smaller_loss_and_then_the_smaller_rate():
    x, y = torch.eye(2), torch.arange(2)
    start = nn.Linear(2, 2)
    nn.init.eye_(start.weight)
    nn.init.zeros_(start.bias)
    data = {"train": (x, y), "validation": (x, y), "test": (x, y), "labels": [2]}
    (one,) = _outcomes({"s": start}, **data, rates=[0.5, 0.01])
    assert one.rate == 0.5  # all right with both, and surer with this one
    # Where training changes nothing, rates are alike.
    data["train"] = (torch.zeros(2, 2), y)
    for rates in ([0.01, 0.5], [0.5, 0.01]):
        (one,) = _outcomes({"s": start.requires_grad_(True)}, **data, rates=rates)
        assert one.rate == 0.01


def test_a_regression_is_chosen_by_its_loss():
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    y = x @ torch.tensor([1.0, -2.0])
    start = nn.Linear(2, 1)
    data = {"train": (x[:10], y[:10]), "validation": (x[10:20], y[10:20]), "test": (x[20:], y[20:])}
    records = transfer({"s": start}, **data, task="t", labels=[10], rates=[1e-5, 0.1], steps=60)
    (record,) = records
    assert (record.metric, record.how["rate"]) == ("loss", 0.1)
    assert record.value < 0.01


@pytest.mark.filterwarnings("error")
def test_a_rate_that_diverges_is_chosen_only_if_all_do():
    start = nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 3))
    # NaN logits would count class 0 as predicted: here that is always right.
    x, _ = DATA["validation"]
    zeros = (x, torch.zeros(len(x), dtype=torch.int64))
    (one,) = _outcomes({"s": start}, validation=zeros, rates=[1e30, 1e-6], steps=30)
    assert one.rate == 1e-6
    assert math.isfinite(one.outcomes.metrics()["loss"])
    (one,) = _outcomes({"s": start}, validation=zeros, rates=[1e30, 1e20], steps=30)
    assert not math.isfinite(one.outcomes.metrics()["loss"])


# Purity.


def test_the_same_arguments_give_the_same_bits_whatever_the_order_of_starts():
    starts = {"a": _start(0), "b": _start(1)}
    arguments = {"labels": [6, 12], "steps": 8, "batch_size": 4}
    found = _outcomes(starts, **arguments)
    assert [(one.start, one.labels) for one in found] == [
        ("a", 6),
        ("a", 12),
        ("b", 6),
        ("b", 12),
    ]
    torch.rand(3)
    again = _outcomes(starts, **arguments)
    assert all(map(_same, found, again))
    turned = _outcomes({"b": starts["b"], "a": starts["a"]}, **arguments)
    assert all(map(_same, found[2:] + found[:2], turned))
    (alone,) = _outcomes({"b": starts["b"]}, **{**arguments, "labels": [12]})
    assert _same(alone, found[3])
    assert not _same(_outcomes(starts, **arguments, seed=1)[0], found[0])


def test_starts_modes_and_the_global_generator_are_unchanged():
    start = _start().train()
    start[1].eval()
    start[0].weight.requires_grad_(False)
    state = copy.deepcopy(start.state_dict())
    modes = [part.training for part in start.modules()]
    generator = torch.get_rng_state()
    _outcomes({"s": start}, labels=[0, 6], new_head=True)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(tensor, state[n]) for n, tensor in start.state_dict().items())
    assert [part.training for part in start.modules()] == modes
    assert [p.requires_grad for p in start.parameters()][:2] == [False, True]
    assert all(p.grad is None for p in start.parameters())


def test_the_whole_network_is_trained_even_where_the_start_was_frozen():
    plain, frozen = _start(), _start().requires_grad_(False)
    first, second = (_outcomes({"s": start})[0] for start in (plain, frozen))
    assert _same(first, second)


def test_training_is_in_train_mode_whatever_the_mode_of_the_start():
    first, second = (_outcomes({"s": start})[0] for start in (_start().eval(), _start().train()))
    assert _same(first, second)
    no_dropout = _start()
    no_dropout[3].p = 0.0
    assert not _same(_outcomes({"s": no_dropout})[0], first)


def test_it_works_within_no_grad():
    with torch.no_grad():
        inside = _outcomes({"s": _start()})
    assert _same(inside[0], _outcomes({"s": _start()})[0])


def test_progress_counts_trainings():
    seen = []
    _outcomes({"a": _start(), "b": _start()}, labels=[0, 3, 6], on_done=seen.append)
    assert seen == [2, 2, 2, 2]


# Heads.


def test_a_new_head_has_the_classes_of_the_task_and_forgets_the_old_one():
    starts = {"five": _start(outputs=5), "shifted": _start(outputs=5)}
    with torch.no_grad():
        starts["shifted"][4].bias += 7
        starts["shifted"][4].weight *= -1
    first, second = _outcomes(starts, new_head=True)
    assert torch.equal(first.outcomes.loss, second.outcomes.loss)
    (kept,) = _outcomes({"five": starts["five"]})
    assert not torch.equal(first.outcomes.loss, kept.outcomes.loss)
    # Of a training that changes nothing, all classes are equally likely.
    (uniform,) = _outcomes({"s": _start()}, new_head=True, rates=[1e-30])
    assert uniform.outcomes.loss.tolist() == pytest.approx([math.log(3)] * 60)
    (four,) = _outcomes({"s": _start()}, new_head=True, rates=[1e-30], classes=4)
    assert four.outcomes.loss.tolist() == pytest.approx([math.log(4)] * 60)


def test_a_network_that_is_its_head():
    (one,) = _outcomes({"s": nn.Linear(12, 9)}, new_head=True, labels=[60], steps=30)
    assert one.outcomes.metrics()["accuracy"] > 80


def test_no_labels_asked_for_is_no_result():
    assert _outcomes({"s": _start()}, labels=[]) == []


# Errors.


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"labels": [10, 91]}, DataError, "91 labels of 't' are asked for, .* has 90"),
        ({"labels": [-1]}, InputError, "0 or more"),
        ({"rates": []}, InputError, r"at least one; got \[\]"),
        ({"rates": [0.1, 0.0]}, InputError, "positive learning rates"),
        ({"rates": [math.nan]}, InputError, "positive learning rates"),
        ({"steps": 0}, InputError, "got 0 and 50"),
        ({"batch_size": 0}, InputError, "got 5 and 0"),
        ({"validation": None}, InputError, "needs a validation part"),
        ({"validation": []}, DataError, "gave no examples"),
        ({"validation": iter([_draw(1)])}, DataError, "a loader can be used up: pass a list"),
        ({"train": _draw(0, 60, classes=4)}, DataError, "model has 3 outputs, for labels 0 to 2"),
        ({"train": (torch.zeros(4, 12), torch.zeros(5))}, DataError, "4 inputs but 5 labels"),
        ({"classes": 4}, DataError, "'s' has 3 outputs, but 't' has 4 classes; new_head=True"),
        ({"labels": [1]}, DataError, "cannot be trained on one example at a time"),
        ({"batch_size": 1}, DataError, "cannot be trained on one example at a time"),
    ],
)
def test_what_cannot_be_used(changes, error, message):
    with pytest.raises(error, match=message):
        _outcomes({"s": _start()}, **changes)


def test_arguments_are_checked_before_anything_is_asked_for():
    with pytest.raises(InputError, match="at least one start"):
        transfer_outcomes({}, **DATA, task="t")
    with pytest.raises(InputError, match="BatchNorm1d has no nn.Linear"):
        _outcomes({"s": nn.BatchNorm1d(12)}, new_head=True)
    data = (torch.zeros(4, 12), torch.zeros(4))
    with pytest.raises(InputError, match="regression needs classes="):
        _outcomes({"s": _start()}, train=data, labels=[4], new_head=True)
