"""Reinforced agent merging by hand and against its formula."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_engine import run, run_model

from conjoin.errors import MethodError
from conjoin.methods.strips import STRIP

few = settings(deadline=None, max_examples=40)
grid = st.integers(-3, 3).map(lambda n: n / 4)  # many zeros


@st.composite
def cases(draw):
    models, size = draw(st.integers(1, 4)), draw(st.integers(1, 20))
    row = st.lists(grid, min_size=size, max_size=size)
    return np.array([draw(row) for _ in range(models)]), np.array(draw(row))


def _reference(changes, r=0.0, alpha=0.0, epsilon=1e-5):
    mask = np.abs(changes) > epsilon
    counts = mask.sum(0)
    shared, unique = (mask & (counts > 1)).sum(1), (mask & (counts == 1)).sum(1)
    factors = 1 + r * np.clip(shared / np.maximum(unique, 1e-5), 0, alpha)
    alone = changes * mask * (counts == 1) * factors[:, None]
    return (alone + changes * mask * (counts > 1) / np.maximum(counts, 1)).sum(0)


@few
@given(cases(), st.sampled_from([1e-5, 0.3, 0.5]))
def test_against_the_formula(case, epsilon):
    changes, base = case
    tensors = [torch.tensor(base + change, dtype=torch.float32) for change in changes]
    given = (tensors, torch.tensor(base, dtype=torch.float32))
    found = run("ram", *given, epsilon=epsilon, scale=0.5).numpy()
    expected = base + 0.5 * _reference(changes, epsilon=epsilon)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for r, alpha in ((0.1, 0.2), (2.0, 0.7)):
        found = run("ramplus_tl", *given, r=r, alpha=alpha, epsilon=epsilon, block=7).numpy()
        expected = base + _reference(changes, r, alpha, epsilon)
        np.testing.assert_allclose(found, expected, atol=1e-6)


A, B = [1.0, 2.0, 0.0, 4.0, 1e-6], [0.0, 4.0, 3.0, 0.0, 0.0]


def test_by_hand():
    base = torch.zeros(5)
    tensors = [torch.tensor(A), torch.tensor(B)]
    assert run("ram", tensors, base).tolist() == [1, 3, 3, 4, 0]
    assert run("ram", tensors, base, scale=2).tolist() == [2, 6, 6, 8, 0]
    # a: 1 shared, 2 alone, so 1 + r / 2; b: 1 and 1, so 1 + r
    found = run("ramplus_tl", tensors, base, r=0.5, alpha=9)
    assert found.tolist() == [1.25, 3, 4.5, 5, 0]
    found = run("ramplus_tl", tensors, base, r=0.5, alpha=0.25)
    assert found.tolist() == [1.125, 3, 3.375, 4.5, 0]


def test_counts_of_the_model():
    models = [
        {"x": torch.tensor(A), "y": torch.ones(2)},
        {"x": torch.tensor(B), "y": torch.ones(2)},
    ]
    base = {"x": torch.zeros(5), "y": torch.zeros(2)}
    # a: 3 shared, 2 alone; b: 3 and 1
    found = run_model("ramplus_tl", models, base, r=0.5, alpha=9, per="model")
    assert found["x"].tolist() == [1.75, 3, 7.5, 7, 0]
    assert found["y"].tolist() == [1, 1]


def test_long_tensors():
    tensors = list(torch.randn(3, 2 * STRIP + 5, generator=torch.Generator().manual_seed(0)))
    found = run("ramplus_tl", tensors, torch.zeros(2 * STRIP + 5), epsilon=0.9)
    expected = _reference(torch.stack(tensors).double().numpy(), 0.1, 0.2, 0.9)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("method", ["ram", "ramplus_tl"])
def test_complex_tensors_are_refused(method):
    tensor = torch.zeros(2, dtype=torch.complex64)
    with pytest.raises(MethodError, match="complex"):
        run(method, [tensor], tensor)
