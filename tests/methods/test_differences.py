"""Adding differences, by hand and against SuperMerger's formula."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_engine import run

from conjoin.errors import MethodError

few = settings(deadline=None, max_examples=50)
values = st.sampled_from([0.0, 1.0, -1.0]) | st.floats(-4, 4, width=32)


def _supermerger(a, b, c, alpha):
    """As its source has it, in float64: theta_0, theta_1 and theta_2 are a, b and c."""
    a, b, c = (part.astype(np.float64) for part in (a, b, c))
    to_base, to_first = np.abs(b - c), np.abs(b - a)
    both = to_base + to_first
    scale = np.where(both != 0, to_first / np.where(both != 0, both, 1), 0)
    return a + np.sign(b - c) * scale * np.abs(b - c) * alpha * 1.8


@few
@given(st.lists(st.tuples(values, values, values), min_size=1, max_size=20), st.floats(-2, 2))
def test_against_the_formulas(rows, alpha):
    a, b, c = np.float32(rows).T
    models, base = [torch.tensor(a), torch.tensor(b)], torch.tensor(c)
    close = {"rtol": 1e-5, "atol": 1e-5}
    found = run("train_difference", models, base, alpha=alpha)
    np.testing.assert_allclose(found.numpy(), _supermerger(a, b, c, alpha), **close)
    found = run("add_difference", models, base, alpha=alpha)
    np.testing.assert_allclose(
        found.numpy(), a.astype(float) + alpha * (b.astype(float) - c), **close
    )


def test_by_hand():
    a, b, c = torch.tensor([2.0, 5.0, 1.0]), torch.tensor([5.0, 5.0, 3.0]), torch.tensor([3.0] * 3)
    # 2 + 1.8 * 2 * 3 / (2 + 3); there already; nothing was learned
    found = run("train_difference", [a, b], c)
    torch.testing.assert_close(found, torch.tensor([4.16, 5.0, 1.0]))
    assert run("add_difference", [a, b], c).tolist() == [4.0, 7.0, 1.0]
    assert run("add_difference", [a, b], c, alpha=-0.5).tolist() == [1.0, 4.0, 1.0]


def test_a_first_model_that_is_the_base_gets_nine_tenths():
    # There |w_2 - w_1| = |w_2 - w_0|, so that the share is a half.
    base, other = torch.tensor([1.0, -2.0]), torch.tensor([2.0, 0.0])
    found = run("train_difference", [base, other], base)
    torch.testing.assert_close(found, base + 0.9 * (other - base))


def test_complex_tensors():
    one = torch.ones(1, dtype=torch.complex64)
    assert torch.equal(run("add_difference", [one, 2j * one], one), 2j * one)
    with pytest.raises(MethodError, match="complex"):
        run("train_difference", [one, one], one)
