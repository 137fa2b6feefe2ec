"""NearSwap by hand, and against the author's formula."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_engine import run

from conjoin.errors import MethodError

few = settings(deadline=None, max_examples=50)
values = st.floats(-4, 4, width=32)


@few
@given(st.lists(st.tuples(values, values), min_size=1, max_size=20), st.floats(0, 5))
def test_against_the_formula(pairs, t):
    one, base = np.float32(pairs).T
    with np.errstate(divide="ignore", invalid="ignore"):
        share = t / np.abs(base.astype(float) - one)
    share = np.clip(np.nan_to_num(share, nan=1.0, posinf=1.0), 0, 1)
    expected = share * one + (1 - share) * base
    found = run("nearswap", [torch.tensor(one)], torch.tensor(base), t=t)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=2e-6)


def test_by_hand():
    one = torch.tensor([1.5, 1.0, 3.0, -3.0])
    found = run("nearswap", [one], torch.ones(4), t=1.0)
    assert found.tolist() == [1.5, 1.0, 2.0, 0.0]
    assert torch.equal(run("nearswap", [one], torch.ones(4), t=0.0), torch.ones(4))


def test_small_t_is_no_other_formula():
    # mergekit divides by 1e-6 at least, and would go a tenth of the way.
    found = run("nearswap", [torch.tensor([1e-7])], torch.tensor([0.0]), t=1e-7)
    assert torch.equal(found, torch.tensor([1e-7]))


def test_two_models_are_too_many_and_t_is_not_negative():
    with pytest.raises(MethodError, match="exactly 1 model, and here are 2"):
        run("nearswap", [torch.ones(1)] * 2, torch.ones(1))
    with pytest.raises(MethodError, match="nearswap: t must be a number from 0"):
        run("nearswap", [torch.ones(1)], torch.ones(1), t=-1.0)
