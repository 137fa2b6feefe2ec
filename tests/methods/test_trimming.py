"""The k-th largest magnitude against sorting."""

import math
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_engine import Totals

from conjoin.errors import MethodError
from conjoin.methods import trimming
from conjoin.methods.trimming import (
    changes_of,
    count_kept,
    largest,
    limit_below,
    limit_up_to,
    thresholds,
    trimmed,
    without_outliers,
)

few = settings(deadline=None, max_examples=60)
nasty = st.sampled_from(
    [0.0, -0.0, 1e-45, -1e-45, 3e-39, 1.0, -1.0, 1.0000001, 3.4e38, math.inf, -math.inf]
)
float32s = st.lists(nasty | st.floats(width=32, allow_nan=False), min_size=1, max_size=40)
float64s = st.lists(
    nasty | st.floats(allow_nan=False) | st.sampled_from([5e-324, 1e300, 1 + 2**-52]),
    min_size=1,
    max_size=40,
)
densities = st.sampled_from([0.0, 0.01, 0.2, 0.5, 0.999, 1.0]) | st.floats(0, 1)


# How many elements the sample has, and bins a window: with few of them the k-th largest is not
# found in the sample, nor in the first window.
sizes = st.sampled_from([(1 << 16, 1 << 20), (1, 1 << 20), (5, 8), (9, 2), (30, 1 << 10)])


@contextmanager
def _sizes(sample, bins):
    with patch.object(trimming, "_SAMPLE", sample), patch.object(trimming, "_BINS", bins):
        yield


def _totals(blocks):
    return Totals([(tensors, {"base": base}) for tensors, base in blocks])


def _sorted(values, density):
    """The k-th largest of float64 values, by sorting; as the docstring of thresholds says."""
    if density in (0, 1):
        return math.inf if density == 0 else 0.0
    return sorted(map(abs, values), reverse=True)[count_kept(density, len(values)) - 1]


def _found(values, density, dtype, cut=None):
    changes = torch.tensor(values, dtype=dtype)
    parts = [changes] if cut is None else [changes[:cut], changes[cut:]]
    blocks = [([part], torch.zeros_like(part)) for part in parts]
    (found,) = thresholds(_totals(blocks), density, "it").tolist()
    return found


@few
@given(float32s, densities, st.integers(0, 40), sizes)
def test_equals_the_sorted_one_in_float32(values, density, cut, few):
    exact = torch.tensor(values).double().tolist()
    with _sizes(*few):
        assert _found(values, density, torch.float32, cut) == _sorted(exact, density)


@few
@given(float64s, densities, st.integers(0, 40), sizes)
def test_equals_the_sorted_one_in_float64(values, density, cut, few):
    with _sizes(*few):
        assert _found(values, density, torch.float64, cut) == _sorted(values, density)


@few
@given(float32s, float64s, densities, sizes)
def test_blocks_of_both_dtypes_are_one_model(narrow, wide, density, few):
    changes = [torch.tensor(narrow), torch.tensor(wide, dtype=torch.float64)]
    blocks = [([change], torch.zeros_like(change)) for change in changes]
    with _sizes(*few):
        (found,) = thresholds(_totals(blocks), density, "it").tolist()
    assert found == _sorted(torch.cat([change.double() for change in changes]).tolist(), density)
    for change in changes:
        left = trimmed(change, limit_below(found, change.dtype))
        expected = change.double().abs() >= found  # in float64, where both are exact
        assert torch.equal(left, torch.where(expected, change, 0.0))


@few
@given(float32s, densities)
def test_what_is_at_least_the_threshold_stays(values, density):
    change = torch.tensor(values)
    found = _found(values, density, torch.float32)
    left = trimmed(change, limit_below(found, torch.float32))
    assert torch.equal(left, torch.where(change.double().abs() >= found, change, 0.0))
    if density:
        distinct = len(set(change.abs().tolist())) == len(values)
        kept = int((change.double().abs() >= found).sum())
        wanted = len(values) if density == 1 else count_kept(density, len(values))
        assert kept == wanted if distinct or density == 1 else kept >= wanted


def test_by_hand():
    values = [5.0, -3.0, 2.0, -1.0, 0.0]
    # int(0.4 * 5) = 2: 5 and -3
    assert _found(values, 0.4, torch.float32) == 3
    # int(0.59 * 5) = 2, int(0.6 * 5) = 3
    assert _found(values, 0.59, torch.float32) == 3
    assert _found(values, 0.6, torch.float32) == 2


def test_ties_at_the_threshold_are_kept():
    values = [2.0, -2.0, 2.0, 1.0]
    found = _found(values, 0.5, torch.float32)
    left = trimmed(torch.tensor(values), limit_below(found, torch.float32))
    assert left.tolist() == [2, -2, 2, 0]


@pytest.mark.parametrize("size", [1, 2, 4, 49, 99])
def test_a_tensor_under_100_elements_is_not_trimmed_to_nothing(size):
    # mergekit: indices[n_bot:-n_top] with n_top = 0 is empty; and int(density n) = 0 is refused.
    values = [float(i + 1) for i in range(size)]
    found = _found(values, 0.01, torch.float32)
    assert found == size
    assert trimmed(torch.tensor(values), limit_below(found, torch.float32)).count_nonzero() == 1


def test_one_density_per_model():
    changes = torch.tensor([4.0, 3.0, 2.0, 1.0])
    blocks = [([changes, changes, changes, changes], torch.zeros(4))]
    found = thresholds(_totals(blocks), [0.25, 0.5, 1.0, 0.0], "it")
    assert found.tolist() == [4, 3, 0, math.inf]
    with pytest.raises(MethodError, match="one per model: 4, not 2"):
        thresholds(_totals(blocks), [0.25, 0.5], "it")


