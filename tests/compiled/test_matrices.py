"""Scores of changes, and those that are taken for them, against the same in torch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conjoin.compiled import add_scored_changes, load_library, scores_of_changes

needs_it = pytest.mark.skipif(load_library() is None, reason="there is no compiled part")
few = settings(deadline=None, max_examples=60)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def bits(tensor):
    return tensor.view(torch.int32 if tensor.element_size() == 4 else torch.int16)


@st.composite
def cases(draw):
    rows = draw(st.sampled_from([0, 1, 2, 7, 200]))
    columns = draw(st.sampled_from([0, 1, 3, 8, 511, 512, 513, 1200]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    matrix, base = torch.randn(2, rows, columns, generator=generator)
    alike = torch.rand(rows, columns, generator=generator) < 0.2
    matrix = torch.where(alike, base, matrix)
    factors = torch.rand(rows, generator=generator) * draw(st.sampled_from([1.0, 1e-20, 0.0]))
    first, second = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(DTYPES))
    return matrix.to(first), base.to(second), factors


def _in_torch(matrix, base, factors, threshold):
    change = matrix.float() - base.float()
    scores = change.abs() * factors[:, None]
    return scores, (change * (scores >= threshold) + base.float()).to(base.dtype)


@needs_it
@few
@given(cases(), st.sampled_from([0.0, 0.1, 1.0]), st.booleans())
def test_they_are_those_of_torch_to_the_bit(case, threshold, exactly):
    matrix, base, factors = case
    scores, _ = _in_torch(matrix, base, factors, threshold)
    if exactly and scores.numel():  # one of them
        threshold = scores.flatten()[scores.numel() // 3].item()
    expected = _in_torch(matrix, base, factors, threshold)[1]
    assert torch.equal(bits(scores_of_changes(matrix, base, factors)), bits(scores))
    found = add_scored_changes(matrix, base, factors, threshold)
    assert found.dtype == base.dtype
    assert torch.equal(bits(found), bits(expected))


@needs_it
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_numbers_that_are_not_finite_are_left_to_torch(value, place):
    given_ = [torch.zeros(3, 700), torch.zeros(3, 700)]
    given_[place][1, 600] = value
    assert add_scored_changes(*given_, torch.ones(3), 1.0) is None
    large = torch.full((1, 9), 6e4)
    assert add_scored_changes(large, -large.half(), torch.ones(1), 0.0) is not None
    assert add_scored_changes(2 * large, large.half(), torch.ones(1), 0.0) is None  # overflows


@needs_it
def test_what_they_are_not_for_is_left_to_others():
    one, factors = torch.ones(2, 20), torch.ones(2)
    assert scores_of_changes(one, one, factors) is not None
    for matrix, base, each in [
        (one.double(), one.double(), factors),
        (one, one[:1], factors),
        (one, one, factors.double()),
        (one, one, torch.ones(3)),
        (one, one, torch.ones(2, 1)),
        (one[0], one[0], factors),
        (one.to("meta"), one, factors),
        (torch.nn.Parameter(one), one, factors),
        (one.clone().requires_grad_(), one, factors),
    ]:
        assert scores_of_changes(matrix, base, each) is None
        assert add_scored_changes(matrix, base, each, 0.5) is None
    spread, every = torch.arange(80.0).view(2, 40)[:, ::2], torch.arange(4.0)[::2]
    assert torch.equal(scores_of_changes(spread, one, every), (spread - 1).abs() * every[:, None])
