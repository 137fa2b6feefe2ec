"""DELLA: what is merged of what MagPrune keeps."""

import numpy as np
import pytest
import torch
from method_engine import generator_of, run

from conjoin.errors import MethodError
from conjoin.methods import MERGEKIT_DEFAULTS, della_linear
from conjoin.methods.magprune import as_rows, prune, restoring_factors

METHODS = ["della", "della_linear"]
BASE = torch.randn(40, 60, generator=torch.Generator().manual_seed(0))
CHANGES = torch.randn(3, 40, 60, generator=torch.Generator().manual_seed(1))
TENSORS = [BASE + change for change in CHANGES]


def _kept(densities, epsilon, per="row", *, rescale="expectation"):
    """The pruned changes, by the parts of the method, in float64."""
    changes = [tensor - BASE for tensor in TENSORS]
    seed = int(torch.randint(0, 2**62, (1,), generator=generator_of(0, "w", 0)))
    rows = [as_rows(change, per).clone() for change in changes]
    expectation = rescale == "expectation"
    factors = [1.0] * 3
    if rescale == "l1":
        random = np.random.Generator(np.random.SFC64(seed))
        base, tensors = as_rows(BASE, per), [as_rows(tensor, per) for tensor in TENSORS]
        factors, _ = restoring_factors(tensors, base, densities, [epsilon] * 3, random, "it")
    random = np.random.Generator(np.random.SFC64(seed))
    prune(rows, densities, [epsilon] * 3, random, expectation=expectation)
    return np.stack(
        [f * row.view(BASE.shape).double().numpy() for f, row in zip(factors, rows, strict=True)]
    )


@pytest.mark.parametrize("per", ["row", "tensor"])
@pytest.mark.parametrize("rescale", ["expectation", "l1", "none"])
def test_linear_against_the_formula(per, rescale):
    kept = _kept([0.3, 0.5, 1.0], 0.2, per, rescale=rescale)
    found = run("della_linear", TENSORS, BASE, weights=[2, 1, 1], density=[0.3, 0.5, 1.0],
                epsilon=0.2, per=per, rescale=rescale, normalize=True, scale=0.5)  # fmt: skip
    expected = BASE.double().numpy() + 0.5 * np.tensordot([0.5, 0.25, 0.25], kept, 1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_signs_against_the_formula():
    kept = _kept([0.5] * 3, 0.15)
    agree = (np.sign(kept) == np.sign(kept.sum(0))) & (kept != 0)
    expected = BASE.double().numpy() + (kept * agree).sum(0) / np.maximum(agree.sum(0), 1)
    found = run("della", TENSORS, BASE)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_mergekit_s_settings_against_its_formula():
    kept = 2 * _kept([0.5] * 3, 0.15, rescale="l1")
    majority = np.where(kept.sum(0) >= 0, 1, -1)
    mask = np.sign(kept) == majority
    divisor = np.maximum(2 * mask.sum(0), 1)
    settings = {**MERGEKIT_DEFAULTS["della"], "density": 0.5}
    found = run("della", TENSORS, BASE, weights=[2, 2, 2], **settings)
    expected = BASE.double().numpy() + (kept * mask).sum(0) / divisor
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_by_hand_where_nothing_is_dropped():
    base = torch.tensor([1.0])
    a, b, c = base + 2, base - 4, base + 1
    # 1 + 2 - 4 + 1, and with the sign of -1: 1 - 4
    assert run("della_linear", [a, b, c], base, density=1).item() == 0
    assert run("della", [a, b, c], base, density=1).item() == -3
    # density 0: only the last
    assert run("della", [a, b, c], base, density=[0, 0, 1]).item() == 2


@pytest.mark.parametrize("method", METHODS)
def test_small_tensors(method):
    # mergekit: a row of one element has the rank 0 / 0.
    for shape in ((), (1,), (3, 1), (2, 1, 1)):
        base, ones = torch.zeros(shape), torch.ones(shape)
        seen = {
            x
            for seed in range(9)
            for x in run(method, [ones], base, seed=seed).reshape(-1).tolist()
        }
        assert seen == {0.0, 2.0}  # 1 / 0.5


@pytest.mark.parametrize("method", METHODS)
def test_filters_of_a_convolution_are_rows(method):
    # Without chance: epsilon = density = 0.5 keeps the largest of a row, and drops the smallest.
    change = torch.arange(1.0, 25).reshape(2, 3, 2, 2)
    found = run(method, [change], torch.zeros_like(change), epsilon=0.5)
    rows = found.flatten(1)
    assert rows[:, 0].tolist() == [0, 0]
    assert rows[:, -1].tolist() == [12, 24]
    whole = run(method, [change], torch.zeros_like(change), epsilon=0.5, per="tensor").flatten()
    assert (whole[0], whole[-1]) == (0, 24)


def test_larger_changes_stay_more_often():
    change = torch.arange(1.0, 1001).repeat(200, 1)
    found = run("della_linear", [change], torch.zeros_like(change), density=0.5, epsilon=0.4)
    kept = (found != 0).double().mean(0)
    assert abs(kept[:100].mean() - 0.14) < 0.02
    assert abs(kept[-100:].mean() - 0.86) < 0.02
    assert abs(kept.mean() - 0.5) < 0.01


@pytest.mark.parametrize("method", METHODS)
def test_what_is_refused(method):
    tensor = torch.zeros(2)
    with pytest.raises(MethodError, match="chances to be kept .* make epsilon smaller"):
        run(method, [tensor], tensor, density=0.1)
    with pytest.raises(MethodError, match="complex"):
        run(method, [tensor.to(torch.complex64)], tensor.to(torch.complex64))


def test_what_a_plan_sees_before_anything_is_read():
    with pytest.raises(MethodError, match="chances to be kept"):
        della_linear([torch.empty(0)], base=torch.empty(0), weights=[1], density=0.95,
                     generator=torch.Generator())  # fmt: skip


def test_one_epsilon_per_model():
    change = torch.arange(1.0, 1001).repeat(200, 1)
    zeros = torch.zeros_like(change)
    parameters = {"epsilon": [0.4, 0.0], "rescale": "none"}
    for number, expected in ((0, 0.14), (1, 0.5)):
        tensors = [change if i == number else zeros for i in range(2)]
        kept = (run("della_linear", tensors, zeros, **parameters) != 0).double().mean(0)
        assert abs(kept[:100].mean() - expected) < 0.02
