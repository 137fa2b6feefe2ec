"""SCE by hand, and against the formulas of the paper and of mergekit in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_engine import run

from conjoin.errors import MethodError
from conjoin.methods import MERGEKIT_DEFAULTS

few = settings(deadline=None, max_examples=40)
grid = st.integers(-64, 64).map(lambda n: n / 16)  # whose sums have no rounding


@st.composite
def cases(draw):
    models, size = draw(st.integers(1, 4)), draw(st.integers(1, 20))
    row = st.lists(grid, min_size=size, max_size=size)
    share = draw(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]))
    return np.array([draw(row) for _ in range(models)]), np.array(draw(row)), share


def _selected(changes, share, *, differing):
    variance = changes.var(0)
    size = np.count_nonzero(variance > 1e-20) if differing else variance.size
    if share == 1:
        return changes
    kept = min(size, max(1, int(share * size))) if share else 0
    if kept == 0:
        return np.zeros_like(changes)
    limit = np.sort(variance)[-kept]
    return np.where(variance >= limit * (1 - 1e-6), changes, 0)


def _merged(changes, *, positive, weighted):
    squares = (changes**2).sum(1)
    shares = squares / squares.sum() if squares.any() else np.full(len(changes), 1 / len(changes))
    sign = np.sign(changes.sum(0))
    if positive:
        sign = np.where(sign >= 0, 1, -1)
    agree = (np.sign(changes) == sign) & (changes != 0)
    merged = (shares[:, None] * changes * agree).sum(0)
    divisor = (shares[:, None] * agree).sum(0)
    return merged / np.where(divisor > 0, divisor, 1) if weighted else merged


@few
@given(cases(), st.booleans())
def test_against_the_formulas(case, mergekit):
    changes, base, share = case
    tensors = [torch.tensor(base + change, dtype=torch.float32) for change in changes]
    settings = MERGEKIT_DEFAULTS["sce"] if mergekit else {}
    found = run("sce", tensors, torch.tensor(base, dtype=torch.float32), block=7,
                **{**settings, "select_topk": share})  # fmt: skip
    selected = _selected(changes, share, differing=mergekit)
    expected = base + _merged(selected, positive=mergekit, weighted=mergekit)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_by_hand():
    base = torch.tensor([1.0, 1.0])
    a, b = base + torch.tensor([3.0, 1.0]), base + torch.tensor([-1.0, 1.0])
    # squares 10 and 2: weights 5/6 and 1/6; the sign of 3 - 1 is that of a
    torch.testing.assert_close(run("sce", [a, b], base), torch.tensor([3.5, 2.0]))
    torch.testing.assert_close(run("sce", [a, b], base, scale=0.5), torch.tensor([2.25, 1.5]))
    # divided by the weights that agree: 3 and 1
    torch.testing.assert_close(run("sce", [a, b], base, merge="weighted"), torch.tensor([4.0, 2]))
    # only the first element differs: weights 9/10 and 1/10
    found = run("sce", [a, b], base, select_topk=0.5)
    torch.testing.assert_close(found, torch.tensor([3.7, 1.0]))


def test_an_even_vote():
    base = torch.zeros(1)
    tensors = [base + 2, base - 2]
    assert run("sce", tensors, base).item() == 0
    assert run("sce", tensors, base, undecided="positive").item() == 1
    assert run("sce", tensors, base, undecided="positive", merge="weighted").item() == 2


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-5, 1e-25])
def test_weights_do_not_depend_on_the_size_of_changes(size):
    # mergekit: below a mean square of 1e-6 all models weigh the same.
    base = torch.zeros(2)
    a, b = torch.tensor([3.0, 1.0]) * size, torch.tensor([1.0, 1.0]) * size
    found = run("sce", [a, b], base, **MERGEKIT_DEFAULTS["sce"])
    torch.testing.assert_close(found / size, torch.tensor([(30 + 2) / 12, 1.0]))
    found = run("sce", [a, b], base, select_topk=0.5)
    torch.testing.assert_close(found / size, torch.tensor([2.8, 0.0]))


def test_no_change_at_all():
    base = torch.tensor([1.0, 2.0])
    for share in (0.0, 0.5, 1.0):
        for among in ("all", "differing"):
            assert torch.equal(run("sce", [base] * 2, base, select_topk=share, among=among), base)


def test_one_model_differs_from_none():
    base, model = torch.zeros(3), torch.tensor([1.0, -2.0, 3.0])
    assert torch.equal(run("sce", [model], base, select_topk=0.3), model)
    assert torch.equal(run("sce", [model], base, select_topk=0.3, among="differing"), base)


def test_complex_tensors_are_refused():
    tensor = torch.zeros(2, dtype=torch.complex64)
    with pytest.raises(MethodError, match="complex"):
        run("sce", [tensor], tensor)


def test_equal_spreads_are_selected_together():
    # The same three changes in other orders; then a little less. A mean of three has roundings.
    changes = [[0.1, 0.7, 0.3, 0.1], [0.7, 0.3, 0.1, 0.7], [0.3, 0.1, 0.7, 0.32]]
    tensors = [torch.tensor(row, dtype=torch.bfloat16).float() for row in changes]
    found = run("sce", tensors, torch.zeros(4), select_topk=0.25)
    assert (found != 0).tolist() == [True, True, True, False]
    found = run(
        "sce", [tensor.double() for tensor in tensors], torch.zeros(4).double(), select_topk=0.25
    )
    assert (found != 0).tolist() == [True, True, True, False]
