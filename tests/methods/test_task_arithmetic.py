"""task_arithmetic and passthrough by hand, and against float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_engine import run

from conjoin.errors import MethodError

values = st.floats(-8, 8, width=32)


@settings(deadline=None, max_examples=40)
@given(st.data(), st.booleans())
def test_against_float64(data, normalize):
    count, size = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
    row = st.lists(values, min_size=size, max_size=size)
    models, base = [data.draw(row) for _ in range(count)], data.draw(row)
    weights = [data.draw(st.sampled_from([-0.5, 0.25, 1.0, 2.0])) for _ in models]
    if normalize and abs(sum(weights)) < 0.1:
        return
    scale = data.draw(st.sampled_from([0.3, 1.0, 2.0]))
    found = run(
        "task_arithmetic",
        [torch.tensor(model) for model in models],
        torch.tensor(base),
        weights=weights,
        normalize=normalize,
        scale=scale,
    )
    factors = np.array(weights) * scale / (sum(weights) if normalize else 1)
    changes = np.float64(np.float32(models)) - np.float32(base)
    bound = 1e-6 * (np.abs(factors) @ np.abs(changes) + np.abs(base)) + 1e-6 * np.abs(factors).sum()
    assert (np.abs(found.numpy() - (np.float32(base) + factors @ changes)) <= bound).all()


@pytest.mark.parametrize(
    ("weights", "choices", "expected"),
    [
        # base 1, models 2 and 5: changes 1 and 4
        ([1, 1], {}, 6),
        ([1, 0.5], {}, 4),
        ([1, 0.5], {"scale": 2.0}, 7),
        ([3, 1], {"normalize": True}, 1 + 7 / 4),
        ([1, -1], {}, -2),
        ([0, 0], {}, 1),
    ],
)
def test_by_hand(weights, choices, expected):
    base, a, b = torch.tensor([[1.0], [2.0], [5.0]])
    found = run("task_arithmetic", [a, b], base, weights=weights, **choices)
    assert found.tolist() == [expected]


def test_weights_that_cancel_under_normalization():
    base, a = torch.zeros(2), torch.ones(2)
    with pytest.raises(MethodError, match="sum to zero.*normalize"):
        run("task_arithmetic", [a, a], base, weights=[1, -1], normalize=True)


def test_models_that_equal_the_base_give_it_exactly():
    base = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    found = run("task_arithmetic", [base, base], base, weights=[0.3, 0.7], scale=1.1)
    assert torch.equal(found, base)


def test_passthrough():
    tensor = torch.tensor([1.0, -0.0, float("nan")])
    found = run("passthrough", [tensor])
    assert torch.equal(found.view(torch.int32), tensor.view(torch.int32))
    assert found.data_ptr() != tensor.data_ptr()
    assert run("passthrough", [torch.tensor([1.0, 3.0])], scale=-0.5).tolist() == [-0.5, -1.5]
    assert run("passthrough", [torch.tensor([1.0, 3.0])], scale=0).tolist() == [0, 0]
    with pytest.raises(MethodError, match="exactly 1 model, and here are 2"):
        run("passthrough", [tensor, tensor])
