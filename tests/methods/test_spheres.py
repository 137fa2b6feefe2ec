"""slerp by hand, and against Shoemake's formula in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_engine import run

from conjoin.errors import MethodError
from conjoin.methods import MERGEKIT_DEFAULTS

few = settings(deadline=None, max_examples=50)
values = st.floats(-4, 4, width=32).map(lambda x: x if abs(x) > 1e-6 else 0.0)


@st.composite
def pairs(draw):
    size = draw(st.integers(1, 20))
    row = st.lists(values, min_size=size, max_size=size)
    return np.float32(draw(row)), np.float32(draw(row)), draw(st.floats(0, 1))


def _reference(a, b, t, eps):
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    cosine = a @ b / lengths if lengths else 1.0
    if abs(cosine) > 1 - eps:
        return (1 - t) * a + t * b
    theta = np.arccos(cosine)
    return (np.sin((1 - t) * theta) * a + np.sin(t * theta) * b) / np.sin(theta)


@few
@given(pairs(), st.sampled_from([1e-4, 0.0005, 0.1, 1.0]))
def test_against_the_formula(case, eps):
    a, b, t = case
    found = run("slerp", [torch.tensor(a), torch.tensor(b)], t=t, eps=eps, block=7)
    lengths = np.linalg.norm(a.astype(float)) * np.linalg.norm(b.astype(float))
    if lengths and abs(abs(a.astype(float) @ b / lengths) - (1 - eps)) < 1e-12:
        return  # which side of the limit it is on is a rounding
    np.testing.assert_allclose(found.numpy(), _reference(a, b, t, eps), rtol=1e-5, atol=2e-6)


def test_by_hand():
    a, b = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    # A right angle: a cos(30) + b sin(30)
    found = run("slerp", [a, b], t=1 / 3)
    torch.testing.assert_close(found, torch.tensor([3 * math.sqrt(3) / 2, 1.5]))
    # 60 degrees apart, half way: (a + b) sin(30) / sin(60) = (a + b) / sqrt(3)
    c = torch.tensor([1.5, 1.5 * math.sqrt(3)])
    torch.testing.assert_close(run("slerp", [a, c]), (a + c) / math.sqrt(3))
    # lengths 1 and 3 at a right angle
    found = run("slerp", [a / 3, b])
    torch.testing.assert_close(found, torch.tensor([1.0, 3.0]) / math.sqrt(2))


def test_a_tensor_is_one_vector_whatever_its_shape():
    a, b = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    flat = run("slerp", [a.reshape(-1), b.reshape(-1)], t=0.3)
    assert torch.equal(run("slerp", [a, b], t=0.3).reshape(-1), flat)


@few
@given(pairs())
def test_the_ends_are_the_models_and_backwards_is_the_same_way(case):
    a, b, t = torch.tensor(case[0]), torch.tensor(case[1]), case[2]
    close = {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(run("slerp", [a, b], t=0.0), a, **close)
    torch.testing.assert_close(run("slerp", [a, b], t=1.0), b, **close)
    backwards = run("slerp", [b, a], t=1 - t)
    torch.testing.assert_close(run("slerp", [a, b], t=t), backwards, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1.0])
def test_the_length_is_kept_between_vectors_of_one_length(t):
    a, b = torch.randn(2, 1000, generator=torch.Generator().manual_seed(1))
    a, b = a / a.norm(), b / b.norm()
    assert run("slerp", [a, b], t=t).norm().item() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([0.0, 0.0], [2.0, 4.0]),  # no direction
        ([2.0, 4.0], [0.0, 0.0]),
        ([0.0, 0.0], [0.0, 0.0]),
        ([1.0, 2.0], [3.0, 6.0]),  # parallel
        ([1.0, 2.0], [-1.0, -2.0]),  # opposite
        ([1.0, 2.0], [1.0, 2.0000002]),  # nearly
        ([], []),
        ([1e-38, 0.0], [2e-38, 0.0]),
        ([1e38, 0.0], [2e38, 0.0]),
    ],
)
@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_straight_lines(a, b, eps):
    a, b = torch.tensor(a), torch.tensor(b)
    found = run("slerp", [a, b], t=0.25, eps=eps)
    assert found.isfinite().all()
    torch.testing.assert_close(found, 0.75 * a + 0.25 * b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_float64_vectors_out_of_range_of_their_squares_are_a_straight_line(size):
    a, b = size * torch.eye(2, dtype=torch.float64)
    assert torch.equal(run("slerp", [a, b]), (a + b) / 2)


def test_the_default_is_as_good_as_the_formula_near_its_limit():
    for angle in (1e-5, 1e-4, 2e-4, 1e-3, 0.03):
        a, b = [1.0, 0.0], [math.cos(angle), math.sin(angle)]
        found = run("slerp", [torch.tensor(a), torch.tensor(b)], t=0.3)
        torch.testing.assert_close(
            found,
            torch.tensor([math.cos(0.3 * angle), math.sin(0.3 * angle)]),
            rtol=2e-7,
            atol=1e-8,
        )


def test_mergekit_s_limit():
    # cos = 0.9998: a straight line there, and an arc by default
    a = torch.tensor([1.0, 0.0])
    b = torch.tensor([0.9998, math.sqrt(1 - 0.9998**2)])
    straight = run("slerp", [a, b], **MERGEKIT_DEFAULTS["slerp"])
    assert torch.equal(straight, torch.lerp(a, b, 0.5))
    assert run("slerp", [a, b]).norm() > straight.norm()


def test_one_nan_does_not_hide():
    a, b = torch.tensor([1.0, math.nan]), torch.tensor([1.0, 2.0])
    assert run("slerp", [a, b]).isnan().tolist() == [False, True]


@pytest.mark.parametrize("angle", [1e-6, 1e-3, 0.5, 2.0, 3.0, 3.1410])
@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e25])
def test_long_vectors_at_all_angles_and_of_all_sizes(angle, size):
    """Nearly opposite ones have coefficients that a small error of the cosine would spoil."""
    random = torch.Generator().manual_seed(0)
    one, other = torch.linalg.qr(torch.randn(70_000, 2, generator=random))[0].t() * 300
    tensors = [(size * one), size * (math.cos(angle) * one + math.sin(angle) * other)]
    a, b = (tensor.numpy() for tensor in tensors)
    found = run("slerp", tensors, t=0.3, eps=1e-9).double().numpy() / size
    # The same limit would be another branch by a rounding; the two agree there.
    expected = _reference(a, b, 0.3, 1e-9) / size
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max(), rtol=1e-6)


def test_complex_tensors_are_refused():
    with pytest.raises(MethodError, match="slerp looks at"):
        run("slerp", [torch.ones(2, dtype=torch.complex64)] * 2)
