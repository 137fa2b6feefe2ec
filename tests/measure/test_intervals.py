"""Intervals of paired differences: coverage by simulation, and values by independent formulas."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from conjoin.errors import InputError
from conjoin.measure.intervals import paired_interval, paired_intervals

INF, NAN = math.inf, math.nan
few = settings(deadline=None, max_examples=25)


def _tuple(found):
    return found.value, found.low, found.high


def _draw(seed, seeds=3, examples=40):
    rng = np.random.default_rng(seed)
    shape = (seeds, examples)
    common = rng.standard_normal((1, examples)) + 0.3 * rng.standard_normal((seeds, 1))
    return common + rng.standard_normal(shape), common + rng.standard_normal(shape)


# Coverage. A table is mu + a_s + b_n + e_sn; the truth is mu.

GAUSSIAN = {
    "examples only": (0.0, 1.0, 0.0),
    "seeds and examples": (0.3, 1.0, 0.0),
    "mostly seeds": (1.0, 1.0, 1.0),
    "mostly residuals": (0.1, 0.5, 3.0),
    "residuals only": (0.0, 0.0, 1.0),
}


def _gaussian(rng, seeds, sigmas, examples=40):
    of_seed, of_example, residual = sigmas
    return (
        of_seed * rng.standard_normal((seeds, 1))
        + of_example * rng.standard_normal((1, examples))
        + residual * rng.standard_normal((seeds, examples))
    )


def _covered(tables, truth, level=0.95, **arguments):
    """Share of tables whose interval holds the truth."""
    scores = {str(i): table for i, table in enumerate(tables)}
    scores["zero"] = np.zeros_like(tables[0])
    pairs = [(str(i), "zero") for i in range(len(tables))]
    found = paired_intervals(scores, pairs, level=level, **arguments)
    return np.mean([one.low <= truth <= one.high for one in found])


def _tolerance(level, count):
    return 4 * math.sqrt(level * (1 - level) / count)


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("sigmas", GAUSSIAN.values(), ids=GAUSSIAN)
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_coverage_over_seeds_and_examples(seeds, sigmas, level):
    rng = np.random.default_rng(seeds)
    tables = [2.5 + _gaussian(rng, seeds, sigmas) for _ in range(800)]
    assert _covered(tables, 2.5, level) >= level - _tolerance(level, 800)


@pytest.mark.parametrize(
    ("seeds", "sigmas"), [(3, (0.0, 1.0, 0.0)), (5, (0.0, 0.0, 1.0)), (3, (5.0, 0.1, 0.1))]
)
def test_coverage_is_the_level_where_one_source_of_variance_is_alone(seeds, sigmas):
    """Nor wider than needed: the interval of Student's t of that source."""
    rng = np.random.default_rng(1)
    tables = [_gaussian(rng, seeds, sigmas) for _ in range(800)]
    covered = _covered(tables, 0.0, 0.8)
    assert covered == pytest.approx(0.8, abs=_tolerance(0.8, 800))


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_coverage_for_correct_or_not(seeds, spread):
    """Two classifiers, each right with a probability that depends on the seed and the example."""
    rng = np.random.default_rng(seeds)
    examples = 200
    tables = []
    for _ in range(600):
        hard = rng.random((1, examples)) < 0.2
        right = []
        for mean in (0.85, 0.80):
            # Where hard, right in 30 of 100; the mean over hard and easy is `mean`.
            of_seed = np.clip(spread * rng.standard_normal((seeds, 1)), -0.1, 0.1)
            chance = np.where(hard, 0.3, (mean - 0.2 * 0.3) / 0.8 - 0.02) + of_seed
            right.append(100.0 * (rng.random((seeds, examples)) < chance.clip(0, 1)))
        tables.append(right[0] - right[1])
    assert _covered(tables, 100 * 0.05) >= 0.95 - _tolerance(0.95, 600)


@pytest.mark.parametrize("kind", ["gaussian", "correct or not"])
def test_coverage_of_one_seed_is_given_these_networks(kind):
    """Only the examples are drawn anew: the effect of this seed is part of the truth."""
    rng = np.random.default_rng(0)
    if kind == "gaussian":
        tables = [7.0 + rng.standard_normal((1, 150)) for _ in range(600)]
        truth = 7.0
    else:
        drawn = [rng.random((2, 1, 150)) for _ in range(600)]
        tables = [(a < 0.9) * 1.0 - (b < 0.8) * 1.0 for a, b in drawn]
        truth = 0.1
    covered = _covered(tables, truth, resamples=400)
    assert covered == pytest.approx(0.95, abs=_tolerance(0.95, 600))


