"""MagPrune: the chances by rank, exactly, and how often they come true."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conjoin.errors import MethodError
from conjoin.methods.magprune import (
    as_rows,
    check_chances,
    prune,
    prune_again,
    restoring_factors,
    strips,
)
from conjoin.methods.strips import STRIP

few = settings(deadline=None, max_examples=40)


def _random(seed=0):
    return np.random.Generator(np.random.SFC64(seed))


def _pruned(change, density, epsilon, seed=0, *, expectation=True):
    change = change.clone()
    prune([change], [density], [epsilon], _random(seed), expectation=expectation)
    return change


def _chances(change, density, epsilon):
    """Deep et al., with the ranks from sorting."""
    width = change.shape[1]
    ranks = np.argsort(np.argsort(np.abs(change.numpy()), 1, kind="stable"), 1, kind="stable")
    steps = ranks / (width - 1) if width > 1 else np.full(ranks.shape, 0.5)
    return density - epsilon + 2 * epsilon * steps


@few
@given(
    st.integers(1, 5),
    st.integers(1, 9),
    st.integers(0, 99),
    st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
def test_what_is_kept_is_divided_by_its_chance(rows, width, seed, dtype):
    # Few distinct values, of both signs: many ranks are decided by place.
    change = torch.randint(1, 4, (rows, width), generator=torch.Generator().manual_seed(seed))
    change = (change * (1 - 2 * (change % 2))).to(dtype)
    found = _pruned(change, 0.5, 0.25, seed)
    expected = (change / torch.tensor(_chances(change, 0.5, 0.25))).to(dtype)
    torch.testing.assert_close(found, torch.where(found != 0, expected, 0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("epsilon", [0.0, 0.15, 0.4])
def test_how_often(epsilon):
    row = torch.tensor([[0.5, -4.0, 1.0, 3.0, -2.0]])
    many = row.repeat(40_000, 1)
    kept = (_pruned(many, 0.6, epsilon) != 0).double().mean(0).numpy()
    expected = 0.6 + epsilon * np.array([-1, 1, -0.5, 0.5, 0])
    assert np.abs(kept - expected).max() < 5 * 0.5 / np.sqrt(40_000)


def test_the_expectation_is_kept():
    row = torch.tensor([[0.5, -4.0, 1.0, 3.0, -2.0]]).repeat(40_000, 1)
    found = _pruned(row, 0.5, 0.3).double().mean(0)
    assert (found - row[0]).abs().max() < 5 * 4 * 2 / np.sqrt(40_000)


def test_the_ends_of_chances():
    row = torch.arange(1.0, 10_001).reshape(1, -1)
    found = _pruned(row, 0.5, 0.5)  # from 0 to 1
    assert found[0, 0] == 0
    assert found[0, -1] == 10_000
    for density in (0, 1):
        assert torch.equal(_pruned(row, density, 0.3), row * density)
    assert _pruned(torch.zeros(3, 0), 0.5, 0.1).shape == (3, 0)


def test_the_stream_of_bits():
    # With other bits every merge gives another result: that would need a word in the changelog.
    ones = torch.ones(2, 16)
    found = _pruned(ones, 0.5, 0.15, expectation=False)
    assert "".join(str(int(x)) for x in found.flatten()) == "00110111010010100111111011111011"


def test_rows():
    assert as_rows(torch.zeros(()), "row").shape == (1, 1)
    assert as_rows(torch.zeros(5), "row").shape == (1, 5)
    assert as_rows(torch.zeros(4, 3, 2, 2), "row").shape == (4, 12)
    assert as_rows(torch.zeros(4, 3, 2, 2), "tensor").shape == (1, 48)


@given(st.integers(1, 300), st.sampled_from([1, 7, 1000, STRIP, STRIP + 1]))
@few
def test_strips_are_whole_rows_and_cover_all(rows, width):
    found = strips(torch.empty(rows, width, device="meta"))
    assert [i for part in found for i in range(rows)[part]] == list(range(rows))
    assert all((part.stop - part.start) * width <= max(STRIP, width) for part in found)


def test_the_sum_of_magnitudes_is_restored():
    change = torch.randn(300, 700, generator=torch.Generator().manual_seed(0))
    base = torch.zeros(300, 700)
    (factor,), _ = restoring_factors([change], base, [0.3], [0.1], _random(), "it")
    random = _random()
    after = 0.0
    for part in strips(change):
        some = change[part].clone()
        prune([some], [0.3], [0.1], random, expectation=False)
        after += some.double().abs().sum().item()
    assert factor * after == pytest.approx(change.double().abs().sum().item(), rel=1e-9)
    zeros = torch.zeros(2, 2)
    assert restoring_factors([zeros], zeros, [0.5], [0.1], _random(), "it")[0] == [1]


@pytest.mark.parametrize(("density", "epsilon"), [(0.1, 0.15), (0.9, 0.15), (0.5, 0.51)])
def test_chances_that_are_none(density, epsilon):
    with pytest.raises(MethodError, match="it: chances .* leaves the range from 0 to 1"):
        check_chances([0.5, density], [0.1, epsilon], "it")
    check_chances([0, 1, 0.15, 0.85], [0.15] * 4, "it")


def test_what_was_dropped_is_dropped_again_without_ranking():
    changes = [torch.randn(700, 501, generator=torch.Generator().manual_seed(k)) for k in (0, 1)]
    settings = ([0.3, 1.0], [0.1, 0.1])
    base = torch.zeros(700, 501)
    _, masks = restoring_factors(changes, base, *settings, _random(), "it")
    random = _random()
    for part, mask in zip(strips(base), masks, strict=True):
        once, again = ([change[part].clone() for change in changes] for _ in range(2))
        prune(once, *settings, random, expectation=False)
        prune_again(again, mask)
        assert all(map(torch.equal, once, again))
