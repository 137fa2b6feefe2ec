"""nuslerp by hand, against its formula, whole and row by row, and through the engine."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_engine import run

from conjoin import merge
from conjoin.errors import MethodError

few = settings(deadline=None, max_examples=50)


def _reference(one, other, t, axis):
    """The formula in float64, along an axis; None is the whole."""
    if axis is None:
        return _reference(one.ravel(), other.ravel(), t, 0).reshape(one.shape)
    one, other = np.moveaxis(one, axis, -1), np.moveaxis(other, axis, -1)
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    theta = np.arccos(np.clip((one * other).sum(-1) / lengths, -1, 1))[..., None]
    sine = np.sin(theta)
    arc = (np.sin((1 - t) * theta) * one + np.sin(t * theta) * other) / np.where(sine, sine, 1)
    return np.moveaxis(np.where(sine > 1e-6, arc, (1 - t) * one + t * other), -1, axis)


@few
@given(
    st.sampled_from([(7,), (3, 5), (2, 3, 4), (1, 300), (4, 40_000)]),
    st.integers(0, 9999),
    st.sampled_from(["whole", "last", "first"]),
    st.booleans(),
)
def test_against_the_formula(shape, seed, way, based):
    random = np.random.default_rng(seed)
    one, other, base = random.normal(size=(3, *shape)).astype(np.float32)
    weights = random.uniform(0.1, 1, 2)
    t = float(weights[1] / weights.sum())
    given_base = torch.from_numpy(base) if based else None
    found = run(
        "nuslerp",
        [torch.from_numpy(one), torch.from_numpy(other)],
        given_base,
        weights=weights.tolist(),
        flatten=way == "whole",
        row_wise=way == "first",
        block=50_000,
    )
    zero = base.astype(float) * based
    axis = {"whole": None, "last": -1, "first": 0}[way]
    expected = zero + _reference(one - zero, other - zero, t, axis)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_by_hand():
    a, b = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    # weights 2 and 1: t = 1/3 of a right angle
    expected = torch.tensor([3 * math.sqrt(3) / 2, 1.5])
    torch.testing.assert_close(run("nuslerp", [a, b], weights=[2, 1]), expected)
    torch.testing.assert_close(run("nuslerp", [a, b], weights=[20, 10]), expected)
    base = torch.tensor([7.0, -5.0])
    found = run("nuslerp", [a + base, b + base], base, weights=[2, 1])
    torch.testing.assert_close(found, base + expected)


def test_vectors_along_the_last_axis_or_the_first():
    one, other = torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 3.0], [0.0, 4.0]])
    half = math.sqrt(0.5)
    # rows: a right angle of length 3, and a straight line from 2 to 4
    found = run("nuslerp", [one, other], flatten=False)
    torch.testing.assert_close(found, torch.tensor([[3 * half, 3 * half], [0.0, 3.0]]))
    # columns: (3, 0) and (0, 0): a straight line; (0, 2) and (3, 4): cos = 0.8
    found = run("nuslerp", [one, other], flatten=False, row_wise=True)
    theta = math.acos(0.8)
    factor = math.sin(theta / 2) / math.sin(theta)
    torch.testing.assert_close(found, torch.tensor([[1.5, 3 * factor], [0.0, 6 * factor]]))
    # row_wise says nothing of a whole tensor
    assert torch.equal(run("nuslerp", [one, other], row_wise=True), run("nuslerp", [one, other]))


@pytest.mark.parametrize("flatten", [True, False])
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0), (1,), (5, 1)])
@pytest.mark.parametrize("row_wise", [True, False])
def test_shapes_without_angles(flatten, shape, row_wise):
    one, other = torch.full(shape, 1.0), torch.full(shape, 3.0)
    given = {"flatten": flatten, "row_wise": row_wise}
    assert torch.equal(run("nuslerp", [one, other], **given), torch.full(shape, 2.0))
    base = torch.full(shape, 0.5)
    assert torch.equal(run("nuslerp", [one, other], base, **given), torch.full(shape, 2.0))


@pytest.mark.parametrize("flatten", [True, False])
def test_straight_lines(flatten):
    for a, b in [([0.0, 0.0], [2.0, 4.0]), ([1.0, 2.0], [-1.0, -2.0]), ([1.0, 2.0], [2.0, 4.0])]:
        one, other = torch.tensor(a), torch.tensor(b)
        found = run("nuslerp", [one, other], weights=[3, 1], flatten=flatten)
        torch.testing.assert_close(found, 0.75 * one + 0.25 * other)


def test_weights_that_cancel_are_refused():
    # mergekit takes t = 0.5
    for flatten in (True, False):
        with pytest.raises(MethodError, match="sum to zero"):
            run("nuslerp", [torch.ones(2), torch.ones(2)], weights=[1, -1], flatten=flatten)


@pytest.mark.parametrize("flatten", [True, False])
def test_the_engine_reads_whole_tensors_only_for_rows(flatten):
    models = torch.randn(3, 3, 100_001, generator=torch.Generator().manual_seed(0))
    one, other, base = ({"w": model} for model in models)
    parameters = {"flatten": flatten}
    merged = merge([one, other], "nuslerp", base=base, weights=[1, 2], parameters=parameters)
    expected = run("nuslerp", [models[0], models[1]], models[2], weights=[1, 2], **parameters)
    torch.testing.assert_close(merged["w"], expected)
    without = merge([one, other], "nuslerp", parameters=parameters)
    torch.testing.assert_close(without["w"], run("nuslerp", [models[0], models[1]], **parameters))