@pytest.mark.parametrize("density", [0, 1, 0.0, 1.0, [0, 1.0]])
def test_nothing_is_read_where_nothing_depends_on_it(density):
    def total(function):
        raise AssertionError

    assert thresholds(total, density, "it").tolist() == [
        0.0 if share else math.inf for share in np.atleast_1d(density)
    ]


class _Counted(Totals):
    asked = 0

    def __call__(self, function):
        self.asked += 1
        return super().__call__(function)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("density", [0.05, 0.2, 0.5])
def test_one_look_at_data_of_which_a_sample_tells(dtype, density):
    values = torch.randn(300_000, dtype=dtype, generator=torch.Generator().manual_seed(1))
    totals = _Counted([([part], {"base": torch.zeros_like(part)}) for part in values.split(70_000)])
    found = thresholds(totals, density, "it")
    falling = values.abs().sort(descending=True).values
    assert found.tolist() == [falling[count_kept(density, 300_000) - 1].item()]
    # The patterns of float64 between two neighbours of a sample have no room in one window.
    assert totals.asked == (1 if dtype == torch.float32 else 3)


@pytest.mark.parametrize("outside", [0.001, 1000.0])
def test_a_sample_that_misleads_takes_longer(outside):
    values = torch.rand(300_000, generator=torch.Generator().manual_seed(1)) * outside
    values[::5] = 1 + torch.rand(60_000)  # what the sample meets
    totals = _Counted([([values], {"base": torch.zeros_like(values)})])
    found = thresholds(totals, 0.5, "it").tolist()
    assert found == [values.sort(descending=True).values[149_999].item()]
    assert 1 < totals.asked <= 3


def test_the_tables_of_many_models_take_no_more_room():
    generator = torch.Generator().manual_seed(1)
    models = [torch.randn(200_000, generator=generator) for _ in range(12)]
    tables = []

    class Watched(_Counted):
        def __call__(self, function):
            tables.append(super().__call__(function))
            return tables[-1]

    totals = Watched([(models, {"base": torch.zeros(200_000)})])
    found = thresholds(totals, 0.5, "it")
    assert found.tolist() == [one.abs().sort().values[100_000].item() for one in models]
    assert max(table.numel() for table in tables) <= trimming._TABLE + len(models)
    assert totals.asked == 2


def test_small_tensors_are_their_own_sample():
    totals = _Counted([([torch.arange(9.0)], {"base": torch.zeros(9)})])
    assert thresholds(totals, 0.5, "it").tolist() == [5]
    assert totals.asked == 0


def test_no_elements():
    assert _found([], 0.5, torch.float32) in (0, math.inf)


def test_complex_numbers_have_no_order():
    with pytest.raises(MethodError, match="complex"):
        _found([1j], 0.5, torch.complex64)


def test_nan_stays():
    left = trimmed(torch.tensor([math.nan, 1.0]), 2.0)
    assert left.isnan().tolist() == [True, False]


@few
@given(st.floats(0, 1), st.integers(0, 1000))
def test_counts(density, size):
    kept = count_kept(density, size)
    assert 0 <= kept <= size
    assert (kept == 0) == (density == 0 or size == 0)
    assert kept <= max(1, density * size)
    assert kept > density * size - 1


@few
@given(st.data(), sizes)
def test_several_ranks_at_once(data, few):
    models = data.draw(st.lists(float32s, min_size=1, max_size=3))
    size = min(map(len, models))
    changes = [torch.tensor(values[:size]) for values in models]
    ranks = [data.draw(st.lists(st.integers(0, size), min_size=2, max_size=2)) for _ in models]
    cut = data.draw(st.integers(0, size))
    parts = [[change[:cut] for change in changes], [change[cut:] for change in changes]]
    blocks = [(part, torch.zeros_like(part[0])) for part in parts]
    with _sizes(*few):
        found = largest(_totals(blocks), changes_of("it"), lambda _: ranks).tolist()
    for change, wanted, got in zip(changes, ranks, found, strict=True):
        falling = [math.inf, *sorted(change.abs().tolist(), reverse=True)]
        assert got == [falling[rank] for rank in wanted]


def test_other_values_than_changes():
    def squares(tensors, base):
        return [tensors[0] * tensors[1] + base]

    tensors = [torch.tensor([1.0, -2.0, 3.0]), torch.tensor([5.0, 1.0, 3.0])]
    found = largest(_totals([(tensors, torch.ones(3))]), squares, lambda sizes: [[1, sizes[0]]])
    assert found.tolist() == [[10, 1]]


@few
@given(float32s, float64s.map(lambda values: abs(values[0])))
def test_what_is_larger_than_a_bound_goes(values, bound):
    change = torch.tensor(values)
    change = change[change.isfinite()]
    found = without_outliers(change.clone(), limit_up_to(bound, torch.float32))
    expected = torch.where(change.double().abs() <= bound, change, 0.0)
    assert torch.equal(found, expected)


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=9),
    st.integers(0, 4),
    st.integers(1, 30),
    st.integers(0, 3),
)
def test_the_bin_with_the_kth_largest_is_found_or_the_whole_range_is_looked_at(
    counts, above, rank, spare
):
    window = trimming._Window(0, rank, 31, 1 << 20, low=100, bins=len(counts))
    window.narrow(np.array([*counts, *[0] * spare, above]))
    # The patterns themselves, the largest first.
    there = [100 + place for place in range(len(counts))[::-1] for _ in range(counts[place])]
    if above < rank <= above + len(there):
        assert window.found == there[rank - above - 1]
    else:
        assert window.found is None
        assert (window.low, window.low + (window.bins << window.shift)) == (0, 1 << 31)
