"""Accuracy and loss against values by hand and against SciPy in float64."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp
from torch import nn

from conjoin.batches import batches
from conjoin.errors import DataError, InputError
from conjoin.evaluation import evaluate, outcomes
from conjoin.modules import MultiHead, TaskNetworks

few = settings(deadline=None, max_examples=25)


def _values(records):
    return {(r.model, r.task, r.metric): r.value for r in records}


def _draw(seed, count=23, classes=4):
    generator = torch.Generator().manual_seed(seed)
    inputs = 3 * torch.randn(count, classes, generator=generator)
    return inputs, torch.randint(classes, (count,), generator=generator)


def test_values_by_hand():
    # p = (3/4, 1/4) three times: two right answers, one wrong.
    logits = torch.log(torch.tensor([[3.0, 1.0]] * 3))
    records = evaluate({"m": nn.Identity()}, {"t": (logits, torch.tensor([0, 0, 1]))})
    assert [(r.metric, r.count, r.split, r.seed) for r in records] == [
        ("accuracy", 3, "test", 0),
        ("loss", 3, "test", 0),
    ]
    assert records[0].value == pytest.approx(200 / 3)
    assert records[1].value == pytest.approx((2 * math.log(4 / 3) + math.log(4)) / 3, rel=1e-6)


@few
@given(st.integers(0, 2**32), st.integers(1, 30))
def test_one_module_against_scipy_for_any_batch_size(seed, batch_size):
    inputs, labels = _draw(seed)
    log_p = log_softmax(inputs.double().numpy(), axis=1)
    right = log_p.argmax(1) == labels.numpy()
    expected = -log_p[np.arange(len(labels)), labels.numpy()].mean()
    loader = list(zip(inputs.split(batch_size), labels.split(batch_size), strict=True))
    for data in ((inputs, labels), loader, [list(batch) for batch in loader]):
        accuracy, loss = evaluate({"m": nn.Identity()}, {"t": data}, batch_size=batch_size)
        assert accuracy.value == pytest.approx(100 * right.mean(), rel=1e-12)
        assert loss.value == pytest.approx(expected, rel=1e-5)
        assert loss.count == len(labels)


@few
@given(st.integers(0, 2**32), st.sampled_from([math.nan, math.inf]), st.booleans())
def test_an_output_with_nan_is_no_answer_and_never_right(seed, bad, all_of_it):
    inputs, labels = _draw(seed)
    which = torch.rand(len(labels), generator=torch.Generator().manual_seed(seed)) < 0.5
    spoilt = inputs.clone()
    spoilt[which, slice(None) if all_of_it else -1] = bad
    found = outcomes(nn.Identity(), (spoilt, labels), "t")
    known = outcomes(nn.Identity(), (inputs, labels), "t")
    assert (found.prediction[which] == -1).all()
    assert not found.correct[which].any()
    assert torch.equal(found.prediction[~which], known.prediction[~which])
    assert found.metrics()["accuracy"] == pytest.approx(
        100 * float((known.correct & ~which).double().mean())
    )


@few
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_an_ensemble_is_the_mean_of_probabilities(seed, count):
    torch.manual_seed(seed)
    members = [nn.Linear(4, 4) for _ in range(count)]
    inputs, labels = _draw(seed)
    with torch.no_grad():
        logits = np.stack([member(inputs).double().numpy() for member in members])
    log_p = logsumexp(log_softmax(logits, axis=2), axis=0) - np.log(count)
    accuracy, loss = evaluate({"e": members}, {"t": (inputs, labels)})
    expected = -log_p[np.arange(len(labels)), labels.numpy()].mean()
    assert loss.value == pytest.approx(expected, rel=1e-5)
    assert accuracy.value == pytest.approx(100 * (log_p.argmax(1) == labels.numpy()).mean())
    assert loss.how["networks"] == count


def test_an_ensemble_is_neither_a_vote_nor_a_mean_of_logits():
    class Fixed(nn.Module):
        def __init__(self, *p):
            super().__init__()
            self.logits = torch.log(torch.tensor([p]))

        def forward(self, x):
            return self.logits.expand(len(x), -1)

    # Mean of probabilities (0.5, 0.5 - e, e...): two vote for 1, but one is sure of 0.
    members = [Fixed(0.98, 0.02), Fixed(0.4, 0.6), Fixed(0.4, 0.6)]
    data = (torch.zeros(1, 1), torch.tensor([0]))
    accuracy, loss = evaluate({"e": members}, {"t": data})
    assert accuracy.value == 100
    assert loss.value == pytest.approx(-math.log((0.98 + 0.4 + 0.4) / 3), rel=1e-6)
    # The mean of logits would choose 1: sqrt[3](1e-6 * .6 * .6) against (.99..)(.4)(.4) reversed.
    members = [Fixed(1e-9, 1 - 1e-9), Fixed(0.9, 0.1), Fixed(0.9, 0.1)]
    assert evaluate({"e": members}, {"t": data})[0].value == 100


def test_predictors_of_tasks_are_marked_and_may_lack_a_task():
    first, second = nn.Identity(), nn.Softmax(1)
    data = {"a": _draw(0), "b": _draw(1), "c": _draw(2)}
    models = {"told": {"a": first, "b": [first, second]}, "one": first, "both": [first, second]}
    records = evaluate(models, data, how={"told": {"method": "heads"}}, split="validation", seed=7)
    assert [(r.model, r.task) for r in records[::2]] == [
        ("told", "a"),
        ("told", "b"),
        *[(name, task) for name in ("one", "both") for task in "abc"],
    ]
    assert {(r.model, r.how["uses_task_label"]) for r in records} == {
        ("told", True),
        ("one", False),
        ("both", False),
    }
    assert {(r.split, r.seed) for r in records} == {("validation", 7)}
    assert records[0].how == {"uses_task_label": True, "networks": 1, "method": "heads"}
    assert records[2].how["networks"] == 2
    values = _values(records)
    for metric in ("accuracy", "loss"):
        assert values["told", "a", metric] == values["one", "a", metric]
        assert values["told", "b", metric] == values["both", "b", metric]


class Moody(nn.Module):
    """Depends on its mode, and may fail."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Dropout(0.99), nn.BatchNorm1d(4))
        self.fails = fails

    def forward(self, x):
        if self.fails:
            raise RuntimeError("no")
        return self.inner(x)


