"""sum, mean and linear against NumPy in float64, and by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conjoin.errors import MethodError
from conjoin.methods import linear, mean, sum

few = settings(deadline=None, max_examples=40)
LIMIT = 2.0**122  # five of them still fit into float32
values = st.one_of(
    st.sampled_from([0.0, -0.0, 1e-30, -1e-30, LIMIT, -LIMIT, 1.0]),
    st.floats(-LIMIT, LIMIT, width=32, allow_subnormal=False),
)
shapes = st.sampled_from([(), (0,), (1,), (5,), (2, 3), (2, 0, 3), (2, 1, 2)])


@st.composite
def same_shape(draw, dtype=torch.float32):
    shape, count = draw(shapes), draw(st.integers(1, 5))
    size = int(np.prod(shape))
    rows = [draw(st.lists(values, min_size=size, max_size=size)) for _ in range(count)]
    return [torch.tensor(row, dtype=dtype).reshape(shape) for row in rows]


def _float64(tensors):
    return np.stack([tensor.double().numpy() for tensor in tensors])


def _bound(tensors, weights):
    """What float32 may be off by: some roundings of the largest partial sum."""
    terms = np.abs(_float64(tensors)) * np.abs(weights).reshape(-1, *[1] * tensors[0].dim())
    return 2 * len(tensors) * 2.0**-23 * terms.sum(0) + 1e-37


@few
@given(same_shape())
def test_sum_and_mean_against_float64(tensors):
    ones = np.ones(len(tensors))
    assert (
        np.abs(sum(tensors).double().numpy() - _float64(tensors).sum(0)) <= _bound(tensors, ones)
    ).all()
    error = np.abs(mean(tensors).double().numpy() - _float64(tensors).mean(0))
    assert (error <= _bound(tensors, ones / len(ones))).all()


@few
@given(same_shape(), st.data(), st.booleans())
def test_linear_against_float64(tensors, data, normalize):
    weights = [data.draw(st.sampled_from([-0.5, 0.0, 0.25, 1.0, 3.0])) for _ in tensors]
    if normalize and abs(np.sum(weights)) < 0.1:
        return
    scaled = np.array(weights) / (np.sum(weights) if normalize else 1)
    if np.abs(scaled).sum() > 10:
        return
    found = linear(tensors, weights=weights, normalize=normalize).double().numpy()
    expected = np.tensordot(scaled, _float64(tensors), 1)
    assert (np.abs(found - expected) <= _bound(tensors, scaled)).all()


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (lambda a, b: sum([a, b]), [4, 7]),
        (lambda a, b: sum([a, b, b]), [7, 12]),
        (lambda a, b: mean([a, b]), [2, 3.5]),
        (lambda a, b: mean([a, a, b, b]), [2, 3.5]),
        (lambda a, b: linear([a, b], weights=[1, 1]), [2, 3.5]),
        (lambda a, b: linear([a, b], weights=[3, 1]), [1.5, 2.75]),
        (lambda a, b: linear([a, b], weights=[3, -1]), [0, 0.5]),
        (lambda a, b: linear([a, b], weights=[-3, 1]), [0, 0.5]),
        (lambda a, b: linear([a, b], weights=[0.5, 2], normalize=False), [6.5, 11]),
        (lambda a, b: linear([a, b], weights=[0, 0], normalize=False), [0, 0]),
    ],
)
def test_values_by_hand(found, expected):
    assert found(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])).tolist() == expected


@few
@given(same_shape(), st.integers(1, 7))
def test_identical_models_give_that_model(tensors, count):
    copies = [tensors[0]] * count
    exact = {"rtol": 0, "atol": 0} if count in (1, 2, 4) else {"rtol": 1e-6, "atol": 1e-37}
    torch.testing.assert_close(mean(copies), tensors[0], **exact)
    torch.testing.assert_close(linear(copies, weights=[1.0] * count), tensors[0], **exact)
    weights = [float(i + 1) for i in range(count)]
    torch.testing.assert_close(linear(copies, weights=weights), tensors[0], rtol=1e-6, atol=1e-36)


@few
@given(same_shape(), st.data())
def test_the_order_of_models_changes_roundings_only(tensors, data):
    order = data.draw(st.permutations(range(len(tensors))))
    weights = np.arange(1.0, len(tensors) + 1)
    shuffled = [tensors[i] for i in order]
    for one, other, bound in (
        (sum(tensors), sum(shuffled), _bound(tensors, np.ones(len(tensors)))),
        (mean(tensors), mean(shuffled), _bound(tensors, np.ones(len(tensors)))),
        (
            linear(tensors, weights=weights.tolist()),
            linear(shuffled, weights=weights[list(order)].tolist()),
            _bound(tensors, weights),
        ),
    ):
        assert (np.abs(one.double().numpy() - other.double().numpy()) <= bound).all()


def test_negative_zero_is_kept():
    zero = torch.tensor([-0.0])
    assert torch.signbit(mean([zero, zero])).all()
    assert torch.signbit(linear([zero, zero], weights=[1, 1])).all()


def test_the_mean_of_one_is_a_new_tensor():
    tensor = torch.ones(2)
    for result in (sum([tensor]), mean([tensor]), linear([tensor], weights=[1])):
        result.fill_(5)
    assert tensor.tolist() == [1, 1]


@pytest.mark.parametrize("weights", [[1, -1], [0, 0], [1e-300, -1e-300], [1, -1 + 1e-12]])
def test_weights_that_sum_to_zero(weights):
    with pytest.raises(MethodError, match="sum to zero.*normalize"):
        linear([torch.ones(1)] * 2, weights=weights)


@pytest.mark.parametrize("weights", [[], [1], [1, 2, 3]])
def test_another_number_of_weights(weights):
    with pytest.raises(MethodError, match=f"one weight per model: 2, not {len(weights)}"):
        linear([torch.ones(1)] * 2, weights=weights)


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(weight):
    with pytest.raises(MethodError, match="finite"):
        linear([torch.ones(1)] * 2, weights=[1.0, weight])
