"""Sign election against its formula in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conjoin.methods.elections import check_election, merge_elected

few = settings(deadline=None, max_examples=60)
# Sixteenths add up without a rounding, so that votes are the same in float32 and float64.
grid = st.integers(-64, 64).map(lambda n: n / 16)
sides = st.sampled_from([0.25, 0.5, 1.0, 2.0])
elects = st.sampled_from(["sum", "count"])
merges = st.sampled_from(["mean", "weighted", "sum"])
undecideds = st.sampled_from(["drop", "positive"])


@st.composite
def votes(draw):
    models, size = draw(st.integers(1, 5)), draw(st.integers(1, 20))
    rows = [draw(st.lists(grid, min_size=size, max_size=size)) for _ in range(models)]
    return np.array(rows), draw(st.lists(sides, min_size=models, max_size=models))


def reference(changes, weights, elect, merge, undecided):
    """The module's formulas, on weighted changes [n, size] in float64."""
    weights = np.asarray(weights)[:, None]
    sign = np.sign(changes.sum(0) if elect == "sum" else np.sign(changes).sum(0))
    if undecided == "positive":
        sign = np.where(sign == 0, 1, sign)
    agree = (np.sign(changes) == sign) & (changes != 0)
    divisor = {"mean": agree.sum(0), "weighted": (agree * weights).sum(0), "sum": 1.0}[merge]
    divisor = np.where(agree.any(0), divisor, 1)
    return (changes * agree).sum(0) / divisor


def _merge(changes, weights, **choices):
    tensors = [torch.tensor(row, dtype=torch.float32) for row in changes]
    return merge_elected(tensors, weights, **choices).double().numpy()


@few
@given(votes(), elects, merges, undecideds)
def test_against_the_formula(case, elect, merge, undecided):
    raw, weights = case
    changes = raw * np.array(weights)[:, None]
    found = _merge(changes, weights, elect=elect, merge=merge, undecided=undecided)
    expected = reference(changes, weights, elect, merge, undecided)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@few
@given(votes(), elects, merges)
def test_the_opposite_changes_give_the_opposite(case, elect, merge):
    changes, weights = case
    choices = {"elect": elect, "merge": merge, "undecided": "drop"}
    one, other = _merge(changes, weights, **choices), _merge(-changes, weights, **choices)
    assert (one == -other).all()


@pytest.mark.parametrize(
    ("changes", "choices", "expected"),
    [
        # 1 - 3 + 1 < 0: the -3 alone; two of three are positive: (1 + 1) / 2
        ([1, -3, 1], {}, -3),
        ([1, -3, 1], {"elect": "count"}, 1),
        ([1, -3, 1], {"elect": "count", "merge": "sum"}, 2),
        # an even vote
        ([2, -2], {}, 0),
        ([2, -2], {"undecided": "positive"}, 2),
        ([2, -5], {"elect": "count", "undecided": "positive"}, 2),
        ([0, 0], {"undecided": "positive"}, 0),
        # a change of zero neither agrees nor counts: (4 + 2) / 2
        ([4, 0, 2], {}, 3),
        # weights 1, 2, 4 of the three: (4 + 2) / (1 + 4)
        ([4, 0, 2], {"merge": "weighted"}, 1.2),
    ],
)
def test_by_hand(changes, choices, expected):
    given = {"elect": "sum", "merge": "mean", "undecided": "drop", **choices}
    tensors = [torch.tensor([float(change)]) for change in changes]
    assert merge_elected(tensors, [1, 2, 4][: len(tensors)], **given).item() == pytest.approx(
        expected
    )


def test_divisors_that_could_be_zero_are_refused_for_weighted_only():
    check_election([1, -1], "mean", "it")
    check_election([1, -1], "sum", "it")
    with pytest.raises(ValueError, match="it with merge='weighted'"):
        check_election([1, -1], "weighted", "it")
