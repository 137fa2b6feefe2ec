"""KnOTS with TIES by hand, and against its formulas in float64 NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_engine import run

from conjoin.errors import MethodError

few = settings(deadline=None, max_examples=25)


def _normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _models(count, rows, columns, seed=0):
    base, *changes = _normal(count + 1, rows, columns, seed=seed)
    return [base + change for change in changes], base


def _from_the_paper(tensors, base, weights, density):
    changes = [(t.double() - base.double()).numpy() for t in tensors]
    left, sizes, right = np.linalg.svd(np.concatenate(changes, 1), full_matrices=False)
    turned = np.stack(np.split(np.diag(sizes) @ right, len(tensors), axis=1))
    kept = max(1, int(density * turned[0].size))
    for part in turned:
        part[np.abs(part) < np.sort(np.abs(part), None)[-kept]] = 0
    turned *= np.array(weights)[:, None, None]
    agree = np.sign(turned) == np.sign(turned.sum(0))
    agree &= turned != 0
    merged = (turned * agree).sum(0) / np.maximum(agree.sum(0), 1)
    return base.double().numpy() + left @ merged


@few
@given(
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([0.2, 0.5, 1.0]),
    st.integers(0, 99),
)
def test_against_float64(count, rows, columns, density, seed):
    tensors, base = _models(count, rows, columns, seed)
    weights = [0.5, 2.0, 1.0][:count]
    expected = _from_the_paper(tensors, base, weights, density)
    found = run("knots_ties", tensors, base, weights=weights, density=density)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_by_hand():
    base = torch.ones(2, 2)
    a, b = base + torch.tensor([[3.0, 0], [0, 0]]), base + torch.tensor([[0, 0], [0, 1.0]])
    # The basis is that of the matrices, and the two changes touch different rows: both stay whole.
    expected = torch.tensor([[4.0, 1], [1, 2]])
    torch.testing.assert_close(run("knots_ties", [a, b], base), expected)
    # A quarter kept: of (4, 3) in a row, only the 4. The directions are e1 and e2 again.
    a = base + torch.tensor([[4.0, 3], [0, 0]])
    expected = torch.tensor([[5.0, 1], [1, 2]])
    torch.testing.assert_close(run("knots_ties", [a, b], base, density=0.25), expected)
    # The same direction: 4 and -1 disagree, 4 wins.
    b = base + torch.tensor([[-1.0, 0], [0, 0]])
    expected = torch.tensor([[5.0, 4], [1, 1]])
    torch.testing.assert_close(run("knots_ties", [a, b], base, density=1), expected)


@few
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_identical_models_are_that_model(rows, columns, seed):
    tensors, base = _models(1, rows, columns, seed)
    found = run("knots_ties", tensors * 3, base, density=1)
    torch.testing.assert_close(found, tensors[0], rtol=1e-5, atol=1e-5)


def test_low_rank_zero_changes_and_float64():
    base = torch.zeros(30, 20)
    tensors = [_normal(30, 2, seed=i) @ _normal(2, 20, seed=i + 9) for i in (1, 2)]
    found = run("knots_ties", tensors, base, density=1)
    assert torch.linalg.matrix_rank(found.double(), rtol=1e-5) <= 4
    assert torch.equal(run("knots_ties", [base, base], base), base)
    double = run("knots_ties", [t.double() for t in tensors], base.double(), density=1)
    torch.testing.assert_close(double.float(), found, rtol=1e-4, atol=1e-4)


@few
@given(st.integers(0, 99))
def test_reordered_rows_go_through(seed):
    tensors, base = _models(2, 9, 7, seed)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    moved = run("knots_ties", [t[order] for t in tensors], base[order], density=0.5)
    here = run("knots_ties", tensors, base, density=0.5)[order]
    torch.testing.assert_close(moved, here, rtol=1e-4, atol=1e-4)


def test_other_tensors_and_errors():
    base, a, b = _normal(3, 4, 2, 2)
    found = run("knots_ties", [a, b], base)
    torch.testing.assert_close(found, base + ((a - base) + (b - base)) / 2)
    flat = run("knots_ties", [a.flatten(1), b.flatten(1)], base.flatten(1))
    assert torch.equal(run("knots_ties", [a, b], base, flatten=True), flat.view(4, 2, 2))
    with pytest.raises(MethodError, match="complex"):
        run("knots_ties", [a.to(torch.complex64)], base.to(torch.complex64))
