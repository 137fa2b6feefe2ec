"""Singular directions: exact against LAPACK, randomized with its error, and orthogonalisation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conjoin.methods.svd import find_directions, is_randomized, isometry

few = settings(deadline=None, max_examples=30)
EPS = torch.finfo(torch.float32).eps


def _normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _orthonormal(rows, columns, seed=0):
    return torch.linalg.qr(_normal(rows, columns, seed=seed))[0]


def _with_sizes(rows, columns, sizes, seed=0):
    left, right = _orthonormal(rows, len(sizes), seed), _orthonormal(columns, len(sizes), seed + 1)
    return (left * sizes) @ right.mT


def _whole(found):
    return (found.left * found.sizes) @ found.right.mH


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (6, 6), (20, 7), (7, 20)])
@pytest.mark.parametrize("eps", [EPS, torch.finfo(torch.float64).eps])
def test_exact_against_lapack(shape, eps):
    matrix = _normal(*shape)
    for count in range(1, min(shape) + 1):
        found = find_directions(matrix, count, eps=eps)
        left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
        best = (left[:, :count] * sizes[:count]) @ right[:count]
        torch.testing.assert_close(found.sizes, sizes[:count])
        torch.testing.assert_close(_whole(found), best, rtol=1e-9, atol=1e-9)
        for side in (found.left, found.right):
            torch.testing.assert_close(side.mT @ side, torch.eye(count, dtype=side.dtype))


def test_by_hand():
    # [[3, 0], [4, 5]] has A^T A = [[25, 20], [20, 25]]: squares 45 and 5.
    found = find_directions(torch.tensor([[3.0, 0.0], [4.0, 5.0]]).double(), 2, eps=EPS)
    torch.testing.assert_close(found.sizes, torch.tensor([45.0, 5.0]).double().sqrt())
    first = torch.tensor([[1.5, 1.5], [4.5, 4.5]]).double()
    torch.testing.assert_close((found.left * found.sizes)[:, :1] @ found.right[:, :1].mT, first)


def test_singular_values_far_below_the_largest_are_right_to_float32():
    sizes = torch.logspace(0, -4, 40, dtype=torch.float64)
    found = find_directions(_with_sizes(60, 50, sizes), 40, eps=EPS)
    torch.testing.assert_close(found.sizes, sizes, rtol=1e-7, atol=0)
    torch.testing.assert_close(
        found.left @ found.right.mT, _with_sizes(60, 50, torch.ones(40).double()), rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("eps", [EPS, torch.finfo(torch.float64).eps])
def test_directions_that_are_zero_are_left_out(eps):
    zero = find_directions(torch.zeros(4, 3).double(), 3, eps=eps)
    assert (zero.left.shape, zero.sizes.shape, zero.right.shape) == ((4, 0), (0,), (3, 0))
    sizes = torch.tensor([5.0, 5.0, 1.0]).double()
    for shape in ((30, 20), (20, 30)):
        found = find_directions(_with_sizes(*shape, sizes), 20, eps=eps)
        torch.testing.assert_close(found.sizes, sizes)
    assert find_directions(_with_sizes(30, 20, sizes), 20, eps=eps, floor=2.0).sizes.numel() == 2
    assert find_directions(torch.zeros(0, 3).double(), 2, eps=eps).sizes.numel() == 0


def test_rows_of_zeros_stay_zeros():
    matrix = _normal(40, 10)
    matrix[7], matrix[:, 3] = 0, 0
    found = find_directions(matrix, 10, eps=EPS)
    assert found.sizes.numel() == 9
    assert (found.left[7] == 0).all()
    assert (found.right[3].abs() < 1e-12).all()


@pytest.mark.parametrize(
    ("shape", "count", "expected"),
    [
        ((2048, 9000), 8, False),
        ((2049, 9000), 256, True),
        ((9000, 2049), 257, False),
        ((4096, 4096), 512, True),
        ((4096, 4096), 2048, False),
        ((32000, 100), 1, False),
    ],
)
def test_the_rule(shape, count, expected):
    assert is_randomized(shape, count) is expected
    assert is_randomized(shape, count, "exact") is False


def test_what_is_randomized_on_demand():
    assert is_randomized((300, 200), 10, "randomized")
    assert not is_randomized((300, 50), 10, "randomized")  # it would search more than there is


# What the docstring states, and the spectral error of a matrix of the first `count` directions.
ERRORS = [("flat", 1e-2, 1.02), ("falling", 1e-5, 1.001)]


@pytest.mark.parametrize("shape", [(400, 320), (320, 400)])
@pytest.mark.parametrize(("spectrum", "lost", "spectral"), ERRORS)
def test_the_error_of_the_randomized_search(shape, spectrum, lost, spectral):
    matrix, count = _normal(*shape), 40
    if spectrum == "falling":
        sizes = torch.arange(1, 321, dtype=torch.float64).pow(-0.7)
        matrix = _with_sizes(*shape, sizes)
    exact = torch.linalg.svdvals(matrix)
    found = find_directions(matrix, count, eps=EPS, svd="randomized")
    assert found.sizes.shape == (count,)
    assert (found.sizes <= exact[:count] * (1 + 1e-12)).all()
    assert 1 - found.sizes.square().sum() / exact[:count].square().sum() < lost
    assert torch.linalg.matrix_norm(matrix - _whole(found), 2) < spectral * exact[count]
    for side in (found.left, found.right):
        torch.testing.assert_close(side.mT @ side, torch.eye(count, dtype=side.dtype))


def test_randomized_is_exact_where_the_rank_is_low():
    matrix = _with_sizes(300, 400, torch.tensor([3.0, 2.0, 2.0, 1e-3]).double())
    found = find_directions(matrix, 10, eps=EPS, svd="randomized")
    # To the precision of float32, in which it searches.
    torch.testing.assert_close(_whole(found), matrix, rtol=0, atol=5e-7)
    expected = torch.tensor([3.0, 2.0, 2.0, 1e-3]).double()
    torch.testing.assert_close(found.sizes, expected, rtol=1e-5, atol=0)


def test_randomized_is_the_same_again_and_leaves_the_global_generator_alone():
    matrix = _normal(400, 320)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = find_directions(matrix, 20, eps=EPS, svd="randomized")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    other = find_directions(matrix, 20, eps=EPS, svd="randomized")
    assert torch.equal(one.left, other.left)
    assert not torch.equal(one.sizes, find_directions(matrix, 20, eps=EPS).sizes)


@few
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_an_isometry_is_the_factor_of_the_polar_decomposition(rows, columns, seed):
    blocks = _normal(rows, columns, seed=seed)
    left, sizes, right = torch.linalg.svd(blocks, full_matrices=False)
    if sizes[-1] < 1e-3 * sizes[0]:
        return
    torch.testing.assert_close(isometry(blocks), left @ right, rtol=0, atol=1e-8)


@few
@given(st.integers(1, 8), st.integers(1, 3), st.integers(0, 99))
def test_an_isometry_of_blocks_that_are_the_same_adds_nothing(rows, copies, seed):
    block = _orthonormal(rows + 2, rows, seed)
    found = isometry(torch.cat([block] * copies, 1))
    expected = torch.cat([block] * copies, 1) / copies**0.5
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_an_isometry_of_orthonormal_columns_is_themselves_and_of_zeros_zero():
    block = _orthonormal(9, 4)
    torch.testing.assert_close(isometry(block), block)
    with_zero = torch.cat([block, torch.zeros(9, 2).double()], 1)
    torch.testing.assert_close(isometry(with_zero), with_zero)
    assert isometry(torch.zeros(3, 0).double()).shape == (3, 0)
    assert (isometry(torch.zeros(3, 2).double()) == 0).all()
    # By hand: cosine 0.6 between two columns; each turns by the same angle until it is 0.
    found = isometry(torch.tensor([[1.0, 0.6], [0.0, 0.8]]).double())
    expected = torch.tensor([[3.0, 1.0], [-1.0, 3.0]]).double() / 10**0.5
    torch.testing.assert_close(found, expected)


def test_complex_matrices():
    matrix = torch.complex(_normal(9, 6), _normal(9, 6, seed=1))
    for eps in (EPS, 1e-16):
        found = find_directions(matrix, 6, eps=eps)
        torch.testing.assert_close((found.left * found.sizes) @ found.right.mH, matrix)
    factor = isometry(matrix)
    torch.testing.assert_close(factor.mH @ factor, torch.eye(6, dtype=matrix.dtype))
