"""Ridge regression by features, by rows and by iterations: all three are the dense solution."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from conjoin.errors import NonFiniteError
from conjoin.fitting.by_iterations import by_iterations
from conjoin.fitting.by_rows import by_rows
from conjoin.fitting.moments import Affine
from conjoin.fitting.problem import Problem, means_of
from conjoin.fitting.solving import by_features, solve


def _by_rows(problem):
    return by_rows(problem, means_of(problem))


def _by_iterations(problem):
    return by_iterations(problem, means_of(problem), tolerance=1e-12, most=500)


WAYS = {"features": by_features, "rows": _by_rows, "iterations": _by_iterations}


def _problem(
    *, rows=(9, 14), features=30, outputs=3, groups=1, seed=0, kind="plain", dtype=torch.float64,
    **settings,
):  # fmt: skip
    """Rows of two parents in batches of 5, with means far from 0 and features of unequal size."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    parts = []
    for number, count in enumerate(rows):
        x = (normal(groups, count, features) + 1.5) * (0.3 + normal(features).abs())
        y = normal(groups, count, outputs) + normal(outputs)
        if kind == "dead features":
            x[..., ::3] = 0
        if kind == "all dead":
            x.zero_()
        if kind == "equal rows":
            x, y = x[:, :1].expand_as(x).clone(), y
        if kind == "rank 2":
            x = x[..., :2] @ normal(2, features)
        parts += [(number, *pair) for pair in zip(x.split(5, 1), y.split(5, 1), strict=True)]
    parts = [(number, x.to(dtype), y.to(dtype)) for number, x, y in parts]
    start = Affine(normal(groups, features, outputs), torch.zeros(groups, outputs).double())
    given = {"weights": [1.0, 2.0], "ridge": 0.03, **settings}
    return Problem("here", lambda: iter(parts), start=start, **given)


def _dense(problem):
    """Solve as the module says it, in NumPy: the matrix and the offset of each group."""
    parts = list(problem.stream())
    shares = np.array(problem.weights) / sum(problem.weights)
    counts = [sum(x.shape[1] for k, x, _ in parts if k == parent) for parent in (0, 1)]
    found = []
    for group in range(len(problem.start.matrix)):
        x = np.concatenate([x[group].double().numpy() for _, x, _ in parts])
        y = np.concatenate([y[group].double().numpy() for _, _, y in parts])
        share = np.concatenate([np.full(x.shape[1], shares[k] / counts[k]) for k, x, _ in parts])
        w0 = problem.start.matrix[group].numpy()
        mean = share @ x if problem.offset else np.zeros(x.shape[1])
        away = x - mean
        gram = away.T @ (share[:, None] * away)
        floor = problem.ridge * np.trace(gram) / len(gram)
        wanted = y
        for _ in range(problem.rounds + 1):
            target = share @ wanted if problem.offset else np.zeros(y.shape[1])
            right = away.T @ (share[:, None] * (wanted - target - away @ w0))
            w = w0 + np.linalg.solve(gram + floor * np.eye(len(gram)), right)
            wanted = np.where(y > 0, y, np.minimum(away @ w + target, 0))
        found.append((w, target - mean @ w))
    return found


def _close(solution, expected, rtol, atol):
    for group, (matrix, offset) in enumerate(expected):
        np.testing.assert_allclose(solution.fitted.matrix[group], matrix, rtol=rtol, atol=atol)
        np.testing.assert_allclose(solution.fitted.offset[group], offset, rtol=rtol, atol=10 * atol)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("ridge", [1e-6, 0.03, 1.0, 1e4])
