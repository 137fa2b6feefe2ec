"""multislerp by hand, and against mergekit's formula with its step that changes nothing."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_engine import run

from conjoin.errors import MethodError

few = settings(deadline=None, max_examples=50)


def _reference(tensors, weights, base, normalize):
    """mergekit's steps in float64: the mean of unit vectors, its tangent space, and back."""
    changes = tensors - base
    weights = np.array(weights)
    if normalize:
        weights = weights / weights.sum()
    lengths = np.linalg.norm(changes, axis=1)
    units = changes / lengths[:, None]
    mean = weights @ units
    mean /= np.linalg.norm(mean)
    tangents = units - (units @ mean)[:, None] * mean
    step = weights @ tangents
    length = np.linalg.norm(step) + 1e-8
    result = mean * np.cos(length) + step * np.sin(length) / length
    return base + result * (lengths @ weights)


@few
@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 9999), st.booleans(), st.booleans())
def test_against_the_formula(count, size, seed, based, normalize):
    random = np.random.default_rng(seed)
    tensors = (random.normal(size=size) + random.normal(size=(count, size)) / 3).astype(np.float32)
    base = (random.normal(size=size) - 4).astype(np.float32) if based else np.zeros(size)
    weights = random.uniform(0.1, 1, count).tolist()
    ancestor = torch.from_numpy(base) if based else None
    models = list(torch.from_numpy(tensors))
    found = run("multislerp", models, ancestor, weights=weights, normalize=normalize, block=7)
    if size == 1 and len(np.unique(np.sign(tensors))) > 1:
        return  # opposite directions
    expected = _reference(tensors.astype(float), weights, base.astype(float), normalize)
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-5, atol=2e-5)


def test_by_hand():
    a, b = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 1.0])
    # between (1, 0) and (0, 1), and 2 long
    torch.testing.assert_close(run("multislerp", [a, b]), torch.tensor([math.sqrt(2)] * 2))
    # (3, 1) / sqrt(10), and (3 * 3 + 1) / 4 = 2.5 long
    found = run("multislerp", [a, b], weights=[3, 1])
    torch.testing.assert_close(found, torch.tensor([7.5, 2.5]) / math.sqrt(10))
    # not normalized: 10 long
    found = run("multislerp", [a, b], weights=[3, 1], normalize=False)
    torch.testing.assert_close(found, torch.tensor([30.0, 10.0]) / math.sqrt(10))
    # around a base
    base = torch.tensor([10.0, 20.0])
    found = run("multislerp", [a + base, b + base], base)
    torch.testing.assert_close(found, base + math.sqrt(2))


def test_it_is_not_the_mean_of_angles():
    points = [torch.tensor([math.cos(a), math.sin(a)]) for a in (0, math.pi / 6, math.pi / 2)]
    found = run("multislerp", points)
    # (1 + cos 30 + 0, 0 + sin 30 + 1)
    assert math.atan2(found[1], found[0]) == pytest.approx(math.atan2(1.5, 1 + math.sqrt(0.75)))


def test_directions_that_cancel_have_the_mean_of_vectors():
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([-3.0, -6.0])
    assert torch.equal(run("multislerp", [a, b]), (a + b) / 2)
    # of three, mergekit stops
    angles = [
        torch.tensor([math.cos(t), math.sin(t)]) for t in (0, 2 * math.pi / 3, -2 * math.pi / 3)
    ]
    angles[0] *= 4
    torch.testing.assert_close(run("multislerp", angles), torch.tensor([1.0, 0.0]))
    # unless they are told to count only below eps
    assert run("multislerp", [a, b], weights=[1, 0.999], eps=1e-2).norm() == pytest.approx(
        (a + 0.999 * b).norm().item() / 1.999, rel=1e-5
    )


def test_weights_that_cancel():
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    with pytest.raises(MethodError, match="sum to zero"):
        run("multislerp", [a, b], weights=[1, -1])
    found = run("multislerp", [a, 2 * b], weights=[1, -1], normalize=False)
    # direction (1, -1), and 1 - 2 long
    torch.testing.assert_close(found, torch.tensor([-1.0, 1.0]) / math.sqrt(2))


def test_a_model_that_is_the_base_counts_as_a_length_alone():
    base, a = torch.tensor([5.0, 5.0]), torch.tensor([5.0, 9.0])
    assert torch.equal(run("multislerp", [base, a], base), torch.tensor([5.0, 7.0]))