def test_resampling_seeds_and_examples_covers_less_with_three_seeds():
    """Why the interval is not the percentile bootstrap of rows and columns."""
    rng = np.random.default_rng(0)
    tables = [_gaussian(rng, 3, (1.0, 1.0, 1.0)) for _ in range(400)]
    hits = 0
    for table in tables:
        seeds, examples = table.shape
        of_seed = rng.multinomial(seeds, [1 / seeds] * seeds, size=200) / seeds
        of_example = rng.multinomial(examples, [1 / examples] * examples, size=200) / examples
        means = np.einsum("rs,sn,rn->r", of_seed, table, of_example, optimize=True)
        low, high = np.quantile(means, [0.025, 0.975])
        hits += low <= 0 <= high
    assert hits / 400 < 0.85
    assert _covered(tables, 0.0) >= 0.95 - _tolerance(0.95, 400)


# Values.


def test_by_hand():
    # Seed means 1 and 3, example means 1, 3, residuals -+1.
    first = np.array([[1.0, 1.0], [1.0, 5.0]])
    value, low, high = _tuple(paired_interval(first, np.zeros((2, 2))))
    # A = 2/2 = 1, B = 2/2 = 1, E = (4 * 1 / 1) / 4 = 1; t of one degree of freedom is 12.7062.
    assert value == 2.0
    assert (low, high) == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-4)


@few
@given(st.integers(0, 2**32), st.integers(2, 6), st.integers(2, 50))
def test_the_mean_squares_of_a_two_way_table(seed, seeds, examples):
    """Against sums of squares by their textbook formulas."""
    first, second = _draw(seed, seeds, examples)
    d = first - second
    correction = d.sum() ** 2 / d.size
    rows = (d.sum(1) ** 2).sum() / examples - correction
    columns = (d.sum(0) ** 2).sum() / seeds - correction
    residual = (d**2).sum() - correction - rows - columns
    mean_squares = (
        rows / (seeds - 1),
        columns / (examples - 1),
        residual / ((seeds - 1) * (examples - 1)),
    )
    t_rows, t_columns = stats.t.ppf(0.95, seeds - 1), stats.t.ppf(0.95, examples - 1)
    of_examples = max(mean_squares[1] - mean_squares[2], 0)
    half = math.sqrt((t_rows**2 * mean_squares[0] + t_columns**2 * of_examples) / d.size)
    found = paired_interval(first, second, level=0.9)
    assert found.value == pytest.approx(d.mean())
    assert found.high - found.value == pytest.approx(half, rel=1e-6)
    assert found.value - found.low == pytest.approx(half, rel=1e-6)


