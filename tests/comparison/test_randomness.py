"""Generators: seeded for a block or a pass over data, and put back."""

import random

import numpy as np
import pytest
import torch

from conjoin.comparison.randomness import drawn, seeded


def draw():
    return torch.rand(()).item(), np.random.rand(), random.random()


def test_a_block_draws_the_same():
    with seeded(1):
        first = draw()
    with seeded(1):
        assert draw() == first
    with seeded(2):
        assert not set(draw()) & set(first)


def test_a_block_leaves_generators_alone():
    with seeded(5):
        expected = draw(), draw()
    with seeded(5):
        first = draw()
        with pytest.raises(ZeroDivisionError), seeded(9):
            1 / (draw()[0] - draw()[0]) / 0
        assert (first, draw()) == expected


def noisy(count):
    for _ in range(count):
        yield draw()


def test_a_pass_draws_the_same_whatever_happens_between():
    first = list(drawn(noisy(4)))
    again = []
    for value in drawn(noisy(4)):
        draw()
        again.append(value)
    assert again == first
    assert list(drawn(noisy(4), seed=1)) != first


def test_a_pass_leaves_generators_alone():
    """Also one that is left early, and whose rest is thrown away later."""
    with seeded(3):
        expected = [draw() for _ in range(6)]
    with seeded(3):
        found = [draw()]
        passing = drawn(noisy(9))
        next(passing)
        found.append(draw())
        next(passing)
        found.append(draw())
        passing.close()
        found.append(draw())
        list(drawn(noisy(2)))
        found.append(draw())
        with pytest.raises(ZeroDivisionError):
            list(drawn(1 / draw()[0] / n for n in (1, 0)))
        found.append(draw())
    assert found == expected


def test_two_passes_at_once():
    alone = list(drawn(noisy(3)))
    together = list(zip(drawn(noisy(3)), drawn(noisy(3)), strict=True))
    assert together == list(zip(alone, alone, strict=True))
