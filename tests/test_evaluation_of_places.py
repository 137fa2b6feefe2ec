"""A class at each of many places: tokens, pixels, and the outputs of transformers."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

sys.path.insert(0, str(Path(__file__).parent / "symmetry"))  # where libraries are imported

from libraries import library

import conjoin
from conjoin.errors import DataError
from conjoin.evaluation import evaluate, outcomes
from conjoin.measure import transfer

few = settings(deadline=None, max_examples=25)


class Named(nn.Module):
    """Gives what it is given, under a name."""

    def __init__(self, made):
        super().__init__()
        self.made = made

    def forward(self, x):
        return self.made(x)


def _values(records):
    return {record.metric: record.value for record in records}


def _draw(seed, *shape, classes=5):
    generator = torch.Generator().manual_seed(seed)
    outputs = 3 * torch.randn(*shape, classes, generator=generator)
    labels = torch.randint(classes, shape, generator=generator)
    return outputs, labels.masked_fill(torch.rand(shape, generator=generator) < 0.3, -100)


@few
@given(
    st.integers(0, 999),
    st.sampled_from([(7, 3), (4, 1), (3, 2, 6), (2, 3, 1, 2)]),
    st.integers(1, 9),
    st.integers(1, 3),
)
def test_places_count_as_examples_of_their_own(seed, shape, batch_size, members):
    outputs, labels = _draw(seed, *shape)
    kept = labels != -100
    model = nn.Identity() if members == 1 else [nn.Identity()] * members
    flat = evaluate({"m": model}, {"t": (outputs[kept], labels[kept])}) if kept.any() else None
    for given_ in (outputs, outputs.movedim(-1, 1)):
        if flat is None:
            with pytest.raises(DataError, match="gave no examples"):
                evaluate({"m": model}, {"t": (given_, labels)}, batch_size=batch_size)
            continue
        found = evaluate({"m": model}, {"t": (given_, labels)}, batch_size=batch_size)
        assert [record.count for record in found] == [int(kept.sum())] * 2
        assert _values(found) == pytest.approx(_values(flat), rel=1e-6)
    own = outcomes(nn.Identity(), (outputs, labels), "t") if kept.any() else None
    if own is not None:
        assert torch.equal(own.targets, labels[kept])
        assert torch.equal(own.prediction, outputs.argmax(-1)[kept])


def test_progress_counts_examples_and_not_places():
    done = []
    evaluate({"m": nn.Identity()}, {"t": _draw(0, 5, 4)}, batch_size=2, on_batch=done.append)
    assert done == [2, 3]


@pytest.mark.parametrize(
    "made", [lambda x: SimpleNamespace(logits=x), lambda x: {"logits": x, "hidden": x[:1]}]
)
def test_logits_are_found_among_outputs(made):
    data = {"t": _draw(1, 6, 2)}
    assert evaluate({"m": Named(made)}, data) == evaluate({"m": nn.Identity()}, data)


@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        (torch.zeros(2, 4, 4), torch.zeros(2, 4).long(), "second or the last dimension"),
        (torch.zeros(2, 3, 5), torch.zeros(2, 4).long(), r"found outputs \[2, 3, 5\]"),
        (torch.zeros(2, 3, 5), torch.full((2, 3), 5), "labels of 't' reach from 5 to 5"),
        (torch.zeros(2, 3, 5), torch.full((2, 3), -1), "labels of 't' reach from -1 to -1"),
        (torch.zeros(2, 5), torch.full((2,), -100), "labels of 't' reach from -100 to -100"),
        (torch.zeros(2, 3, 5), torch.zeros(2, 3).int(), "expected int64 labels; found torch.i"),
    ],
)
def test_what_does_not_fit_is_said(outputs, labels, message):
    with pytest.raises(DataError, match=message):
        evaluate({"m": nn.Identity()}, {"t": (outputs, labels)})


def test_outputs_without_logits_are_refused():
    model = Named(lambda x: {"scores": x})
    with pytest.raises(DataError, match="found outputs dict, which has no logits"):
        evaluate({"m": model}, {"t": _draw(0, 3)})


@pytest.fixture(scope="module")
def language():
    transformers = library("transformers")
    config = transformers.GPT2Config(
        vocab_size=60, n_positions=16, n_embd=24, n_layer=2, n_head=2, bos_token_id=0
    )
    torch.manual_seed(0)
    models = [transformers.GPT2LMHeadModel(config).eval() for _ in range(2)]
    return models, torch.randint(60, (9, 12))


def test_a_language_model_has_the_loss_that_transformers_says(language):
    models, ids = language
    data = {"text": ({"input_ids": ids[:, :-1]}, ids[:, 1:])}
    found = {r.model: r for r in evaluate(dict(zip("ab", models, strict=True)), data) if
             r.metric == "loss"}  # fmt: skip
    for name, model in zip("ab", models, strict=True):
        with torch.no_grad():
            theirs = model(input_ids=ids, labels=ids).loss.item()
        assert found[name].value == pytest.approx(theirs, rel=1e-5)
        assert found[name].count == 9 * 11


def test_language_models_are_interpolated_and_merged(language):
    models, ids = language
    data = {"text": ({"input_ids": ids[:, :-1]}, ids[:, 1:])}
    path = conjoin.measure.interpolate(*models, data, at=3)
    ends = [record.value for record in path if record.metric == "loss"]
    expected = [r.value for r in evaluate({"a": models[0], "b": models[1]}, data)][1::2]
    assert [ends[0], ends[-1]] == pytest.approx(expected, rel=1e-6)


def test_comparisons_of_examples_refuse_places():
    outputs, labels = _draw(0, 8, 3)
    pair = (outputs, labels)
    with pytest.raises(DataError, match=r"one label for each example; found labels \[8, 3\]"):
        transfer({"m": nn.Linear(5, 5)}, pair, pair, pair, task="t", labels=[2])