@pytest.mark.parametrize("shape", [((9, 14), 30), ((40, 25), 12)], ids=["wide", "tall"])
def test_each_way_is_the_dense_solution(way, offset, ridge, shape):
    rows, features = shape
    problem = _problem(rows=rows, features=features, groups=2, ridge=ridge, offset=offset)
    _close(WAYS[way](problem), _dense(problem), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("features", [10, 40])
def test_rectified_rounds_are_the_same(way, offset, features):
    problem = _problem(features=features, groups=2, offset=offset, rounds=3)
    plain = _problem(features=features, groups=2, offset=offset, rounds=0)
    solution = WAYS[way](problem)
    _close(solution, _dense(problem), rtol=1e-6, atol=1e-7)
    assert not np.allclose(solution.fitted.matrix[0], _dense(plain)[0][0], atol=1e-3)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["dead features", "equal rows", "rank 2"])
@pytest.mark.parametrize("ridge", [1e-6, 0.03])
def test_matrices_without_full_rank(way, kind, ridge):
    problem = _problem(kind=kind, ridge=ridge, rounds=1)
    _close(WAYS[way](problem), _dense(problem), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["plain", "dead features", "equal rows", "rank 2"])
def test_without_a_ridge_the_rows_are_met_as_nearly_as_they_can_be(way, kind):
    problem = _problem(kind=kind, ridge=0.0)
    fitted = WAYS[way](problem).fitted
    x, y, share = (
        torch.cat(values, dim)
        for values, dim in zip(
            zip(*[(x, y, torch.full((x.shape[1],), (1 + k) / (3 * (9 + 5 * k))).double())
                  for k, x, y in problem.stream()], strict=True), (1, 1, 0), strict=True)
    )  # fmt: skip
    root = share.sqrt()[:, None]
    ones = torch.ones_like(x[..., :1])
    best = torch.linalg.lstsq(root * torch.cat([x, ones], 2), root * y, driver="gelsd").solution
    missed = ((fitted(x) - y).square() * root**2).sum()
    least = ((torch.cat([x, ones], 2) @ best - y).square() * root**2).sum()
    assert missed <= least * (1 + 1e-3) + 1e-4


@pytest.mark.parametrize("way", WAYS)
def test_of_inputs_that_are_all_dead_the_start_is_kept(way):
    problem = _problem(kind="all dead")
    solution = WAYS[way](problem)
    torch.testing.assert_close(solution.fitted.matrix, problem.start.matrix)
    targets = [torch.cat([y[0] for k, _, y in problem.stream() if k == n]).mean(0) for n in (0, 1)]
    torch.testing.assert_close(solution.fitted.offset[0], (targets[0] + 2 * targets[1]) / 3)


