"""Moments, batch by batch, against NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conjoin.errors import NonFiniteError
from conjoin.repairing.moments import Moments, Statistics, averaged


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(0, 4))
def test_batches_of_any_size_against_numpy(sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    sizes = [2, *sizes]
    parts = [
        1e3 + torch.randn(n, 3, 2, generator=generator, dtype=torch.float64) for n in sizes if n
    ]
    seen, other = Moments("a"), Moments("b")
    for number, part in enumerate(parts):
        (seen if number % 2 else other).add(part, axis=1)
    whole = np.concatenate([part.movedim(1, -1).reshape(-1, 3).numpy() for part in parts])
    joined = seen.joined(other)
    np.testing.assert_allclose(joined.statistics().mean, whole.mean(0), rtol=1e-12)
    np.testing.assert_allclose(joined.statistics().deviation, whole.std(0), rtol=1e-9)
    np.testing.assert_allclose(joined.variance(unbiased=True), whole.var(0, ddof=1), rtol=1e-9)


def test_averages_are_of_deviations_not_of_variances():
    one = Statistics(torch.tensor([0.0]), torch.tensor([1.0]))
    other = Statistics(torch.tensor([4.0]), torch.tensor([3.0]))
    found = averaged([one, other], [0.25, 0.75])
    assert found.mean.tolist() == [3.0]
    assert found.deviation.tolist() == [2.5]


def test_what_is_not_finite_is_named():
    with pytest.raises(NonFiniteError, match="the 'fc' of parent 2"):
        Moments("the 'fc' of parent 2").add(torch.tensor([[1.0], [torch.nan]]), -1)
