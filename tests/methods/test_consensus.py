"""Consensus merging and TALL masks by hand and against the paper's formulas."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_engine import run

from conjoin.errors import MethodError
from conjoin.methods import METHODS
from conjoin.methods.consensus import check_task

few = settings(deadline=None, max_examples=40)
grid = st.integers(-16, 16).map(lambda n: n / 4)  # whose sums have no rounding


@st.composite
def cases(draw):
    models, size = draw(st.integers(2, 4)), draw(st.integers(1, 12))
    row = st.lists(grid, min_size=size, max_size=size)
    weights = draw(st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=models, max_size=models))
    thresholds = st.sampled_from([0.0, 0.25, 0.5, 1.0])
    threshold = draw(thresholds | st.lists(thresholds, min_size=models, max_size=models))
    return np.array([draw(row) for _ in range(models)]), np.array(draw(row)), weights, threshold


def _masks(changes, weights, threshold):
    merged = np.tensordot(weights, changes, 1)
    limits = np.broadcast_to(threshold, len(changes))[:, None]
    return merged, np.abs(changes) > limits * np.abs(merged - changes)


@few
@given(cases(), st.data())
def test_against_the_paper(case, data):
    changes, base, weights, threshold = case
    tensors = [torch.tensor(base + change, dtype=torch.float32) for change in changes]
    given = (tensors, torch.tensor(base, dtype=torch.float32))
    merged, masks = _masks(changes, weights, threshold)
    agree = data.draw(st.integers(0, len(changes)))
    found = run("consensus", *given, weights=weights, threshold=threshold, agree=agree, scale=0.5)
    np.testing.assert_array_equal(found.numpy(), base + 0.5 * merged * (masks.sum(0) >= agree))
    task = data.draw(st.integers(0, len(changes) - 1))
    found = run("tall_mask", *given, weights=weights, threshold=threshold, task=task)
    np.testing.assert_array_equal(found.numpy(), base + merged * masks[task])


# The sum is 3.5, -1, 1; what is besides: 1.5, 2.5, 3; 0, -1, -1; 1, 2, -1
A, B, C = [2.0, 0.0, -1.0], [1.0, 0.0, 3.0], [0.5, -1.0, -1.0]


def test_by_hand():
    tensors, base = [torch.tensor(x) for x in (A, B, C)], torch.zeros(3)
    # |2| > .4 * 1.5, |1| < .4 * 2.5 is not more, |.5| < .4 * 3
    assert run("consensus", tensors, base, agree=1).tolist() == [3.5, -1, 1]
    assert run("consensus", tensors, base).tolist() == [0, 0, 1]
    assert run("consensus", tensors, base, threshold=[0.4, 0.3, 0.4]).tolist() == [3.5, 0, 1]
    assert run("consensus", tensors, base, agree=0).tolist() == [3.5, -1, 1]
    for task, expected in enumerate([[3.5, 0, 1], [0, 0, 1], [0, -1, 1]]):
        assert run("tall_mask", tensors, base, task=task).tolist() == expected
    assert run("tall_mask", tensors, base, task=0, scale=2).tolist() == [7, 0, 2]


def test_consensus_of_none_is_task_arithmetic():
    base, *tensors = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    found = run("consensus", tensors, base, weights=[1, 2, 3], agree=0, normalize=True)
    expected = run("task_arithmetic", tensors, base, weights=[1, 2, 3], normalize=True)
    torch.testing.assert_close(found, expected)


def test_without_overlap_each_task_gets_its_own_model_back():
    base = torch.zeros(6)
    tensors = [torch.tensor([1.0, 2, 0, 0, 0, 0]), torch.tensor([0, 0, 3.0, 4, 0, 0])]
    for task, tensor in enumerate(tensors):
        assert torch.equal(run("tall_mask", tensors, base, task=task), tensor)


def test_what_is_refused():
    base = torch.zeros(2)
    with pytest.raises(MethodError, match="agree is 3, and 2 models can never be so many"):
        run("consensus", [base, base], base, agree=3)
    with pytest.raises(MethodError, match="at least 2 models"):
        run("consensus", [base], base)
    for method in ("tall_mask", "emr"):
        for task in (-1, 2):
            with pytest.raises(MethodError, match=f"{method}: task .* from 0 to 1, not {task}"):
                run(method, [base, base], base, task=task)
    with pytest.raises(MethodError, match="threshold of model 1 must be a number from 0"):
        run("consensus", [base, base], base, threshold=[0.1, -1])
    with pytest.raises(MethodError, match="complex"):
        run("tall_mask", [base.to(torch.complex64)], base.to(torch.complex64))
    assert check_task(1, 2, "it") == 1


def test_the_rows_say_that_there_is_a_result_for_each_task():
    per_task = {name for name, row in METHODS.items() if row.per_task}
    assert {"tall_mask", "emr"} <= per_task
    assert all(METHODS[name].defaults["task"] == 0 for name in per_task)