@pytest.mark.parametrize("way", WAYS)
def test_targets_that_the_start_gives_leave_it_as_it_is(way):
    problem = _problem()
    start = Affine(problem.start.matrix, torch.full((1, 3), 0.5).double())
    parts = [(k, x, start(x)) for k, x, _ in problem.stream()]
    same = Problem("here", lambda: parts, [1.0, 1.0], problem.start, 0.03)
    fitted = WAYS[way](same).fitted
    torch.testing.assert_close(fitted.matrix, start.matrix, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(fitted.offset, start.offset, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("way", WAYS)
def test_rows_in_single_precision(way):
    problem = _problem(dtype=torch.float32, rounds=2)
    x = torch.cat([x for _, x, _ in problem.stream()], 1).double()
    ((matrix, offset),) = _dense(problem)
    expected = x[0].numpy() @ matrix + offset
    np.testing.assert_allclose(WAYS[way](problem).fitted(x)[0], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("way", WAYS)
def test_all_know_the_variance_of_what_a_matrix_gives(way):
    problem = _problem(groups=2)
    inputs = WAYS[way](problem).inputs
    matrix = torch.randn(2, 30, 4, generator=torch.Generator().manual_seed(1)).double()
    given = [torch.cat([x @ matrix for k, x, _ in problem.stream() if k == n], 1) for n in (0, 1)]
    mean = (given[0].mean(1) + 2 * given[1].mean(1)) / 3
    squares = [(one - mean[:, None]).square().mean(1) for one in given]
    torch.testing.assert_close(inputs.variance(matrix), (squares[0] + 2 * squares[1]) / 3)
    torch.testing.assert_close((inputs.inputs[:, None] @ matrix)[:, 0], mean)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    features=st.integers(1, 30),
    outputs=st.integers(1, 4),
    ridge=st.sampled_from([1e-3, 0.03, 1.0]),
    offset=st.booleans(),
    rounds=st.integers(0, 2),
    seed=st.integers(0, 100),
)
def test_all_ways_agree(rows, features, outputs, ridge, offset, rounds, seed):
    problem = _problem(
        rows=rows, features=features, outputs=outputs, ridge=ridge, offset=offset, rounds=rounds,
        seed=seed,
    )  # fmt: skip
    found = [way(problem).fitted for way in WAYS.values()]
    for one, other in pairwise(found):
        torch.testing.assert_close(one.matrix, other.matrix, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one.offset, other.offset, rtol=1e-5, atol=1e-5)


class Largest(TorchDispatchMode):
    """Remembers the most elements that a new tensor had."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else [result]:
            if isinstance(one, torch.Tensor):
                self.elements = max(self.elements, one.untyped_storage().nbytes() // 8)
        return result


@pytest.mark.parametrize(
    ("rows", "features", "memory", "expected"),
    [
        ((20, 30), 40, 8 * 40**2, "features"),  # it is the smaller one
        ((20, 30), 200, 8 * 200**2, "rows"),
        ((20, 30), 200, 8 * 50 * 200, "rows"),  # the rows themselves have just room
        ((20, 30), 200, 8 * 50 * 200 - 1, "iterations"),
        ((300, 300), 100, 8 * 100**2, "features"),
        ((300, 300), 100, 8 * 100**2 - 1, "iterations"),
    ],
)
def test_what_fits_in_memory_is_chosen_and_nothing_larger_is_made(rows, features, memory, expected):
    problem = _problem(rows=rows, features=features, outputs=2, fewest=2)
    with Largest() as seen:
        solution = solve(problem, memory)
    assert solution.solved.startswith(expected)
    # Rows come in parts of 5.
    assert seen.elements <= max(memory // 8, 5 * features, features * 2)
    _close(solution, _dense(problem), rtol=1e-3, atol=1e-3)


def test_many_rows_are_not_counted_first():
    calls = []
    problem = _problem(rows=(20, 20), features=10)

    def stream():
        calls.append(1)
        return problem.stream()

    known = Problem("here", stream, [1.0, 1.0], problem.start, 0.03, fewest=40)
    assert solve(known, 1e9).solved == "features"
    assert len(calls) == 1


def test_iterations_that_end_too_early_say_so_and_are_no_worse_than_the_start():
    problem = _problem(rows=(60, 60), features=50, ridge=1e-9)

    def missed(fitted):
        total = 0.0
        for k, x, y in problem.stream():
            total += float((fitted(x) - y).square().sum()) * problem.shares[k] / 60
        return total

    means = means_of(problem)
    start = Affine(
        problem.start.matrix,
        means.targets - (means.inputs[:, None] @ problem.start.matrix)[:, 0],
    )
    errors = [missed(start)]
    for most in (1, 4, 16, 64):
        solution = by_iterations(problem, means, tolerance=1e-9, most=most)
        errors.append(missed(solution.fitted))
        if most < 64:
            assert f"({most} steps, the residual still" in solution.solved
    assert all(one > other for one, other in pairwise(errors))


@pytest.mark.parametrize("which", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_values_that_are_not_finite_are_named(way, which):
    problem = _problem()
    parts = [tuple(p) for p in problem.stream()]
    parts[1][which][0, 0, 0] = float("nan")
    broken = partial(Problem, "here", lambda: iter(parts), [1.0, 1.0], problem.start, 0.03)
    with pytest.raises(NonFiniteError, match="activations at 'here' are NaN or infinite"):
        WAYS[way](broken())
