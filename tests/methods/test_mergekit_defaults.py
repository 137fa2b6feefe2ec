"""What mergekit does, written down from its formulas in float64, and our parameters for it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_engine import run

from conjoin.methods import (
    MERGEKIT_DEFAULTS,
    MERGEKIT_IGNORED,
    MERGEKIT_NAMES,
    MERGEKIT_VALUES,
    METHODS,
)

few = settings(deadline=None, max_examples=40)
grid = st.integers(-64, 64).filter(bool).map(lambda n: n / 16)  # sums have no rounding


def _mergekit(changes, base, weights, density, normalize, scale, *, trim, vote):
    """Its generalized task arithmetic, for what is the same whichever of equal ones it keeps."""
    if trim and density < 1:
        kept = max(1, int(density * changes.shape[1]))
        limits = np.sort(np.abs(changes), 1)[:, -kept][:, None]
        changes = np.where(np.abs(changes) >= limits, changes, 0)
    weights = np.array(weights)[:, None]
    weighted = changes * weights
    mask = np.ones_like(weighted)
    if vote:
        majority = np.where(weighted.sum(0) >= 0, 1, -1)
        mask = np.sign(weighted) == majority
    mixed, divisor = (weighted * mask).sum(0), (weights * mask).sum(0)
    divisor = np.where(divisor == 0, 1, divisor)
    return base + scale * (mixed / divisor if normalize else mixed)


@few
@given(st.data(), st.sampled_from(["task_arithmetic", "ties"]), st.booleans())
def test_against_its_formulas(data, method, plain):
    models, size = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 20))
    row = st.lists(grid, min_size=size, max_size=size)
    changes = np.array([data.draw(row) for _ in range(models)])
    base = np.array(data.draw(row))
    sides = st.sampled_from([0.5, 1.0, 2.0])
    weights = data.draw(st.lists(sides, min_size=models, max_size=models))
    density = 1.0 if plain or method != "ties" else data.draw(st.sampled_from([0.1, 0.5, 0.9]))
    normalize = method == "ties" if plain else data.draw(st.booleans())
    scale = 1.0 if plain else 0.5
    chosen = {} if plain else {"lambda": scale, "normalize": normalize}
    if density != 1:
        chosen["density"] = density
    found = run(
        method,
        [torch.tensor(base + change, dtype=torch.float32) for change in changes],
        torch.tensor(base, dtype=torch.float32),
        weights=weights,
        **{**MERGEKIT_DEFAULTS[method], **_translated(method, chosen)},
    )
    expected = _mergekit(
        changes,
        base,
        weights,
        density,
        normalize,
        scale,
        trim=method == "ties",
        vote=method == "ties",
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-6)


def _translated(method, theirs):
    """As a reader of its YAML has to."""
    values = MERGEKIT_VALUES.get(method, {})
    names = MERGEKIT_NAMES[method]
    return {
        names.get(name, name): values.get(name, {}).get(value, value)
        for name, value in theirs.items()
        if name not in MERGEKIT_IGNORED.get(method, ())
    }


@pytest.mark.parametrize("method", MERGEKIT_DEFAULTS)
def test_the_tables_name_methods_and_parameters_that_exist(method):
    row = METHODS[method]
    needs = {need.value for need in row.needs}
    row.check(MERGEKIT_DEFAULTS[method], base="base" in needs, weights=False)
    assert set(MERGEKIT_NAMES[method].values()) <= {*row.defaults, "weights"}
    for name, values in MERGEKIT_VALUES.get(method, {}).items():
        for value in values.values():
            renamed = MERGEKIT_NAMES[method].get(name, name)
            row.check({renamed: value}, base="base" in needs, weights=False)
    assert not MERGEKIT_IGNORED.get(method, frozenset()) & set(row.defaults)


@pytest.mark.parametrize(
    ("method", "theirs", "ours"),
    [
        ("ties", {"normalize": False, "int8_mask": True}, {"merge": "sum"}),
        ("ties", {"normalize": True, "rescale": True}, {"merge": "weighted", "rescale": "l1"}),
        ("dare_ties", {"rescale": False, "lambda": 0.5}, {"rescale": "none", "scale": 0.5}),
        ("dare_linear", {"normalize": True, "density": 0.3}, {"normalize": True, "density": 0.3}),
        ("task_arithmetic", {"density": 0.3, "weight": 1}, {"weights": 1}),
        ("slerp", {"t": 0.3}, {"t": 0.3}),
        ("della", {"normalize": True, "epsilon": 0.1}, {"merge": "weighted", "epsilon": 0.1}),
        ("della_linear", {"rescale": False, "lambda": 2}, {"rescale": "none", "scale": 2}),
        ("breadcrumbs", {"rescale": True, "gamma": 0.1}, {"rescale": "l1", "gamma": 0.1}),
        ("breadcrumbs_ties", {"normalize": False}, {"merge": "sum"}),
        ("sce", {"select_topk": 0.1, "int8_mask": True}, {"select_topk": 0.1}),
    ],
)
def test_translation(method, theirs, ours):
    assert _translated(method, theirs) == ours


def test_the_papers_are_the_defaults_and_mergekit_differs():
    def differing(method):
        row = METHODS[method]
        return {k for k, v in MERGEKIT_DEFAULTS[method].items() if row.defaults[k] != v}

    assert differing("ties") == {"density", "per", "undecided", "merge"}
    assert differing("dare_linear") == {"density", "rescale"}
    assert differing("dare_ties") == {"density", "rescale", "undecided", "merge"}
    assert differing("slerp") == {"eps"}
    assert differing("della") == {"density", "rescale", "undecided", "merge"}
    assert differing("della_linear") == {"density", "rescale"}
    assert differing("breadcrumbs") == {"density"}
    assert differing("breadcrumbs_ties") == {"density", "undecided", "merge"}
    assert differing("sce") == {"among", "undecided", "merge"}
    assert not differing("ram") | differing("ramplus_tl")
    assert not differing("linear") | differing("task_arithmetic") | differing("passthrough")
