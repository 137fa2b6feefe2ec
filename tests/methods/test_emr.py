"""EMR by hand and against the paper's formulas."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_engine import run, run_model

from conjoin.errors import MethodError
from conjoin.methods.strips import STRIP

grid = st.integers(-16, 16).map(lambda n: n / 4)  # whose sums have no rounding


def _reference(changes, task):
    sign = np.sign(changes.sum(0))
    largest = np.where(np.sign(changes) == sign, np.abs(changes), 0).max(0)
    mask = changes[task] * sign > 0
    after = (largest * mask).sum()
    return sign * largest * mask * (np.abs(changes[task]).sum() / after if after else 1)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_against_the_paper(data):
    models, size = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 12))
    row = st.lists(grid, min_size=size, max_size=size)
    changes, base = np.array([data.draw(row) for _ in range(models)]), np.array(data.draw(row))
    tensors = [torch.tensor(base + change, dtype=torch.float32) for change in changes]
    task = data.draw(st.integers(0, models - 1))
    found = run("emr", tensors, torch.tensor(base, dtype=torch.float32), task=task, block=5)
    np.testing.assert_allclose(
        found.numpy(), base + _reference(changes, task), atol=1e-4, rtol=1e-5
    )


# The sum is 4, 2, -1: elected 3, 4, -2.
A, B = [1.0, -2.0, 1.0], [3.0, 4.0, -2.0]


def test_by_hand():
    base, tensors = torch.ones(3), [torch.tensor(A) + 1, torch.tensor(B) + 1]
    # of a only the first agrees: sums of magnitudes 4 and 3
    torch.testing.assert_close(run("emr", tensors, base, task=0), torch.tensor([5.0, 1, 1]))
    torch.testing.assert_close(run("emr", tensors, base, task=1), torch.tensor([4.0, 5, -1]))
    found = run("emr", tensors, base, task=0, scale=0.5)
    torch.testing.assert_close(found, torch.tensor([3.0, 1, 1]))


def test_the_size_is_that_of_the_model_or_of_each_tensor():
    models = [
        {"x": torch.tensor(A), "y": torch.ones(1)},
        {"x": torch.tensor(B), "y": torch.zeros(1)},
    ]
    base = {"x": torch.zeros(3), "y": torch.zeros(1)}
    found = run_model("emr", models, base)  # sums 5 and 4
    assert (found["x"].tolist(), found["y"].tolist()) == ([3.75, 0, 0], [1.25])
    found = run_model("emr", models, base, per="tensor")
    assert (found["x"].tolist(), found["y"].tolist()) == ([4, 0, 0], [1])


def test_the_sum_of_magnitudes_is_that_of_the_task():
    tensors = list(torch.randn(3, STRIP + 7, generator=torch.Generator().manual_seed(0)))
    for task, tensor in enumerate(tensors):
        found = run("emr", tensors, torch.zeros(STRIP + 7), task=task).double()
        assert found.abs().sum().item() == pytest.approx(
            tensor.double().abs().sum().item(), rel=1e-6
        )
        assert ((found == 0) | (found.sign() == tensor.sign())).all()


def test_no_change_and_complex_tensors():
    base = torch.tensor([1.0, 2.0])
    assert torch.equal(run("emr", [base, base], base), base)
    with pytest.raises(MethodError, match="complex"):
        run("emr", [base.to(torch.complex64)], base.to(torch.complex64))
