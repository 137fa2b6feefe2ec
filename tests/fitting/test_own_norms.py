"""A shared matrix with a scale and a shift of each parent's own, against dense solutions."""

import numpy as np
import pytest
import torch

from conjoin.errors import NonFiniteError
from conjoin.fitting.moments import Affine
from conjoin.fitting.own_norms import solve_with_own_norms
from conjoin.fitting.problem import Problem
from conjoin.fitting.solving import solve

PLENTY = 1e9

WAYS = [
    ({}, PLENTY, "features", 1e-11),
    ({}, 8, "iterations", 1e-3),
    ({"features": 200, "rows": (20, 30)}, PLENTY, "rows", 1e-9),
    ({"features": 200, "rows": (20, 30)}, 2e5, "rows", 1e-9),  # 640 kB are two Gram matrices
    ({"features": 200, "rows": (20, 30)}, 8, "iterations", 1e-3),
]
"""Settings of a problem, memory, by what it is solved then, and how near to the dense solution."""


def problem(*, groups=2, features=5, outputs=3, rows=(40, 70), seed=0, targets=None, **given):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    start = Affine(normal(groups, features, outputs), torch.zeros(groups, outputs).double())
    parts = []
    for number, count in enumerate(rows):
        x = normal(groups, count, features) * (1 + normal(features).abs()) + 3 * normal(features)
        y = normal(groups, count, outputs) if targets is None else targets(number, x, start.matrix)
        parts += [(number, *pair) for pair in zip(x.split(16, 1), y.split(16, 1), strict=True)]
    settings = {"weights": [1.0, 2.0], "ridge": 0.05, **given}
    return Problem("here", lambda: iter(parts), start=start, **settings), parts


def whole(parts, number, group):
    """Rows of a parent in NumPy: inputs, targets."""
    own = [part for part in parts if part[0] == number]
    return tuple(torch.cat([part[at] for part in own], 1)[group].numpy() for at in (1, 2))


def dense(one, parts, group):
    """The matrix: rows about the means of their parent, weighted, below a ridge of rows."""
    found = [whole(parts, number, group) for number in range(len(one.shares))]
    roots = [np.sqrt(share / len(x)) for share, (x, _) in zip(one.shares, found, strict=True)]
    wanted = [y for _, y in found]
    for _ in range(one.rounds + 1):
        x, y = (
            np.concatenate([r * (v - v.mean(0)) for r, v in zip(roots, values, strict=True)])
            for values in ([x for x, _ in found], wanted)
        )
        root = np.sqrt(one.ridge * (x**2).sum(0).mean())
        x = np.concatenate([x, root * np.eye(x.shape[1])])
        y = np.concatenate([y, root * one.start.matrix[group].numpy()])
        matrix = np.linalg.lstsq(x, y, rcond=None)[0]
        wanted = [
            np.where(y > 0, y, np.minimum((x - x.mean(0)) @ matrix + now.mean(0), 0))
            for (x, y), now in zip(found, wanted, strict=True)
        ]
    return matrix


@pytest.mark.parametrize(("settings", "memory", "expected", "near"), WAYS)
@pytest.mark.parametrize("rounds", [0, 3])
def test_the_matrix_is_the_dense_one_whatever_there_is_memory_for(
    settings, memory, expected, near, rounds
):
    one, parts = problem(**settings, rounds=rounds)
    maps, spreads, solved = solve_with_own_norms(one, memory)
    assert solved.startswith(expected)
    for group in range(2):
        matrix = dense(one, parts, group)
        for number, found in enumerate(maps):
            np.testing.assert_allclose(found.matrix[group], matrix, atol=near)
            x, _ = whole(parts, number, group)
            np.testing.assert_allclose(spreads[number].inputs[group], x.mean(0), atol=1e-9)
            np.testing.assert_allclose(
                spreads[number].variance(found.matrix)[group],
                (x @ found.matrix[group].numpy()).var(0),
                rtol=1e-9,
            )


def test_scales_and_shifts_are_the_dense_ones():
    one, parts = problem()
    maps, *_ = solve_with_own_norms(one, PLENTY)
    for group in range(2):
        matrix = dense(one, parts, group)
        for number, found in enumerate(maps):
            np.testing.assert_allclose(found.matrix[group], matrix, atol=1e-12)
            x, y = whole(parts, number, group)
            z = x @ matrix
            around = z - z.mean(0)
            variance = (around**2).mean(0)
            slope = (around * y).mean(0) + one.ridge * variance
            slope /= variance * (1 + one.ridge)
            np.testing.assert_allclose(found.scale[group], slope, atol=1e-11)
            np.testing.assert_allclose(
                found.offset[group], y.mean(0) - slope * z.mean(0), atol=1e-11
            )
            rows = torch.tensor(x)[None].expand(2, -1, -1)
            np.testing.assert_allclose(
                found.affine(rows)[group], z * slope + found.offset[group].numpy(), atol=1e-10
            )


def test_shifts_and_the_start_are_found_exactly():
    shifts = torch.tensor([[1.0, -2.0, 3.0], [0.0, 5.0, -7.0]]).double()
    one, _ = problem(targets=lambda number, x, start: x @ start + shifts[number])
    maps, *_ = solve_with_own_norms(one, PLENTY)
    for shift, found in zip(shifts, maps, strict=True):
        torch.testing.assert_close(found.matrix, one.start.matrix)
        torch.testing.assert_close(found.scale, torch.ones_like(found.scale))
        torch.testing.assert_close(found.offset, shift.expand_as(found.offset))


def test_each_parent_comes_at_least_as_near_as_with_one_offset():
    one, parts = problem(ridge=1e-9)
    maps, *_ = solve_with_own_norms(one, PLENTY)
    shared = solve(one, PLENTY).fitted

    def distance(given):
        return sum(
            share * float(np.mean([
                ((given(number)(torch.tensor(x)[None].expand(2, -1, -1))[group].numpy() - y) ** 2)
                .mean() for group in range(2) for x, y in [whole(parts, number, group)]
            ])) for number, share in enumerate(one.shares)
        )  # fmt: skip

    assert distance(lambda number: maps[number].affine) < distance(lambda _: shared)


@pytest.mark.parametrize("memory", [PLENTY, 8])
def test_rounds_bring_what_counts_nearer(memory):
    def loss(rounds):
        one, parts = problem(rounds=rounds, ridge=1e-6, rows=(90, 60))
        maps, *_ = solve_with_own_norms(one, memory)
        total = 0.0
        for number, x, y in parts:
            given = maps[number].affine(x)
            total += one.shares[number] * float(
                (given.clamp(min=0) - y.clamp(min=0)).square().sum()
            )
        return total

    assert loss(3) < loss(0)


def test_dead_channels_keep_their_scale():
    one, _ = problem(targets=lambda _, x, start: torch.zeros_like(x @ start))
    dead = Problem(
        "dead",
        lambda: ((n, torch.zeros_like(x), y + 2) for n, x, y in one.stream()),
        one.weights,
        one.start,
        one.ridge,
    )
    for found in solve_with_own_norms(dead, PLENTY)[0]:
        assert (found.scale == 1).all()
        torch.testing.assert_close(found.offset, torch.full_like(found.offset, 2.0))


def test_nan_is_refused():
    one, parts = problem()
    parts[0][1][0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="activations at 'here'"):
        solve_with_own_norms(one, PLENTY)
