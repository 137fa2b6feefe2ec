"""Strips change nothing but the time."""

import pytest
import torch

from conjoin.methods.strips import STRIP, in_strips, strips_of


@pytest.mark.parametrize("size", [0, 1, STRIP, STRIP + 1, 3 * STRIP])
def test_results_are_joined_in_order(size):
    a, base = torch.arange(2.0 * size).view(2, size)
    seen = []

    def function(tensors, ancestor):
        seen.append(len(ancestor))
        return tensors[0] - 2 * ancestor + tensors[1]

    assert torch.equal(in_strips(function, [a, a], base), 2 * a - 2 * base)
    assert max(seen) <= STRIP
    assert sum(seen) == size


@pytest.mark.parametrize("rows", [2, 2 * STRIP])
def test_tensors_of_any_layout(rows):
    a = torch.arange(3.0 * rows).view(3, rows).t()  # not contiguous
    result = in_strips(lambda tensors, base: tensors[0] + base, [a], torch.ones(rows, 3))
    assert torch.equal(result, a + 1)


@pytest.mark.parametrize("size", [0, 1, STRIP + 1])
def test_strips_cover_everything_once(size):
    base = torch.arange(float(size))
    strips = strips_of([base, -base], base)
    assert len(strips) >= 1
    assert torch.equal(torch.cat([ancestor for _, ancestor in strips]), base)
    assert torch.equal(torch.cat([tensors[1] for tensors, _ in strips]), -base)