@pytest.mark.parametrize("fails", [False, True])
def test_modes_and_buffers_are_as_before_also_after_an_error(fails):
    model, other = Moody(fails=fails), Moody()
    model.train()
    model.inner[1].eval()
    other.eval()
    other.inner[0].train()
    modes = [part.training for m in (model, other) for part in m.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if fails:
        with pytest.raises(RuntimeError, match="no"):
            evaluate({"m": [other, model]}, {"t": _draw(0)})
    else:
        first = _values(evaluate({"m": [other, model]}, {"t": _draw(0)}))
        assert _values(evaluate({"m": [other, model]}, {"t": _draw(0)})) == first
    assert [part.training for m in (model, other) for part in m.modules()] == modes
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert torch.is_grad_enabled()


def test_modes_are_put_back_when_the_loader_fails():
    def loader():
        yield _draw(0)
        raise KeyboardInterrupt

    model = Moody()
    with pytest.raises(KeyboardInterrupt):
        evaluate({"m": model}, {"t": loader()})
    assert all(part.training for part in model.modules())


def test_progress_counts_examples():
    seen = []
    evaluate({"m": nn.Identity()}, {"t": _draw(0, 5)}, batch_size=2, on_batch=seen.append)
    assert seen == [2, 3]


def test_low_precision_outputs_are_scored_in_float32():
    logits = torch.tensor([[10.0, -10.0]]).bfloat16()
    _, loss = evaluate({"m": nn.Identity()}, {"t": (logits, torch.tensor([1]))})
    assert loss.value == pytest.approx(20, rel=1e-6)


@pytest.mark.parametrize("count", [1, 2, 5, 250, 251, 501])
def test_no_example_is_in_a_batch_of_its_own(count):
    inputs, labels = torch.randn(count, 2), torch.arange(count)
    whole = torch.utils.data.TensorDataset(inputs, labels)
    for data in ((inputs, labels), whole):
        cut = list(batches(data, 250))
        assert torch.equal(torch.cat([y for _, y in cut]), labels)
        assert min(len(y) for _, y in cut) > 1 or count == 1
        assert max(len(y) for _, y in cut) <= 251
    assert [len(y) for _, y in batches((inputs, labels), 1)] == [1] * count


@pytest.mark.parametrize(
    ("layer", "message"),
    [(nn.LazyLinear(2), "is not initialized"), (nn.Linear(2, 2, device="meta"), "meta device")],
)
def test_weights_that_are_not_there_are_an_error_that_says_so(layer, message):
    for model in (layer, [nn.Linear(2, 2), layer], nn.Sequential(layer)):
        with pytest.raises(InputError, match=f"'(0.)?weight' of .* {message}"):
            evaluate({"m": model}, {"t": (torch.zeros(2, 2), torch.tensor([0, 1]))})


def test_data_sets_that_give_several_at_once_get_lists():
    class Many(torch.utils.data.Dataset):
        def __len__(self):
            return 5

        def __getitems__(self, indices):
            assert isinstance(indices, list)
            return [(torch.full((2,), float(i)), i) for i in indices]

        def __getitem__(self, index):
            return self.__getitems__([index])[0]

    assert [y.tolist() for _, y in batches(Many(), 2)] == [[0, 1], [2, 3, 4]]


def test_batches_cut_pairs_and_leave_loaders():
    inputs, labels = _draw(0, 7)
    cut = list(batches((inputs, labels), 3))
    assert [len(y) for _, y in cut] == [3, 4]  # none is alone
    assert torch.equal(torch.cat([x for x, _ in cut]), inputs)
    loader = [(inputs, labels)]
    assert batches(loader, 3) is loader
    with pytest.raises(DataError, match="7 inputs but 6 labels"):
        batches((inputs, labels[:6]), 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            (torch.zeros(2, 3), torch.tensor([0, 3])),
            r"from 0 to 3, .* 3 outputs, for labels 0 to 2",
        ),
        ((torch.zeros(2, 3), torch.tensor([-1, 2])), "from -1 to 2"),
        ((torch.zeros(2, 3), torch.zeros(2)), r"int64 labels \[B\], .*torch.float32 labels \[2\]"),
        ((torch.zeros(2, 3), torch.zeros(2, 1, dtype=torch.int64)), r"labels \[2, 1\]"),
        ((torch.zeros(2, 3, 2), torch.zeros(2, dtype=torch.int64)), r"outputs \[2, 3, 2\]"),
        ((torch.zeros(2, 3), torch.zeros(1, dtype=torch.int64)), "2 inputs but 1 labels"),
        ([torch.zeros(2, 3)], r"'digits' must give pairs .* not Tensor"),
        ([(torch.zeros(2, 3),)], "must give pairs"),
        ([(torch.zeros(2, 3), [0, 1])], "must give pairs"),
        ([{"x": torch.zeros(2, 3)}], "not dict"),
        ([], "'digits' gave no examples; a loader can be used up: pass a list"),
        ((torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)), "gave no examples"),
    ],
)
def test_data_that_cannot_be_used(data, message):
    with pytest.raises(DataError, match=message):
        evaluate({"m": nn.Identity()}, {"digits": data})


