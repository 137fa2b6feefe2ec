"""Rows of a layer that are gone through several times: kept if there is room."""

import pytest
import torch

from conjoin.fitting.least_squares import _Kept

PARTS = [
    (0, torch.ones(1, 5, 3), torch.zeros(1, 5, 2)),
    (1, torch.ones(1, 2, 3), torch.ones(1, 2, 2)),
]
BYTES = 4 * 7 * 5


@pytest.mark.parametrize(("most", "made"), [(BYTES, 1), (BYTES - 1, 3), (0, 3)])
def test_rows_are_made_again_only_without_room(most, made):
    calls = []

    def make():
        calls.append(1)
        yield from PARTS

    rows = _Kept(make, most)
    for _ in range(3):
        found = list(rows())
        assert [number for number, *_ in found] == [0, 1]
        for one, other in zip(found, PARTS, strict=True):
            assert one[1] is other[1]
            assert one[2] is other[2]
    assert len(calls) == made


def test_a_pass_that_was_broken_off_is_not_taken_for_all():
    rows = _Kept(lambda: iter(PARTS), BYTES)
    next(rows())
    assert len(list(rows())) == len(PARTS)
