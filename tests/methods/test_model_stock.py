"""Model Stock by hand, and against the paper's formula."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_engine import run

from conjoin.errors import MethodError
from conjoin.methods import METHODS

few = settings(deadline=None, max_examples=50)


def _reference(models, base):
    """t from the mean of the cosines of all pairs, in float64."""
    changes = models - base
    count = len(models)
    units = changes / np.linalg.norm(changes, axis=1)[:, None]
    pairs = [units[i] @ units[j] for i in range(count) for j in range(i)]
    cosine = max(0, np.mean(pairs))
    t = count * cosine / (1 + (count - 1) * cosine)
    return t * models.mean(0) + (1 - t) * base


@few
@given(st.integers(2, 5), st.integers(1, 40), st.integers(0, 9999), st.floats(0, 3))
def test_against_the_formula(count, size, seed, common):
    random = np.random.default_rng(seed)
    base = random.normal(size=size).astype(np.float32)
    change = common * random.normal(size=size) + random.normal(size=(count, size))
    models = (base + change / 10).astype(np.float32)
    found = run("model_stock", list(torch.from_numpy(models)), torch.from_numpy(base), block=7)
    expected = _reference(models.astype(float), base.astype(float))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


@few
@given(st.sampled_from([(4, 6), (3, 2, 2, 2), (5, 1), (6,), ()]), st.integers(0, 9999))
def test_filters_have_angles_of_their_own(shape, seed):
    random = np.random.default_rng(seed)
    base = random.normal(size=shape).astype(np.float32)
    change = random.normal(size=shape) + random.normal(size=(3, *shape))
    models = (base + change).astype(np.float32)
    tensors = [torch.tensor(model) for model in models]
    found = run("model_stock", tensors, torch.tensor(base), filter_wise=True).numpy()
    rows = shape[0] if len(shape) > 1 else 1
    base, models = base.reshape(rows, -1), models.reshape(3, rows, -1)
    expected = [_reference(models[:, i].astype(float), base[i].astype(float)) for i in range(rows)]
    np.testing.assert_allclose(found.reshape(rows, -1), np.stack(expected), rtol=1e-4, atol=1e-5)


def test_by_hand():
    base, a, b = torch.zeros(2), torch.tensor([3.0, 0.0]), torch.tensor([1.0, 1.0])
    t = 2 * math.sqrt(0.5) / (1 + math.sqrt(0.5))
    torch.testing.assert_close(run("model_stock", [a, b], base), t * torch.tensor([2.0, 0.5]))
    # right angles: nothing in common
    assert torch.equal(run("model_stock", list(torch.eye(3)), torch.zeros(3)), torch.zeros(3))
    # 60 degrees between all of three: t = 3/2 / (1 + 1)
    models = [torch.tensor(v) for v in ([1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0])]
    found = run("model_stock", models, torch.zeros(3))
    torch.testing.assert_close(found, torch.full((3,), 0.75 * 2 / 3))


def test_by_hand_filter_by_filter():
    base = torch.ones(2, 2)
    a = base + torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    b = base + torch.tensor([[0.0, 1.0], [4.0, 0.0]])
    found = run("model_stock", [a, b], base, filter_wise=True)
    assert torch.equal(found, torch.tensor([[1.0, 1.0], [4.0, 1.0]]))


@pytest.mark.parametrize("filter_wise", [True, False])
@pytest.mark.parametrize("size", [1e-30, 1e-4, 1e12])
def test_small_changes_count_like_large_ones(filter_wise, size):
    # mergekit takes cosines of changes whose lengths have a product under 1e-6 for smaller ones.
    base, change = torch.zeros(3), torch.tensor([1.0, 2.0, 2.0]) * size
    found = run("model_stock", [change] * 3, base, filter_wise=filter_wise)
    torch.testing.assert_close(found, change, rtol=1e-6, atol=0)


@pytest.mark.parametrize("filter_wise", [True, False])
def test_models_against_each_other_stay_at_the_base(filter_wise):
    # The formula has t = -18 for a cosine of -0.9.
    base = torch.tensor([1.0, 1.0])
    a, b = base + torch.tensor([1.0, 0.0]), base + torch.tensor([-0.9, math.sqrt(1 - 0.81)])
    assert torch.equal(run("model_stock", [a, b], base, filter_wise=filter_wise), base)
    opposite = [base + 1, base - 1]
    assert torch.equal(run("model_stock", opposite, base, filter_wise=filter_wise), base)


@pytest.mark.parametrize("filter_wise", [True, False])
def test_a_model_that_has_not_changed_agrees_with_none(filter_wise):
    base, a = torch.zeros(2), torch.tensor([1.0, 0.0])
    found = run("model_stock", [a, a, base], base, filter_wise=filter_wise)
    # cosines 1, 0, 0: c = 1/3, t = 1 / (1 + 2/3) = 0.6
    torch.testing.assert_close(found, 0.6 * torch.tensor([2 / 3, 0.0]))
    assert torch.equal(run("model_stock", [base] * 3, base, filter_wise=filter_wise), base)


def test_one_model_is_too_few():
    with pytest.raises(MethodError, match="at least 2 models, and here are 1"):
        run("model_stock", [torch.ones(2)], torch.zeros(2))
    assert METHODS["model_stock"].least == 2