def test_a_used_up_loader_is_an_error_for_the_second_model():
    with pytest.raises(DataError, match="used up"):
        evaluate({"a": nn.Identity(), "b": nn.Identity()}, {"t": iter([_draw(0)])})


def test_outputs_without_classes_are_a_clear_error():
    with pytest.raises(DataError, match=r"outputs \[2\]"):
        evaluate({"m": nn.Identity()}, {"t": (torch.zeros(2), torch.zeros(2, dtype=torch.int64))})


def test_nothing_to_measure():
    for models, data in (({}, {"t": _draw(0)}), ({"m": nn.Identity()}, {})):
        with pytest.raises(InputError, match="at least one model and one data set"):
            evaluate(models, data)
    with pytest.raises(InputError, match="the model 'm' is an ensemble without a module"):
        evaluate({"m": []}, {"t": _draw(0)})


def test_networks_of_several_tasks_are_told_the_task():
    networks = {"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)}
    data = {"a": _draw(0), "b": _draw(1)}
    expected = evaluate({"m": networks}, data)
    assert evaluate({"m": TaskNetworks(networks)}, data) == expected
    assert evaluate({"m": MultiHead(nn.Identity(), networks)}, data) == expected
    assert evaluate({"m": TaskNetworks(networks)}, {"b": data["b"]}) == expected[2:]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (nn.Identity(), r"models has to be a mapping such as \{\"name\": model\}"),
        ([nn.Identity()], "models has to be a mapping"),
        ({"m": nn.Linear(1, 1).state_dict()}, "the model 'm' is a state dict; load it"),
        (
            {"m": {"tt": nn.Identity()}},
            "'m' has networks for the tasks tt, and for none of the data",
        ),
        ({"m": None}, "the model 'm' has to be a torch.nn.Module, not NoneType"),
        ({"m": "a.pt"}, "the model 'm' has to be a torch.nn.Module, not str"),
        ({"m": [nn.Identity(), None]}, "a member of the model 'm' has to be a torch.nn.Module"),
        ({"m": nn.Linear}, "not type Linear; pass an instance"),
    ],
)
def test_what_are_no_models_is_said(models, message):
    with pytest.raises(InputError, match=message):
        evaluate(models, {"t": _draw(0)})


