"""MagMax by hand and against NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_engine import run

from conjoin.errors import MethodError
from conjoin.methods.strips import STRIP

nasty = st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 3e38, -3e38, 1.0, -1.0]) | st.floats(
    width=32, allow_nan=False, allow_infinity=False
)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_against_the_formula(data):
    models, size = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
    row = st.lists(nasty, min_size=size, max_size=size)
    changes = np.array([data.draw(row) for _ in range(models)], np.float32)
    found = run("magmax", list(torch.from_numpy(changes)), torch.zeros(size))
    # Positive ones first, so that argmax takes them of equal magnitudes.
    ordered = -np.sort(-changes, 0)
    expected = np.take_along_axis(ordered, np.abs(ordered).argmax(0)[None], 0)[0]
    assert np.array_equal(found.numpy(), expected)


def test_by_hand():
    base = torch.tensor([1.0, 1.0, 1.0, 1.0])
    a, b = torch.tensor([4.0, 2.0, 0.0, 3.0]), torch.tensor([-3.0, 1.0, 3.0, -1.0])
    assert run("magmax", [a, b], base).tolist() == [-3, 2, 3, 3]
    assert run("magmax", [b, a], base).tolist() == [-3, 2, 3, 3]
    assert run("magmax", [a, b], base, scale=0.5).tolist() == [-1, 1.5, 2, 2]


def test_long_tensors_and_complex_ones():
    tensors = list(torch.randn(3, STRIP + 5, generator=torch.Generator().manual_seed(0)))
    found = run("magmax", tensors, torch.zeros(STRIP + 5))
    assert torch.equal(found.abs(), torch.stack(tensors).abs().amax(0))
    with pytest.raises(MethodError, match="complex"):
        run(
            "magmax", [torch.zeros(1, dtype=torch.complex64)], torch.zeros(1, dtype=torch.complex64)
        )
