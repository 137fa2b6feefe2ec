"""The divergence of rows, against its formula in 50 digits, and where it says that it cannot."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf

from conjoin.compiled import divergence_of_rows, load_library
from conjoin.methods.arcee_fusion import _divergence, _divergence_in_float64

needs_it = pytest.mark.skipif(load_library() is None, reason="there is no compiled part")
mp.dps = 50
EPS = 1e-8


def _exact(row, base):
    """sum_j p_j log(p_j / q_j), as it is written."""
    powers, others = ([mp.e ** mpf(value) for value in one.tolist()] for one in (row, base))
    total, other_total = sum(powers), sum(others)
    eps = mpf(EPS)
    return sum(
        (one / total + eps) * mp.log((one / total + eps) / (other / other_total + eps))
        for one, other in zip(powers, others, strict=True)
    )


def _pair(rows, columns, size, change, shift, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    base = size * torch.randn(rows, columns, generator=generator)
    moved = base + shift + change * torch.randn(rows, columns, generator=generator)
    return moved.to(dtype), base.to(dtype)


pairs = st.builds(
    _pair,
    rows=st.just(2),
    columns=st.sampled_from([1, 2, 3, 8, 17, 511, 512, 513, 600]),
    size=st.sampled_from([1e-6, 0.02, 1.0, 15.0]),
    change=st.sampled_from([0.0, 1e-9, 1e-5, 0.01, 0.1]),
    shift=st.sampled_from([0.0, 0.0, 0.01, 0.4, 3.0]),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)


@needs_it
@settings(deadline=None, max_examples=60)
@given(pairs)
def test_in_float32_it_is_right_or_nan(pair):
    matrix, base = pair
    found = divergence_of_rows(matrix, base, EPS)
    if found is None:  # short rows
        assert base.shape[1] < 8
        return
    assert found.dtype == torch.float64
    for one, row, other in zip(found.tolist(), matrix, base, strict=True):
        exact = float(_exact(row, other))
        # Changes are rounded to float32 before anything else is done, and so is what c leaves of
        # them, which is a tenth of it or more.
        assert one != one or one == pytest.approx(exact, rel=2e-5, abs=1e-36)


@settings(deadline=None, max_examples=60)
@given(pairs)
def test_what_it_leaves_is_done_in_float64(pair):
    matrix, base = pair
    found = _divergence(matrix, base)
    for one, row, other in zip(found.tolist(), matrix, base, strict=True):
        assert one == pytest.approx(float(_exact(row, other)), rel=2e-5, abs=1e-36)


@settings(deadline=None, max_examples=80)
@given(
    st.sampled_from([2, 5, 64, 300]),
    st.sampled_from([0.02, 1.0, 10.0]),
    st.sampled_from([0.0, 10.0, 30.0]),
    st.sampled_from([1e-13, 1e-9, 1e-3, 1.0, 5.0, 40.0]),
    st.sampled_from([0.0, 0.4, 5.0, -800.0]),
    st.booleans(),
    st.integers(0, 999),
)
def test_in_float64_nothing_cancels(columns, size, largest, change, shift, alone, seed):
    generator = torch.Generator().manual_seed(seed)
    base = size * torch.randn(1, columns, generator=generator, dtype=torch.float64)
    base[0, 0] += largest
    moved = change * torch.randn(1, columns, generator=generator, dtype=torch.float64)
    if alone:
        moved[0, :-1] = 0
    matrix = base + shift + moved
    (found,) = _divergence_in_float64(matrix, base).tolist()
    # The largest error is that of the change itself, which is rounded as weights are.
    error = 1e-15 * float(base.abs().max() + matrix.abs().max())
    exact = float(_exact(matrix[0], base[0]))
    rel = 1e-12 + 100 * error / float(moved.abs().max())
    assert found == pytest.approx(exact, rel=rel, abs=error**2)


def test_changes_that_overflow_are_no_nan():
    base = torch.tensor([[0.0, 0.0, 1.0], [0.0, 900.0, 0.0], [1e30, 0.0, 0.0]]).double()
    matrix = torch.tensor([[0.0, 1e4, 1.0], [1e5, 0.0, 3.0], [0.0, 0.0, 1e30]]).double()
    found = _divergence_in_float64(matrix, base)
    expected = [float(_exact(row, other)) for row, other in zip(matrix[:2], base[:2], strict=True)]
    torch.testing.assert_close(found[:2].tolist(), expected)
    # p is 1 where q is eps, and eps where q is 1: about log(1 / eps).
    assert found[2].item() == pytest.approx(-torch.tensor(EPS).log().item(), rel=1e-6)


@needs_it
def test_usual_changes_are_right_to_a_few_roundings():
    for change in (1e-7, 1e-4, 0.05):
        matrix, base = _pair(3, 700, 0.02, change, 0.0, 0, torch.bfloat16)
        found = divergence_of_rows(matrix, base, EPS)
        for one, row, other in zip(found.tolist(), matrix, base, strict=True):
            assert one == pytest.approx(float(_exact(row, other)), rel=4e-7)


@needs_it
def test_where_float32_cannot_tell_it_is_nan():
    base = torch.tensor([[0.1, 0.2, 0.3, 0.1]]).repeat(7, 2)
    matrix = base + torch.tensor([[1e-3, -2e-3, 1e-3, 0.0, 1e-3, -2e-3, 1e-3, 0.0]])
    matrix[1, 2] += 0.6  # beyond the polynomials
    base[2, 0] = matrix[2, 0] = 70.0  # beyond the range of its sums
    matrix[3] = base[3] + 0.25  # one number, and what float32 makes of it
    matrix[4, 1] = torch.nan
    base[5, 0] = torch.inf
    matrix[6] = base[6]
    found = divergence_of_rows(matrix, base, EPS)
    assert found.isnan().tolist() == [False, True, True, True, True, True, False]
    assert found[6] == 0
    completed = _divergence(matrix, base)
    assert completed.isnan().tolist() == [False] * 4 + [True, True, False]
    assert 0 <= completed[3] < 1e-14


@needs_it
def test_what_it_is_not_for_is_left_to_others():
    one = torch.ones(2, 20)
    assert divergence_of_rows(one.double(), one.double(), EPS) is None
    assert divergence_of_rows(one.to("meta"), one.to("meta"), EPS) is None
    assert divergence_of_rows(one.int(), one.int(), EPS) is None
    wide = torch.ones(2, 20)
    assert divergence_of_rows(wide, wide, EPS).tolist() == [0, 0]
    assert divergence_of_rows(wide, torch.ones(3, 20), EPS) is None
    assert divergence_of_rows(wide, torch.ones(2, 21), EPS) is None
    assert divergence_of_rows(wide[0], wide[0], EPS) is None
    assert divergence_of_rows(torch.nn.Parameter(one), one, EPS) is None
    views = torch.arange(60.0).view(20, 3).mul_(0.01)
    moved = (views + views.square()).mT[1:]
    found = divergence_of_rows(moved, views.mT[1:], EPS)
    assert torch.equal(found, divergence_of_rows(moved.clone(), views.mT[1:].clone(), EPS))