def test_other_things_that_cannot_be_used():
    model = {"m": nn.Identity()}
    with pytest.raises(InputError, match="data has to be a mapping"):
        evaluate(model, _draw(0))
    with pytest.raises(InputError, match=r"how\['m'\] has to be a mapping"):
        evaluate(model, {"t": _draw(0)}, how={"m": "mean"})
    for size in (0, "5", 2.0, None):
        with pytest.raises(InputError, match="batch_size has to be a whole number from 1 on"):
            evaluate(model, {"t": _draw(0)}, batch_size=size)
    with pytest.raises(DataError, match=r"outputs \[\d+, 4\], \[\d+, 3\]"):
        evaluate({"m": [nn.Linear(4, 4), nn.Linear(4, 3)]}, {"t": _draw(0)})
    with pytest.raises(DataError, match="got a tensor"):
        evaluate(model, {"t": torch.zeros(3, 4)})


def test_generators_and_lists_of_modules_are_ensembles():
    members = [nn.Linear(4, 4), nn.Linear(4, 4)]
    expected = evaluate({"m": members}, {"t": _draw(0), "u": _draw(1)})
    for several in ((one for one in members), nn.ModuleList(members), tuple(members)):
        assert evaluate({"m": several}, {"t": _draw(0), "u": _draw(1)}) == expected


def test_data_sets_of_torch_are_cut_into_batches():
    inputs, labels = _draw(0)
    sets = [(inputs, labels), torch.utils.data.TensorDataset(inputs, labels)]
    model = {"m": nn.Linear(4, 4)}
    values = [
        [record.value for record in evaluate(model, {"t": one}, batch_size=7)] for one in sets
    ]
    assert values[0] == pytest.approx(values[1])


def test_an_error_of_the_model_says_which_and_on_what():
    with pytest.raises(RuntimeError) as caught:
        evaluate({"m": nn.Linear(5, 4)}, {"t": _draw(0)})
    assert "This is what Linear raised on a batch of 't'." in caught.value.__notes__


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_members_of_an_ensemble_may_be_on_several_devices():
    nets, x = [nn.Linear(4, 3), nn.Linear(4, 3)], torch.randn(7, 4)
    for labels in (torch.arange(7) % 3, torch.randn(7, 3)):
        expected = evaluate({"both": nets}, {"task": (x, labels)})
        for spread in ([nets[0], copy.deepcopy(nets[1]).cuda()], [nets[1].cuda(), nets[0]]):
            found = evaluate({"both": spread}, {"task": (x, labels)})
            for one, other in zip(found, expected, strict=True):
                assert one.value == pytest.approx(other.value, rel=1e-5)
        nets = [net.cpu() for net in nets]
