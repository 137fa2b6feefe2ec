"""Arcee Fusion by hand, and against its formula."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_engine import run

from conjoin import merge
from conjoin.errors import MethodError
from conjoin.methods.arcee_fusion import _divergence, arcee_fusion

few = settings(deadline=None, max_examples=40)


def _reference(tensor, base):
    """Scores and the mask of mergekit, in float64 and with quartiles of all scores."""

    def probabilities(logits):
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True) + 1e-8

    p, q = probabilities(tensor), probabilities(base)
    scores = np.abs(tensor - base) * (p * np.log(p / q)).sum(-1, keepdims=True)
    ordered = np.sort(scores.ravel())
    first, middle, third = (ordered[int(x * (ordered.size - 1))] for x in (0.25, 0.5, 0.75))
    return scores, middle + 1.5 * (third - first)


@few
@given(
    st.sampled_from([(1,), (9,), (4, 6), (2, 3, 5), (30, 40), (3, 20_000), (3, 50_000)]),
    st.integers(0, 9999),
    st.sampled_from([1e-3, 0.1, 3.0]),
)
def test_against_the_formula(shape, seed, size):
    random = np.random.default_rng(seed)
    base = random.normal(size=shape).astype(np.float32)
    tensor = (base + size * random.normal(size=shape)).astype(np.float32)
    found = run("arcee_fusion", [torch.from_numpy(tensor)], torch.from_numpy(base)).numpy()
    scores, threshold = _reference(tensor.astype(float), base.astype(float))
    expected = np.where(scores >= threshold, tensor, base)
    sure = np.abs(scores - threshold) > 1e-5 * threshold
    np.testing.assert_allclose(found[sure], expected[sure], rtol=1e-5, atol=1e-6)


def test_by_hand():
    # One row, so that scores are as |d|: 0 0 .1 .1 .2 .2 .3 5, of which the quartiles have the
    # ranks 1, 3 and 5: 0.1 + 1.5 (0.2 - 0) = 0.4.
    change = torch.tensor([0.0, 0.1, 0.2, 0.1, 0.0, 0.2, 5.0, 0.3])
    base = torch.arange(8.0) / 4
    expected = base.clone()
    expected[6] += 5
    assert torch.equal(run("arcee_fusion", [base + change], base), expected)
    # Scores that are all equal are all at the threshold: for zeros the softmax is 1/2, and
    # (d, -d) has the same divergence in each row.
    change = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    assert torch.equal(run("arcee_fusion", [change], torch.zeros(2, 2)), change)


def test_rows_that_changed_more_count_more():
    base = torch.zeros(6, 4)
    change = torch.tensor([0.1, -0.2, 0.3, -0.4]).repeat(6, 1)
    change[2] *= 2  # and about four times the divergence
    # In units of the smallest: five each of 1, 2, 3, 4, and about 8, 16, 24, 32. The quartiles have
    # the ranks 5, 11 and 17: 3 + 1.5 (4 - 2) = 6.
    expected = base.clone()
    expected[2] = change[2]
    assert torch.equal(run("arcee_fusion", [change], base), expected)


def test_models_that_differ_little_have_a_divergence_that_is_no_rounding():
    # About half the variance of d under q; in bfloat16, and nearly in float32, terms of the order
    # of d hide it, and mergekit's has either sign.
    generator = torch.Generator().manual_seed(0)
    base = 0.02 * torch.randn(3, 4096, generator=generator)
    tensor = base + 1e-5 * torch.randn(3, 4096, generator=generator)
    found = _divergence(tensor, base)
    q = base.double().softmax(1)
    change = tensor.double() - base.double()
    variance = (q * change**2).sum(1) - (q * change).sum(1) ** 2
    torch.testing.assert_close(found, variance / 2, rtol=1e-3, atol=0)


def test_it_is_whole_tensors_that_are_looked_at():
    generator = torch.Generator().manual_seed(0)
    base, tensor = torch.randn(2, 600, 500, generator=generator)
    merged = merge([{"w": tensor}], "arcee_fusion", base={"w": base})
    assert torch.equal(merged["w"], run("arcee_fusion", [tensor], base))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1, 1)])
def test_shapes_without_rows(shape):
    one, base = torch.ones(shape), torch.zeros(shape)
    # One probability is 1, and has no divergence: all scores are 0, and at the threshold.
    assert torch.equal(run("arcee_fusion", [one], base), one)


def test_equal_models_and_complex_ones():
    one = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(run("arcee_fusion", [one], one), one)
    with pytest.raises(MethodError, match="arcee_fusion looks at"):
        run("arcee_fusion", [one.to(torch.complex64)], one.to(torch.complex64))


@pytest.mark.parametrize("shapes", [[(2, 10)], [], [(3, 10), (3, 10)], [(10, 3)]])
def test_tensors_of_other_shapes_are_refused(shapes):
    with pytest.raises(MethodError, match="one tensor of its base's shape"):
        arcee_fusion([torch.zeros(shape) for shape in shapes], base=torch.zeros(3, 10))
