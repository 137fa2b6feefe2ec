"""TSV-M by hand, against its formulas in float64 NumPy, and where these say nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_engine import run

from conjoin.errors import MethodError
from conjoin.methods.svd import Directions, find_directions
from conjoin.methods.tsv import merge_directions

few = settings(deadline=None, max_examples=25)


def _normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _models(count, rows, columns, seed=0):
    base, *changes = _normal(count + 1, rows, columns, seed=seed)
    return [base + change for change in changes], base


def _from_the_paper(tensors, base, weights, share):
    """The formulas of arXiv:2412.00081: truncate, concatenate, whiten both sides."""
    changes = [w * (t.double() - base.double()).numpy() for w, t in zip(weights, tensors)]  # noqa: B905
    parts = [np.linalg.svd(change, full_matrices=False) for change in changes]
    left = np.concatenate([u[:, :share] for u, _, _ in parts], 1)
    sizes = np.concatenate([s[:share] for _, s, _ in parts])
    right = np.concatenate([vt[:share] for _, _, vt in parts], 0)
    first, _, second = np.linalg.svd(left, full_matrices=False)
    third, _, fourth = np.linalg.svd(right, full_matrices=False)
    return base.double().numpy() + first @ second @ np.diag(sizes) @ third @ fourth


@few
@given(st.integers(1, 4), st.integers(1, 13), st.integers(1, 13), st.integers(0, 99))
def test_against_float64(count, rows, columns, seed):
    tensors, base = _models(count, rows, columns, seed)
    weights = [0.5, 2.0, 1.0, -1.5][:count]
    share = min(rows, columns) // count
    if share:
        expected = _from_the_paper(tensors, base, weights, share)
        found = run("tsv", tensors, base, weights=weights)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)
        more = run("tsv", tensors, base, weights=weights, scale=0.5)
        half = base + 0.5 * (found - base)
        torch.testing.assert_close(more, half, rtol=1e-5, atol=1e-5)


@few
@given(st.integers(1, 3), st.integers(0, 99))
def test_all_directions_against_float64(count, seed):
    # U is 12 x (4 n): at most 12 columns, so that both have full rank and the formula says all.
    tensors, base = _models(count, 12, 12, seed)
    base[4:] = 0
    for tensor in tensors:
        tensor[4:] = 0
    rows = _normal(count * 4, 12, seed=seed + 1)
    tensors = [base.index_add(0, torch.arange(4), rows[4 * i : 4 * i + 4]) for i in range(count)]
    found = run("tsv", tensors, base, keep="all")
    # All left directions span the same four rows: U' = 1/sqrt(n) [U_1 ... U_n].
    changes = [(tensor - base).double().numpy() for tensor in tensors]
    parts = [np.linalg.svd(change, full_matrices=False) for change in changes]
    right = np.concatenate([vt[:4] for _, _, vt in parts], 0)
    first, _, second = np.linalg.svd(right, full_matrices=False)
    left = np.concatenate([u[:, :4] for u, _, _ in parts], 1) / count**0.5
    sizes = np.concatenate([s[:4] for _, s, _ in parts])
    expected = base.double().numpy() + left @ np.diag(sizes) @ first @ second
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_by_hand():
    base = torch.ones(2, 2)
    # Changes 3 e1 e1^T and 2 e2 e2^T: nothing to be made orthogonal, so they are added up.
    a, b = base + torch.tensor([[3.0, 0], [0, 0]]), base + torch.tensor([[0, 0], [0, 2.0]])
    assert torch.allclose(run("tsv", [a, b], base), torch.tensor([[4.0, 1], [1, 3]]))
    # 10 e1 e1^T and 10 (0.6, 0.8) e2^T: the left directions turn to (3, -1) and (1, 3) / sqrt(10).
    b = base + torch.tensor([[0.0, 6], [0, 8]])
    a = base + torch.tensor([[10.0, 0], [0, 0]])
    expected = base + 10**0.5 * torch.tensor([[3.0, 1], [-1, 3]])
    torch.testing.assert_close(run("tsv", [a, b], base), expected)
    # Of two rows no more than one direction each: the smaller is lost.
    a = base + torch.tensor([[3.0, 0], [0, 0.5]])
    b = base + torch.tensor([[0, 0], [0, 2.0]])
    assert torch.allclose(run("tsv", [a, b], base), torch.tensor([[4.0, 1], [1, 3]]))


@few
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_one_model_is_that_model(rows, columns, seed):
    tensors, base = _models(1, rows, columns, seed)
    torch.testing.assert_close(run("tsv", tensors, base), tensors[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 6), (6, 8), (1, 5), (5, 1)])
def test_identical_models_are_their_own_leading_directions(shape):
    tensors, base = _models(1, *shape)
    found = run("tsv", tensors * 3, base)
    change = (tensors[0] - base).double()
    left, sizes, right = torch.linalg.svd(change, full_matrices=False)
    share = max(1, min(shape) // 3)
    expected = base.double() + (left[:, :share] * sizes[:share]) @ right[:share]
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)


def test_a_model_without_a_change_says_nothing():
    # LAPACK gives unit vectors for a matrix of zeros, which the authors' code makes room for.
    tensors, base = _models(2, 8, 6)
    with_base = run("tsv", [*tensors, base], base)
    share = 6 // 3
    expected = _from_the_paper(tensors, base, [1, 1], share)
    np.testing.assert_allclose(with_base.numpy(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(run("tsv", [base, base], base), base)


def test_more_models_than_directions_keep_one_each():
    base = torch.zeros(1, 4)
    tensors = list(torch.eye(4)[:3, None])
    # One row: u = 1 three times, so U' = 1/sqrt(3); the v are orthonormal already.
    expected = torch.tensor([[1.0, 1, 1, 0]]) / 3**0.5
    torch.testing.assert_close(run("tsv", tensors, base), expected)


@few
@given(st.integers(0, 99), st.booleans())
def test_signs_of_singular_vectors_say_nothing(seed, same):
    tensors, base = _models(3, 7, 9, seed)
    if same:
        tensors[1] = tensors[0]
    found = [find_directions((t - base).double(), 2, eps=1e-7) for t in tensors]
    generator = torch.Generator().manual_seed(seed)
    flipped = []
    for one in found:
        signs = torch.randint(0, 2, (2,), generator=generator) * 2 - 1
        flipped.append(Directions(one.left * signs, one.sizes, one.right * signs))
    torch.testing.assert_close(
        merge_directions(flipped), merge_directions(found), rtol=0, atol=1e-9
    )


@few
@given(st.integers(0, 99))
def test_reordered_units_of_both_sides_go_through(seed):
    tensors, base = _models(3, 9, 7, seed)
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.randperm(9, generator=generator), torch.randperm(7, generator=generator)
    moved = run("tsv", [t[rows][:, columns] for t in tensors], base[rows][:, columns])
    here = run("tsv", tensors, base)[rows][:, columns]
    torch.testing.assert_close(moved, here, rtol=1e-4, atol=1e-5)


@few
@given(st.integers(0, 99))
def test_rotations_of_both_sides_go_through(seed):
    tensors, base = _models(2, 6, 8, seed)
    one = torch.linalg.qr(_normal(6, 6, seed=seed + 1, dtype=torch.float64))[0]
    other = torch.linalg.qr(_normal(8, 8, seed=seed + 2, dtype=torch.float64))[0]
    double = [t.double() for t in [*tensors, base]]
    *turned, ancestor = [one @ t @ other for t in double]
    here = one @ run("tsv", double[:-1], double[-1]) @ other
    torch.testing.assert_close(run("tsv", turned, ancestor), here, rtol=1e-7, atol=1e-7)


def test_a_matrix_with_equal_singular_values():
    found = run("tsv", [torch.eye(4) * 3, torch.eye(4) * 2], torch.zeros(4, 4))
    assert torch.isfinite(found).all()
    # Two directions of each; which, is open. If they are the same, 3 and 2 become 2.5.
    assert 5 - 1e-4 < torch.linalg.matrix_norm(found, "nuc") < 10 + 1e-4


@pytest.mark.parametrize("shape", [(), (5,), (3, 2, 2), (4, 2, 3, 3), (0,), (0, 3), (3, 0)])
def test_of_other_tensors_the_mean_of_weighted_changes_is_taken(shape):
    base, a, b = _normal(3, *shape)
    found = run("tsv", [a, b], base, weights=[1, 3], scale=2.0)
    torch.testing.assert_close(found, base + (a - base) + 3 * (b - base))


def test_flatten_takes_a_convolution_as_a_matrix():
    base, a, b = _normal(3, 6, 2, 3, 3)
    found = run("tsv", [a, b], base, flatten=True)
    flat = run("tsv", [a.flatten(1), b.flatten(1)], base.flatten(1))
    assert torch.equal(found, flat.view(6, 2, 3, 3))
    assert not torch.allclose(found, run("tsv", [a, b], base))


def test_float64_keeps_its_precision_and_huge_and_tiny_values_are_finite():
    tensors, base = _models(2, 6, 6)
    tensors, base = [t.double() for t in tensors], base.double()
    found = run("tsv", tensors, base)
    np.testing.assert_allclose(found, _from_the_paper(tensors, base, [1, 1], 3), rtol=1e-11)
    for factor in (1e30, 1e-30):
        scaled = run("tsv", [(t * factor).float() for t in tensors], (base * factor).float())
        torch.testing.assert_close(scaled / factor, found.float(), rtol=1e-4, atol=1e-5)


def test_layout_in_memory_changes_no_bit():
    tensors, base = _models(2, 7, 5)
    other = run("tsv", [t.t().contiguous().t() for t in tensors], base.t().contiguous().t())
    assert torch.equal(other, run("tsv", tensors, base))


def test_nan_is_everywhere():
    tensors, base = _models(2, 4, 4)
    tensors[1][2, 3] = torch.nan
    assert run("tsv", tensors, base).isnan().all()


def test_randomized_on_demand():
    # Of rank 3, so that the search finds all; other roundings show that there was one.
    base = _normal(120, 100)
    changes = [_normal(120, 3, seed=i) @ _normal(3, 100, seed=i + 9) for i in range(1, 9)]
    tensors = [base + change for change in changes]
    exact = run("tsv", tensors, base)
    assert torch.equal(run("tsv", tensors, base, svd="exact"), exact)
    found = run("tsv", tensors, base, svd="randomized")
    torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-4)
    assert not torch.equal(found, exact)


def test_weights_that_do_not_fit():
    base = torch.zeros(2, 2)
    with pytest.raises(MethodError, match="tsv needs one weight per model: 2, not 1"):
        run("tsv", [base, base], base, weights=[1.0])
