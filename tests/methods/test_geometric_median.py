"""The geometric median: triangles whose answer is known, and that nothing near is better."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_engine import run

from conjoin.errors import MethodError

few = settings(deadline=None, max_examples=50)


def _points(*rows):
    return [torch.tensor(row) for row in rows]


def _sum(points, weights, place):
    stack = torch.stack(points).double()
    return float(torch.tensor(weights).double() @ (stack - place.double()).norm(dim=1))


@few
@given(st.integers(1, 6), st.integers(1, 30), st.integers(0, 9999), st.booleans())
def test_nothing_near_has_a_smaller_sum(count, size, seed, grid):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, size, generator=generator)
    points = list((points * 2).round() / 2 if grid else points)
    weights = torch.rand(count, generator=generator).add(0.1).tolist()
    found = run("geometric_median", points, weights=weights, block=7, max_iter=1000)
    least = _sum(points, weights, found)
    spread = float(torch.stack(points).std(0, correction=0).norm())
    for other in (*points, torch.stack(points).mean(0)):
        assert least <= _sum(points, weights, other) * (1 + 1e-6) + 1e-6
    for size_of_step in (1e-3, 1e-1):
        step = torch.randn(size, generator=generator)
        place = found + size_of_step * spread * step / step.norm()
        assert least <= _sum(points, weights, place) * (1 + 1e-6) + 1e-6


def test_by_hand():
    # All angles 120 degrees: the right-angled triangle with equal sides.
    found = run("geometric_median", _points([0.0, 0.0], [1.0, 0.0], [0.0, 1.0]))
    torch.testing.assert_close(found, torch.full((2,), (3 - math.sqrt(3)) / 6), rtol=1e-5, atol=0)
    # An angle of more than 120 degrees: its corner, exactly.
    corner = [0.1, 0.25]
    found = run("geometric_median", _points([-3.0, 0.0], corner, [3.0, 0.0]))
    assert torch.equal(found, torch.tensor(corner))
    # A convex quadrilateral: where the diagonals cross.
    found = run("geometric_median", _points([0.0, 0.0], [4.0, 0.0], [3.0, 3.0], [0.0, 2.0]))
    torch.testing.assert_close(found, torch.full((2,), 4 / 3), rtol=1e-4, atol=1e-4)
    # More than half of the weight: that model.
    found = run("geometric_median", _points([1.0, 2.0], [5.0, 5.0]), weights=[3, 2])
    assert torch.equal(found, torch.tensor([1.0, 2.0]))
    # Two equal: all between them are as good.
    found = run("geometric_median", _points([1.0, 2.0], [5.0, 6.0]))
    assert torch.equal(found, torch.tensor([3.0, 4.0]))


def test_a_mean_at_the_place_of_a_model_is_left():
    # Weiszfeld's step is not defined at (0, 0), where it begins, and which is not the median:
    # for (x, 0) the derivative is 1 + 1 - 1 - 2 (5 - x) / sqrt((5 - x)^2 + 1).
    points = _points([-15.0, 0.0], [0.0, 0.0], [5.0, 0.0], [5.0, 1.0], [5.0, -1.0])
    found = run("geometric_median", points, max_iter=300)
    torch.testing.assert_close(
        found, torch.tensor([5 - 1 / math.sqrt(3), 0.0]), rtol=1e-4, atol=1e-4
    )


def test_models_at_one_place_count_together():
    points = _points([0.0, 0.0], [0.0, 0.0], [4.0, 0.0], [0.0, 3.0])
    assert torch.equal(run("geometric_median", points), torch.zeros(2))
    assert torch.equal(run("geometric_median", [points[2]] * 3), points[2])


def test_a_minority_can_be_anywhere():
    generator = torch.Generator().manual_seed(0)
    good = torch.randn(3, 50, generator=generator)
    wild = 1e6 * torch.randn(2, 50, generator=generator)
    found = run("geometric_median", [*good, *wild])
    assert (found - good.mean(0)).norm() < 3 * (good - good.mean(0)).norm(dim=1).max()


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1e12])
def test_scale_says_nothing(size):
    points = _points([0.0, 0.0], [1.0, 0.0], [0.0, 1.0])
    found = run("geometric_median", [point * size for point in points])
    expected = run("geometric_median", points)
    torch.testing.assert_close(found / size, expected, rtol=1e-6, atol=1e-6)


def test_near_models_far_from_zero():
    shift = torch.tensor([4096.0, -4096.0])
    points = _points([0.0, 0.0], [1.0, 0.0], [0.0, 1.0])
    found = run("geometric_median", [shift + point for point in points]) - shift
    np.testing.assert_allclose(found, (3 - math.sqrt(3)) / 6, atol=1e-3)  # float32 of 4096


def test_rounds_and_tolerance():
    points = _points([0.0, 0.0], [1.0, 0.0], [0.0, 1.0])
    mean = torch.stack(points).mean(0)
    torch.testing.assert_close(run("geometric_median", points, max_iter=0), mean)
    errors = [
        (run("geometric_median", points, max_iter=rounds, tol=0.0) - (3 - math.sqrt(3)) / 6).norm()
        for rounds in (0, 3, 60)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-6
    coarse = run("geometric_median", points, tol=1.0)
    assert torch.equal(coarse, run("geometric_median", points, max_iter=1))


def test_negative_weights_are_refused():
    with pytest.raises(MethodError, match="geometric_median looks for the point"):
        run("geometric_median", _points([0.0], [1.0]), weights=[1, -1])
