"""Medians and trimmed means, against NumPy's sorting."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_engine import run

from conjoin.errors import MethodError
from conjoin.methods.medians import _network

few = settings(deadline=None, max_examples=60)
values = st.sampled_from([0.0, -0.0, 1.0, -1.0]) | st.floats(-100, 100, width=32)


@st.composite
def stacks(draw):
    count, size = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    rows = st.lists(values, min_size=size, max_size=size)
    return np.float32(draw(st.lists(rows, min_size=count, max_size=count)))


@few
@given(stacks())
def test_median_against_numpy(stack):
    found = run("median", list(torch.from_numpy(stack)))
    np.testing.assert_allclose(found.numpy(), np.median(stack, 0), rtol=1e-6, atol=1e-6)


@few
@given(stacks(), st.sampled_from([0.0, 0.1, 0.2, 0.25, 1 / 3, 0.4, 0.5]))
def test_trimmed_mean_against_numpy(stack, trim):
    count = len(stack)
    cut = 0 if trim == 0 else max(1, math.floor(trim * count + 1e-9))
    cut = min(cut, (count - 1) // 2)
    expected = np.sort(stack.astype(float), 0)[cut : count - cut].mean(0)
    found = run("trimmed_mean", list(torch.from_numpy(stack)), trim=trim)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


@few
@given(stacks(), st.data())
def test_the_order_of_models_changes_no_bit(stack, data):
    order = data.draw(st.permutations(range(len(stack))))
    for method in ("median", "trimmed_mean"):
        one = run(method, list(torch.from_numpy(stack))).view(torch.int32)
        other = run(method, list(torch.from_numpy(stack[order]))).view(torch.int32)
        assert torch.equal(one, other) or method == "trimmed_mean"


def test_by_hand():
    tensors = [torch.tensor([value]) for value in (9.0, 1.0, 2.0, -50.0, 4.0)]
    assert run("median", tensors).tolist() == [2]
    assert run("median", tensors[:4]).tolist() == [1.5]
    assert run("median", tensors[:2]).tolist() == [5]
    # without -50 and 9: 7 / 3
    torch.testing.assert_close(run("trimmed_mean", tensors), torch.tensor([7 / 3]))
    assert run("trimmed_mean", tensors, trim=0.5).tolist() == [2]
    torch.testing.assert_close(run("trimmed_mean", tensors, trim=0.0), torch.tensor([-34 / 5]))
    # of one or two none is left out
    assert run("trimmed_mean", tensors[:2], trim=0.5).tolist() == [5]


def test_the_share_of_many_is_not_one_less_by_a_rounding():
    # 0.29 * 100 is 28.999999999999996.
    tensors = [torch.tensor([1e6])] * 29 + [torch.tensor([1.0])] * 71
    assert run("trimmed_mean", tensors, trim=0.29).tolist() == [1]


@pytest.mark.parametrize("count", range(1, 20))
def test_the_network_sorts_everything(count):
    # By the principle of zeros and ones: what sorts those sorts all numbers.
    ones = torch.arange(count + 1)
    generator = torch.Generator().manual_seed(count)
    for _ in range(40):
        row = (
            torch.arange(count) < ones[torch.randint(count + 1, (1,), generator=generator)]
        ).float()
        row = row[torch.randperm(count, generator=generator)]
        for cut in range(1, (count - 1) // 2 + 1):
            values = row.tolist()
            for low, high, keep_low, keep_high in _network(count, cut):
                pair = sorted((values[low], values[high]))
                values[low] = pair[0] if keep_low else None
                values[high] = pair[1] if keep_high else None
            middle = slice(cut, count - cut)
            assert values[middle] == sorted(row.tolist())[middle]


def test_a_network_is_no_longer_than_it_has_to_be():
    def steps(count, cut):
        return sum(low + high for _, _, low, high in _network(count, cut))

    assert steps(1, 0) == steps(5, 0) == 0
    assert steps(3, 1) == 4
    assert steps(5, 2) <= 14


def test_one_wild_model_of_three_has_no_say():
    good = torch.randn(2, 100, generator=torch.Generator().manual_seed(0))
    for wild in (1e30, -1e30):
        found = run("median", [good[0], torch.full((100,), wild), good[1]])
        assert (found >= good.amin(0)).all()
        assert (found <= good.amax(0)).all()


def test_one_nan_does_not_hide():
    a, b, c = (torch.tensor([1.0, value]) for value in (math.nan, 2.0, 3.0))
    for method in ("median", "trimmed_mean"):
        for tensors in ([a, b, c], [b, a, c], [b, c, a]):
            assert run(method, tensors).isnan().tolist() == [False, True]


def test_complex_tensors_are_refused():
    for method in ("median", "trimmed_mean"):
        with pytest.raises(MethodError, match=f"{method} looks at"):
            run(method, [torch.ones(1, dtype=torch.complex64)])
