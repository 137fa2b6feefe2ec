"""How many rows a layer is fitted to."""

from math import prod
from types import SimpleNamespace

import torch
from hypothesis import given
from hypothesis import strategies as st

from conjoin.fitting.rows import fewest_rows, thinned


@given(
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=3),
    batches=st.lists(st.integers(1, 250), min_size=1, max_size=8),
    channels=st.integers(1, 600),
)
def test_a_convolution_has_at_least_as_many_rows_as_is_said(sizes, batches, channels):
    value = torch.empty(2, 1, *sizes, device="meta")
    layer = SimpleNamespace(kind="convolution", node=SimpleNamespace(meta={"val": value}))
    shape, examples = (1, channels, *(3 for _ in sizes)), sum(batches)
    rows = 0
    for number, count in enumerate(batches):
        places = thinned(layer, shape, examples, number) or (slice(None),) * len(sizes)
        taken = [len(range(*one.indices(n))) for one, n in zip(places, sizes, strict=True)]
        rows += count * prod(taken)
    fewest = fewest_rows(layer, shape, examples)
    assert fewest <= rows
    # Said are all, or enough for the matrix of the features to be the smaller one.
    assert fewest == rows or fewest >= channels * 3 ** len(sizes)


def test_a_linear_layer_has_one_row_of_each_example_or_more():
    assert fewest_rows(SimpleNamespace(kind="linear"), (3, 4), 17) == 17