def test_networks_that_are_all_the_same_leave_the_t_interval_of_examples():
    d = np.random.default_rng(0).standard_normal(30)
    found = paired_interval(np.tile(d, (3, 1)), np.zeros((3, 30)))
    expected = stats.ttest_1samp(d, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_examples_that_are_all_the_same_leave_the_t_interval_of_seeds():
    d = np.array([1.0, 2.0, 4.0])
    found = paired_interval(np.tile(d[:, None], (1, 8)), np.zeros((3, 8)))
    expected = stats.ttest_1samp(d, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_one_seed_is_the_percentile_bootstrap_of_scipy():
    """Also its variance is that of a mean: the half-width of many examples is 1.96 sd / sqrt(N)."""
    d = np.random.default_rng(0).exponential(size=400)
    found = paired_interval(d, np.zeros(400), resamples=20_000)
    other = stats.bootstrap(
        (d,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    error = d.std() / math.sqrt(400)
    assert (found.low, found.high) == pytest.approx((other.low, other.high), abs=0.06 * error)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.03)


def test_chunks_of_resamples_are_one_bootstrap(monkeypatch):
    d = np.random.default_rng(0).standard_normal(50)
    whole = paired_interval(d, np.zeros(50), resamples=101)
    monkeypatch.setattr("conjoin.measure.intervals._ELEMENTS", 120)
    assert _tuple(paired_interval(d, np.zeros(50), resamples=101)) == pytest.approx(_tuple(whole))
    monkeypatch.setattr("conjoin.measure.intervals._ELEMENTS", 7)  # less than one resample
    assert _tuple(paired_interval(d, np.zeros(50), resamples=101)) == pytest.approx(_tuple(whole))


# Symmetries.


@few
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_swapping_the_models_negates(seed, seeds):
    first, second = _draw(seed, seeds)
    forth, back = paired_interval(first, second), paired_interval(second, first)
    assert _tuple(back) == pytest.approx((-forth.value, -forth.high, -forth.low), abs=1e-12)


@few
@given(st.integers(0, 2**32), st.integers(1, 4), st.floats(0.01, 1000), st.floats(-100, 100))
def test_scale_and_shift(seed, seeds, scale, shift):
    first, second = _draw(seed, seeds)
    plain = paired_interval(first, second, resamples=200)
    scaled = paired_interval(scale * first + shift, scale * second, resamples=200)
    expected = [scale * number + shift for number in _tuple(plain)]
    assert _tuple(scaled) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@few
@given(st.integers(0, 2**32), st.integers(2, 4))
def test_the_order_of_seeds_and_examples_does_not_matter(seed, seeds):
    first, second = _draw(seed, seeds)
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(seeds), rng.permutation(first.shape[1])
    mixed = paired_interval(first[rows][:, columns], second[rows][:, columns])
    assert _tuple(mixed) == pytest.approx(_tuple(paired_interval(first, second)), abs=1e-10)


def test_the_order_of_examples_matters_to_the_bootstrap_by_its_noise_only():
    first, second = _draw(0, 1, 500)
    order = np.random.default_rng(0).permutation(500)
    plain = paired_interval(first, second, resamples=10_000)
    mixed = paired_interval(first[:, order], second[:, order], resamples=10_000)
    assert mixed.value == pytest.approx(plain.value, abs=1e-12)
    width = plain.high - plain.low
    assert _tuple(mixed) == pytest.approx(_tuple(plain), abs=0.03 * width)


def test_pairing_matters():
    first, second = _draw(0, 1, 500)
    first, second = first + 5 * _draw(1, 1, 500)[0], second + 5 * _draw(1, 1, 500)[0]
    paired = paired_interval(first, second)
    unpaired = paired_interval(first, np.roll(second, 1))
    assert (paired.high - paired.low) < 0.5 * (unpaired.high - unpaired.low)


def test_the_same_seed_gives_the_same_interval():
    first, second = _draw(0, 1)
    assert paired_interval(first, second) == paired_interval(first, second)
    assert paired_interval(first, second) != paired_interval(first, second, seed=1)
    state = np.random.get_state()[1].copy()
    paired_interval(first, second)
    assert np.array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("seeds", [1, 3])
def test_several_pairs_are_each_as_alone(seeds):
    a, b = _draw(0, seeds)
    c, _ = _draw(1, seeds)
    inf = np.where(np.arange(40) == 3, INF, a)
    scores = {"a": a, "b": b, "c": c, "inf": inf}
    pairs = [("a", "b"), ("inf", "a"), ("b", "c"), ("c", "c"), ("c", "a")]
    found = paired_intervals(scores, pairs)
    for one, (first, second) in zip(found, pairs, strict=True):
        expected = paired_interval(scores[first], scores[second])
        assert _tuple(one) == pytest.approx(_tuple(expected), rel=1e-12, abs=1e-12)
    assert paired_intervals(scores, []) == []


def test_inputs_are_unchanged_and_may_be_bool_or_lists():
    first, second = np.array([True, True, False]), np.array([True, False, False])
    found = paired_interval(first, second)
    assert found.value == pytest.approx(1 / 3)
    assert found == paired_interval([1, 1, 0], [[1, 0, 0]])
    assert first.tolist() == [True, True, False]


# Degenerate tables.


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_equal_differences_have_no_width(seeds):
    for number in (0.0, 0.1, 1e-30, 1e30):
        found = paired_interval(np.full((seeds, 7), number), np.zeros((seeds, 7)))
        assert found.low == found.value == found.high
        assert found.value == pytest.approx(number)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (NAN, 0.0, (NAN, NAN, NAN)),
        (0.0, NAN, (NAN, NAN, NAN)),
        (INF, INF, (NAN, NAN, NAN)),
        (INF, 0.0, (INF, -INF, INF)),
        (0.0, INF, (-INF, -INF, INF)),
    ],
)
def test_scores_that_are_not_finite(seeds, first, second, expected):
    a, b = np.zeros((seeds, 5)), np.ones((seeds, 5))
    a[0, 2], b[0, 2] = first, second
    assert _tuple(paired_interval(a, b)) == pytest.approx(expected, nan_ok=True)


def test_infinite_both_ways_is_nan():
    found = paired_interval([INF, 0.0], [0.0, INF])
    assert all(map(math.isnan, _tuple(found)))


@pytest.mark.parametrize(
    ("first", "second", "arguments", "message"),
    [
        ([1.0], [0.0], {}, "two test examples or more; 'first' has 1"),
        (np.zeros((3, 1)), np.zeros((3, 1)), {}, "two test examples or more"),
        (np.zeros((3, 0)), np.zeros((3, 0)), {}, "'first' has 0"),
        (np.zeros((0, 3)), np.zeros((0, 3)), {}, r"must be \[seeds, examples\], not \[0, 3\]"),
        (np.zeros((2, 2, 2)), np.zeros((2, 2, 2)), {}, r"not \[2, 2, 2\]"),
        (np.zeros(3), np.zeros(4), {}, r"same seeds and examples; got 'first' \[1, 3\], 'second'"),
        (np.zeros((2, 3)), np.zeros((3, 3)), {}, "same seeds and examples"),
        (np.zeros(3), np.zeros(3), {"level": 95}, "between 0 and 1, such as 0.95; got 95"),
        (np.zeros(3), np.zeros(3), {"level": 0}, "between 0 and 1"),
        (np.zeros(3), np.zeros(3), {"resamples": 0}, "at least 1; got 0"),
    ],
)
def test_what_cannot_be_used(first, second, arguments, message):
    with pytest.raises(InputError, match=message):
        paired_interval(first, second, **arguments)


def test_a_pair_without_scores():
    with pytest.raises(InputError, match="no scores for mena; there are scores for mean"):
        paired_intervals({"mean": [0, 1]}, [("mena", "mean")])
