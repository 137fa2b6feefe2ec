"""TIES by hand, and against the paper's formulas in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_engine import run, run_model

from conjoin.errors import MethodError
from conjoin.methods import MERGEKIT_DEFAULTS, ties
from conjoin.methods.trimming import count_kept

few = settings(deadline=None, max_examples=40)
grid = st.integers(-64, 64).map(lambda n: n / 16)  # whose sums have no rounding


@st.composite
def cases(draw):
    models, size = draw(st.integers(1, 4)), draw(st.integers(1, 25))
    row = st.lists(grid, min_size=size, max_size=size)
    weights = draw(st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=models, max_size=models))
    densities = st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.8, 1.0])
    density = draw(densities | st.lists(densities, min_size=models, max_size=models))
    return np.array([draw(row) for _ in range(models)]), np.array(draw(row)), weights, density


def _trim(change, density):
    kept = count_kept(density, change.size)
    if kept == 0:
        return np.zeros_like(change)
    return np.where(np.abs(change) >= np.sort(np.abs(change))[-kept], change, 0)


def _reference(models, base, weights, density):
    """Yadav et al., Algorithm 1, with ties at the threshold kept."""
    densities = np.broadcast_to(density, len(models))
    pairs = zip(models, densities, weights, strict=True)
    changes = np.stack([a * _trim(model - base, share) for model, share, a in pairs])
    sign = np.sign(changes.sum(0))
    agree = (np.sign(changes) == sign) & (changes != 0)
    return base + (changes * agree).sum(0) / np.maximum(agree.sum(0), 1)


@few
@given(cases())
def test_against_the_paper(case):
    models, base, weights, density = case
    found = run(
        "ties",
        [torch.tensor(model, dtype=torch.float32) for model in models],
        torch.tensor(base, dtype=torch.float32),
        weights=weights,
        density=density,
        block=7,
    )
    np.testing.assert_allclose(found.numpy(), _reference(*case), rtol=1e-6, atol=1e-6)


# int(0.5 * 4) = 2 are kept of each: a -> 4, 0, -3, 0; b -> 2, -5, 0, 0
A, B = [4.0, 1.0, -3.0, 0.5], [2.0, -5.0, -1.0, 1.0]


@pytest.mark.parametrize(
    ("weights", "choices", "expected"),
    [
        ([1, 1], {}, [3, -5, -3, 0]),
        ([1, 1], {"merge": "sum"}, [6, -5, -3, 0]),
        ([1, 1], {"scale": 0.5}, [1.5, -2.5, -1.5, 0]),
        # weighted: 4, 0, -3, 0 and 1, -2.5, 0, 0
        ([1, 0.5], {}, [2.5, -2.5, -3, 0]),
        ([1, 0.5], {"merge": "weighted"}, [5 / 1.5, -5, -3, 0]),
        ([1, -1], {}, [4, 5, -3, 0]),  # 4 - 2 > 0, so 4 alone
        ([0, 1], {}, [2, -5, 0, 0]),  # a model of weight zero does not count
        # sums of magnitudes: 8.5 / 7 and 9 / 7
        ([1, 0], {"rescale": "l1"}, [4 * 8.5 / 7, 0, -3 * 8.5 / 7, 0]),
        ([0, 1], {"rescale": "l1"}, [2 * 9 / 7, -5 * 9 / 7, 0, 0]),
        ([1, 1], {"density": [1.0, 0.0]}, A),
        ([1, 1], {"density": 0}, [0, 0, 0, 0]),
    ],
)
@pytest.mark.parametrize("start", [0.0, 8.0])
def test_by_hand(weights, choices, expected, start):
    base = torch.full((4,), start)
    tensors = [base + torch.tensor(A), base + torch.tensor(B)]
    found = run("ties", tensors, base, weights=weights, **{"density": 0.5, **choices})
    torch.testing.assert_close(found, base + torch.tensor([float(x) for x in expected]))


def test_trimming_of_the_model_and_of_each_tensor():
    model = {"x": torch.tensor([10.0, 9.0]), "y": torch.tensor([1.0, 2.0])}
    base = {name: torch.zeros(2) for name in model}
    whole = run_model("ties", [model], base, density=0.5)
    assert {name: tensor.tolist() for name, tensor in whole.items()} == {"x": [10, 9], "y": [0, 0]}
    each = run_model("ties", [model], base, density=0.5, per="tensor")
    assert {name: tensor.tolist() for name, tensor in each.items()} == {"x": [10, 0], "y": [0, 2]}


def test_trimming_of_a_model_of_two_dtypes():
    model = {"x": torch.tensor([10.0, 9.0]), "y": torch.tensor([1e300, 2.0]).double()}
    model["y"][0] = 1e300
    base = {name: torch.zeros_like(tensor) for name, tensor in model.items()}
    found = run_model("ties", [model], base, density=0.5)
    assert found["x"].tolist() == [10, 0]
    assert found["y"].tolist() == [1e300, 0]


def test_small_tensors_keep_their_change_at_mergekit_s_settings():
    # There a slice [n_bot:-0], and a share of less than one element, lose a whole tensor or stop.
    base = torch.zeros(3)
    settings = {**MERGEKIT_DEFAULTS["ties"], "density": 0.1}
    found = run("ties", [torch.tensor([1.0, -3.0, 2.0])], base, **settings)
    assert found.tolist() == [0, -3, 0]


def test_weights_that_cancel_are_an_error_and_not_infinite():
    base, ones = torch.zeros(3), torch.ones(3)
    for weights in ([1, -1], [0.5, 0.25, -0.75]):
        with pytest.raises(MethodError, match="sum to zero; use merge='mean' or 'sum'"):
            run("ties", [ones] * len(weights), base, weights=weights, merge="weighted")
    found = run("ties", [ones, -ones], base, weights=[1, -1], merge="sum", density=1)
    assert found.tolist() == [2, 2, 2]


def test_what_is_thin_after_bf16_is_computed_in_float32():
    # 1/256 is lost beside 1 in bf16; three of them are not.
    base = torch.ones(1)
    tensors = [base + 1 / 256] * 3
    assert run("ties", tensors, base, density=1, merge="sum").item() == 1 + 3 / 256


def test_complex_tensors_are_refused():
    tensor = torch.zeros(2, dtype=torch.complex64)
    with pytest.raises(MethodError, match="ties looks at signs.*complex"):
        ties([tensor], base=tensor, weights=[1], summary=torch.ones(1, 2).double())


@pytest.mark.parametrize("density", [0.0, 0.5, 1.0, [0.0, 1.0]])
def test_l1_of_nothing_is_nothing(density):
    base = torch.tensor([1.0, 2.0])
    found = run("ties", [base, base], base, density=density, rescale="l1")
    assert torch.equal(found, base)
    found = run("ties", [base + 1, base], base, density=[0.0, 0.5], rescale="l1")
    assert torch.equal(found, base)
