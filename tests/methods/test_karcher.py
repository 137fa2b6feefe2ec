"""The Karcher mean by hand, on circles, and against the iteration on vectors in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_engine import run

from conjoin.errors import MethodError
from conjoin.methods import TotalOf
from conjoin.methods.karcher import find_karcher_mean

few = settings(deadline=None, max_examples=50)


def _at(degrees, length=1.0):
    angle = math.radians(degrees)
    return torch.tensor([length * math.cos(angle), length * math.sin(angle)])


def _reference(vectors, weights, rounds=10, tol=1e-5):
    """Karcher's mean by steps along the mean logarithm, as mergekit has it, in float64."""
    lengths = np.linalg.norm(vectors, axis=1)
    units, shares = vectors / lengths[:, None], np.array(weights) / sum(weights)
    mean = shares @ units
    mean /= np.linalg.norm(mean)
    for _ in range(rounds):
        step = 0
        for share, unit in zip(shares, units, strict=True):
            cosine = np.clip(unit @ mean, -1, 1)
            theta = np.arccos(cosine)
            factor = theta / np.sin(theta) if theta > 1e-7 else 1.0
            step += share * factor * (unit - cosine * mean)
        length = np.linalg.norm(step)
        if length < tol:
            break
        mean = np.cos(length) * mean + np.sin(length) / length * step
        mean /= np.linalg.norm(mean)
    return (shares @ lengths) * mean


@few
@given(st.integers(1, 6), st.integers(2, 40), st.integers(0, 10_000), st.floats(0.001, 1.5))
def test_against_the_iteration_on_vectors(count, size, seed, spread):
    random = np.random.default_rng(seed)
    vectors = random.normal(size=size) + spread * random.normal(size=(count, size)) / 2
    vectors = vectors.astype(np.float32)
    weights = random.uniform(0.1, 1, count).tolist()
    found = run("karcher", list(torch.from_numpy(vectors)), weights=weights, block=7)
    expected = _reference(vectors.astype(float), weights)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_by_hand():
    # A right angle is halved, and lengths 3 and 1 have the mean 2.
    found = run("karcher", [_at(0, 3.0), _at(90, 1.0)])
    torch.testing.assert_close(found, _at(45, 2.0))
    # Weights 2 and 1: a third of the way, and (2 * 3 + 1) / 3 long.
    found = run("karcher", [_at(0, 3.0), _at(90, 1.0)], weights=[2, 1])
    torch.testing.assert_close(found, _at(30, 7 / 3))
    # The octant of a sphere.
    found = run("karcher", list(torch.eye(3)))
    torch.testing.assert_close(found, torch.full((3,), 1 / math.sqrt(3)))


@pytest.mark.parametrize("angles", [[0, 30, 90], [10, 20, 30, 100], [-40, 5, 50, 51, 52]])
def test_on_a_circle_it_is_the_mean_of_the_angles(angles):
    # A sum of unit vectors would be elsewhere: at 38.8 degrees for the first.
    mean = sum(angles) / len(angles)
    torch.testing.assert_close(run("karcher", [_at(a) for a in angles]), _at(mean))


def test_more_rounds_come_nearer():
    points = [_at(0), _at(5), _at(120)]
    errors = [
        (run("karcher", points, max_iter=rounds, tol=0.0) - _at(125 / 3)).norm().item()
        for rounds in (0, 1, 3)
    ]
    assert errors[0] > 1e-2
    assert errors[1] < errors[0]
    assert errors[2] < 1e-6
    # the first step is shorter than a tolerance of 1
    coarse = run("karcher", points, tol=0.9)
    assert torch.equal(coarse, run("karcher", points, max_iter=0))


def test_tensors_of_zeros_count_as_lengths_alone():
    found = run("karcher", [torch.zeros(2), _at(20, 3.0), _at(40, 3.0)])
    torch.testing.assert_close(found, _at(30, 2.0))
    assert torch.equal(run("karcher", [torch.zeros(2)] * 3), torch.zeros(2))
    # mergekit takes vectors shorter than 1e-5 for zeros
    found = run("karcher", [_at(0, 1e-6), _at(60, 1e-6)])
    torch.testing.assert_close(found, _at(30, 1e-6), rtol=1e-5, atol=0)


@pytest.mark.parametrize("angles", [(0, 180), (0, 120, 240), (0, 90, 180, 270)])
def test_directions_that_cancel_have_the_mean_of_vectors(angles):
    points = [_at(angle, 1.0 + number) for number, angle in enumerate(angles)]
    torch.testing.assert_close(run("karcher", points), torch.stack(points).mean(0))


def test_an_opposite_model_pulls_to_no_side():
    found = run("karcher", [_at(0), _at(0), _at(180, 4.0)])
    torch.testing.assert_close(found, _at(0, 2.0))


def test_the_mean_of_a_turned_set_is_turned():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(4, 5, generator=generator) + 1
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator)).Q
    one = run("karcher", list(points))
    torch.testing.assert_close(run("karcher", list(points @ turn)), one @ turn)


def test_one_model_is_itself():
    one = torch.tensor([0.3, -4.0])
    torch.testing.assert_close(run("karcher", [one]), one)


def test_near_models_keep_their_differences():
    # Angles of 1e-4, which a cosine in float32 does not see.
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1e-4])
    summary = find_karcher_mean(TotalOf([one, other]), weights=[3, 1])
    assert summary == pytest.approx([0.75, 0.25], rel=1e-7, abs=1e-7)


def test_negative_weights_are_refused():
    with pytest.raises(MethodError, match="karcher looks for the point"):
        run("karcher", [_at(0), _at(1)], weights=[1, -1])
