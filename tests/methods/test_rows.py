"""Groups of rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conjoin.methods.rows import by_rows, groups_of_rows, row_sums

few = settings(deadline=None, max_examples=30)


@few
@given(st.integers(1, 300), st.sampled_from([1, 7, 1000, 70_000]), st.booleans())
def test_groups_are_all_rows_in_their_order(rows, columns, turned):
    rows = min(rows, 500_000 // columns + 1)
    matrix = torch.arange(rows * columns).reshape(rows, columns)
    matrix = matrix.t().contiguous().t() if turned else matrix
    groups = [part for (part,) in groups_of_rows([matrix])]
    assert torch.equal(torch.cat(groups), matrix)
    assert all(group.numel() <= 1 << 16 or len(group) == 1 for group in groups)
    assert torch.equal(by_rows(lambda parts: parts[0] + parts[1], [matrix, matrix]), 2 * matrix)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_nothing_is_called_without_elements(shape):
    assert by_rows(lambda _: pytest.fail("called"), [torch.empty(shape)]).shape == shape


@pytest.mark.parametrize("columns", [1, 100, 16_384, 16_385, 100_001])
def test_sums_of_rows_are_exact_and_the_same_for_every_number_of_threads(columns):
    matrix = torch.randn(3, columns, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(row_sums(matrix), matrix.double().sum(1))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = row_sums(matrix)
        torch.set_num_threads(3)
        assert torch.equal(row_sums(matrix), one)
        assert torch.equal(row_sums(matrix[:1]), one[:1])
    finally:
        torch.set_num_threads(before)
