"""Gram matrices and distances in blocks, and sums with coefficients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conjoin.errors import MethodError
from conjoin.methods import TotalOf
from conjoin.methods.gram import (
    combined,
    directions,
    gram_of,
    norm_of,
    shares_of_points,
    squared_distances,
)

few = settings(deadline=None, max_examples=30)


class _Counted(TotalOf):
    """Counts how often the tensors are looked at."""

    looks = 0

    def __call__(self, function):
        self.looks += 1
        return super().__call__(function)


@st.composite
def cases(draw):
    count, size = draw(st.integers(1, 5)), draw(st.sampled_from([0, 1, 7, 16_384, 40_000]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    tensors = torch.randn(count + 1, size, generator=generator) * draw(
        st.sampled_from([1e-30, 1, 99])
    )
    return [*tensors[1:]], tensors[0]


@few
@given(cases())
def test_products_and_distances_are_those_of_float64(case):
    tensors, base = case
    wide = torch.stack(tensors).double().numpy()
    changes = wide - base.double().numpy()
    close = {"rtol": 1e-12, "atol": 1e-14 * float((wide**2).sum() + (changes**2).sum())}
    for extra, vectors in (({}, wide), ({"base": base}, changes)):
        found = gram_of(TotalOf(tensors, **extra), "m", exact=True)
        np.testing.assert_allclose(found, vectors @ vectors.T, **close)
        assert (found == found.T).all()
        found = gram_of(TotalOf(tensors, **extra), "m")
        lengths = np.linalg.norm(vectors, axis=1)
        assert (np.abs(found - vectors @ vectors.T) <= 3e-7 * np.outer(lengths, lengths)).all()
        assert (found == found.T).all()
    apart = ((wide[:, None] - wide) ** 2).sum(-1)
    np.testing.assert_allclose(squared_distances(TotalOf(tensors), "m"), apart, **close)


@pytest.mark.parametrize(
    ("angle", "weights", "exactly"),
    [
        (0.5, None, False),
        (1e-3, None, False),  # nearly equal models: nothing cancels
        (0.0, [1, 3], False),
        (0.1, [1, -1], True),
        (0.3, [1, -0.5], False),
        (2.0, None, False),
        (2.2, None, True),
        (3.1415, [1, 10], True),
    ],
)
def test_vectors_that_cancel_are_looked_at_again(angle, weights, exactly):
    one, other = torch.linalg.qr(torch.randn(5000, 2, generator=torch.Generator().manual_seed(0)))[
        0
    ].t()
    tensors = [one, np.cos(angle) * one + np.sin(angle) * other]
    total = _Counted(tensors)
    found = gram_of(total, "m", weights)
    assert total.looks == 1 + exactly
    if exactly:
        assert (found == gram_of(total, "m", exact=True)).all()


def test_blocks_out_of_range_of_float32_are_exact():
    random = torch.Generator().manual_seed(0)
    for factors in ((1e-25, 1e-25), (1e25, 1e25), (1e-25, 1e25), (0.0, 1.0)):
        tensors = [factor * torch.randn(70_000, generator=random) for factor in factors]
        wide = torch.stack(tensors).double().numpy()
        found = gram_of(TotalOf(tensors), "m")
        expected = wide @ wide.T
        scale = np.sqrt(np.outer(np.diagonal(expected), np.diagonal(expected)))
        assert (np.abs(found - expected) <= 1e-13 * scale).all()


def test_nothing_is_looked_at_twice_for_nothing():
    total = _Counted([torch.full((3,), 2.0)] * 2)
    assert (gram_of(total, "m") == 12).all()
    assert total.looks == 1
    for size in (0.0, 1e-30, 1e30):  # squares that float32 may not hold
        total = _Counted([torch.full((3,), size)] * 2)
        assert gram_of(total, "m") == pytest.approx(np.full((2, 2), 3 * size**2), rel=1e-6)
        assert total.looks == 2


def test_the_distance_of_near_models_is_exact():
    # From the Gram matrix it would be a difference of numbers near 1e6, with roundings of 1e-10.
    one = torch.full((1 << 20,), 1.0)
    other = one.clone()
    other[0] += 2.0**-20
    assert squared_distances(TotalOf([one, other]), "m")[0, 1] == 2.0**-40


@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_changes_no_bit(threads):
    tensors = list(torch.randn(4, 200_001, generator=torch.Generator().manual_seed(0)))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = [gram_of(TotalOf(tensors), "m", exact=exact) for exact in (False, True)]
        torch.set_num_threads(threads)
        for exact in (False, True):
            assert (gram_of(TotalOf(tensors), "m", exact=exact) == one[exact]).all()
    finally:
        torch.set_num_threads(before)


def test_directions():
    lengths, cosines = directions(np.array([[4.0, 0.0, -4.0], [0.0, 0.0, 0.0], [-4.0, 0.0, 16.0]]))
    assert lengths.tolist() == [2, 0, 4]
    assert cosines.tolist() == [[1, 0, -0.5], [0, 0, 0], [-0.5, 0, 1]]
    # of vectors whose products of lengths are out of range
    lengths, cosines = directions(np.array([[1e300, -5e-11], [-5e-11, 1e-320]]))
    assert np.isfinite(cosines).all()
    assert directions(np.array([[np.inf]])) is None
    assert directions(np.array([[np.nan]])) is None


def test_norms():
    gram = np.array([[1.0, 0.5], [0.5, 1.0]])
    assert norm_of(np.array([1.0, 1.0]), gram) == pytest.approx(np.sqrt(3))
    assert norm_of(np.array([1.0, -1.0]), np.ones((2, 2))) == 0


def test_sums_far_out_of_range_of_float32_in_between():
    tiny, one = torch.tensor([1e-45, 0.0]), torch.tensor([0.0, 2.0])
    found = combined([tiny, one], torch.tensor([1e45, 1.0], dtype=torch.float64))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([tiny[0].double().item() * 1e45, 2.0]))
    base = torch.zeros(2)
    factors = torch.tensor([1e45, 1.0], dtype=torch.float64)
    assert torch.equal(combined([tiny, one], factors, base), found)


def test_coefficients_that_cancel_lose_no_digits():
    random = torch.Generator().manual_seed(0)
    one, base = torch.rand(2, 1000, generator=random) + 1
    other = one * (1 + 1e-3 * torch.rand(1000, generator=random))
    factors = torch.tensor([1000.0, -999.0], dtype=torch.float64)
    for ancestor in (None, base):
        zero = 0 if ancestor is None else ancestor.double()
        expected = zero + 1000 * (one.double() - zero) - 999 * (other.double() - zero)
        found = combined([one, other], factors, ancestor)
        torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=1e-6)


def test_points_have_weights_of_zero_or_more():
    assert shares_of_points([1, 0, 3], 3, "m") == [0.25, 0, 0.75]
    with pytest.raises(MethodError, match="negative"):
        shares_of_points([1, -0.5], 2, "m")
    with pytest.raises(MethodError, match="zero"):
        shares_of_points([0, 0], 2, "m")
    with pytest.raises(MethodError, match="one weight per model"):
        shares_of_points([1], 2, "m")


def test_complex_tensors_are_refused():
    tensors = [torch.ones(2, dtype=torch.complex64)] * 2
    with pytest.raises(MethodError, match="karcher looks at"):
        gram_of(TotalOf(tensors), "karcher")
    with pytest.raises(MethodError, match="complex"):
        squared_distances(TotalOf(tensors), "geometric_median")
