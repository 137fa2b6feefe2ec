"""Breadcrumbs by hand, against sorting, and at the sizes where mergekit loses a tensor."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_engine import run, run_model

from conjoin.errors import MethodError
from conjoin.methods import MERGEKIT_DEFAULTS

few = settings(deadline=None, max_examples=40)
grid = st.integers(-64, 64).map(lambda n: n / 16)  # whose sums have no rounding


def _masked(change, density, gamma):
    """Davari and Belilovsky: without the top gamma, then the top density of the rest."""
    size = change.size
    kept = min(size, max(1, int(density * size))) if density else 0
    if kept == 0:
        return np.zeros_like(change)
    top = min(int(gamma * size), size - kept)
    falling = np.sort(np.abs(change))[::-1]
    low, high = falling[top + kept - 1], falling[top]
    return np.where((np.abs(change) >= low) & (np.abs(change) <= high), change, 0)


@st.composite
def cases(draw):
    models, size = draw(st.integers(1, 3)), draw(st.integers(1, 25))
    row = st.lists(grid, min_size=size, max_size=size)
    shares = st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.8, 1.0])
    each = st.lists(shares, min_size=models, max_size=models)
    weights = draw(st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=models, max_size=models))
    return (
        np.array([draw(row) for _ in range(models)]),
        np.array(draw(row)),
        weights,
        draw(each),
        draw(each),
    )


@few
@given(cases())
def test_against_the_paper(case):
    models, base, weights, densities, gammas = case
    tensors = [torch.tensor(model, dtype=torch.float32) for model in models]
    given = (tensors, torch.tensor(base, dtype=torch.float32))
    parameters = {"density": densities, "gamma": gammas, "weights": weights, "block": 7}
    changes = np.stack(
        [
            a * _masked(model - base, density, gamma)
            for model, a, density, gamma in zip(models, weights, densities, gammas, strict=True)
        ]
    )
    found = run("breadcrumbs", *given, **parameters, scale=0.5)
    np.testing.assert_allclose(found.numpy(), base + 0.5 * changes.sum(0), rtol=1e-6, atol=1e-6)
    agree = (np.sign(changes) == np.sign(changes.sum(0))) & (changes != 0)
    expected = base + (changes * agree).sum(0) / np.maximum(agree.sum(0), 1)
    found = run("breadcrumbs_ties", *given, **parameters)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-6)


# Of 10 elements int(0.2 * 10) = 2 are dropped at the top (10, -9), and 3 are kept: 8, -7, 6.
TEN = [1.0, -9.0, 2.0, 10.0, -3.0, 8.0, 4.0, -7.0, 6.0, 5.0]
KEPT = [0, 0, 0, 0, 0, 8, 0, -7, 6, 0]


@pytest.mark.parametrize("start", [0.0, 16.0])
def test_by_hand(start):
    base = torch.full((10,), start)
    tensor = base + torch.tensor(TEN)
    found = run("breadcrumbs", [tensor], base, density=0.3, gamma=0.2)
    assert (found - base).tolist() == KEPT
    found = run("breadcrumbs", [tensor], base, weights=[0.5], density=0.3, gamma=0.2, scale=4)
    assert (found - base).tolist() == [2 * x for x in KEPT]
    # the sum of magnitudes was 55, and is 21
    found = run("breadcrumbs", [tensor], base, density=0.3, gamma=0.2, rescale="l1")
    np.testing.assert_allclose((found - base).numpy(), np.array(KEPT) * 55 / 21, rtol=1e-5)


def test_signs_by_hand():
    base = torch.zeros(10)
    other = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, -2.0, 0.0, -3.0, 0.0, 0.0])
    parameters = {"density": [0.3, 1], "gamma": 0.2}
    found = run("breadcrumbs_ties", [torch.tensor(TEN), other], base, **parameters)
    assert found.tolist() == [0, 0, 0, 0, 0, 8, 0, -5, 6, 0]
    parameters["merge"] = "sum"
    found = run("breadcrumbs_ties", [torch.tensor(TEN), other], base, **parameters)
    assert found.tolist() == [0, 0, 0, 0, 0, 8, 0, -10, 6, 0]


@pytest.mark.parametrize("size", [1, 2, 3, 10, 50, 99])
def test_a_tensor_under_100_elements_is_not_lost(size):
    # mergekit: n_top = int(0.01 n) = 0, and indices[n_bot:-0] is empty.
    change = torch.arange(1.0, size + 1)
    settings = {**MERGEKIT_DEFAULTS["breadcrumbs"], "density": 0.5}
    found = run("breadcrumbs", [change], torch.zeros(size), **settings)
    kept = max(1, size // 2)
    assert found.tolist() == [0.0] * (size - kept) + change[size - kept :].tolist()


def test_where_too_few_are_left_fewer_are_dropped_at_the_top():
    base, tensor = torch.zeros(10), torch.tensor(TEN)
    found = run("breadcrumbs", [tensor], base, density=0.9, gamma=0.5)
    assert found.tolist() == [0.0 if abs(x) == 10 else x for x in TEN]
    assert run("breadcrumbs", [tensor], base, density=1, gamma=0.5).tolist() == TEN
    assert run("breadcrumbs", [tensor], base, density=0).tolist() == [0] * 10


def test_equal_changes_are_all_kept_and_not_all_dropped():
    base, tensor = torch.zeros(100), torch.full((100,), -2.0)
    assert torch.equal(run("breadcrumbs", [tensor], base, density=0.3, gamma=0.1), tensor)


def test_shares_of_each_tensor_and_of_the_model():
    model = {"x": torch.tensor([10.0, 9.0]), "y": torch.tensor([1.0, 2.0])}
    base = {name: torch.zeros(2) for name in model}
    each = run_model("breadcrumbs", [model], base, density=0.5, gamma=0.5)
    assert {name: tensor.tolist() for name, tensor in each.items()} == {"x": [0, 9], "y": [1, 0]}
    whole = run_model("breadcrumbs", [model], base, density=0.5, gamma=0.25, per="model")
    assert {name: tensor.tolist() for name, tensor in whole.items()} == {"x": [0, 9], "y": [0, 2]}


def test_a_model_of_two_dtypes():
    model = {
        "x": torch.tensor([10.0, 9.0]),
        "y": torch.tensor([1e300, 9 + 1e-12], dtype=torch.float64),
    }
    base = {name: torch.zeros_like(tensor) for name, tensor in model.items()}
    found = run_model("breadcrumbs", [model], base, density=0.25, gamma=0.5, per="model")
    # 1e300 and 10 are dropped; the next one of four is a little more than 9
    assert found["x"].tolist() == [0, 0]
    assert found["y"].tolist() == [0, 9 + 1e-12]


@pytest.mark.parametrize("method", ["breadcrumbs", "breadcrumbs_ties"])
def test_what_is_refused(method):
    tensor = torch.zeros(2)
    with pytest.raises(MethodError, match="gamma must be a number from 0 to 1"):
        run(method, [tensor], tensor, gamma=2)
    with pytest.raises(MethodError, match="complex"):
        run(method, [tensor.to(torch.complex64)], tensor.to(torch.complex64))
