"""Counts of bit patterns, against a count by NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import conjoin.methods.trimming as trimming
from conjoin.compiled import count_patterns, load_library
from conjoin.methods.trimming import largest

needs_it = pytest.mark.skipif(load_library() is None, reason="there is no compiled part")

numbers = st.one_of(st.integers(0, 40), st.integers(0, 2**31 - 1), st.just(2**31 - 1))
windows = st.tuples(numbers, st.integers(0, 20), st.integers(1, 9))


def _expected(bits, asked, columns):
    counts = np.zeros((len(asked), columns), dtype=np.int64)
    for row, low, shift, bins in asked:
        for bit in bits:
            place = (bit - low) >> shift
            if place >= bins:
                counts[row, -1] += 1
            elif bit >= low:
                counts[row, place] += 1
    return counts


@needs_it
@given(
    st.one_of(st.lists(numbers, max_size=70), st.lists(st.integers(0, 20), min_size=1500)),
    st.lists(windows, min_size=1, max_size=3),
    st.integers(0, 5),
    st.booleans(),
)
def test_against_counting_one_by_one(bits, asked, spare, negative):
    asked = [(row, *window) for row, window in enumerate(asked)]
    columns = 1 + spare + max(bins for *_, bins in asked)
    before = torch.arange(len(asked) * columns).view(len(asked), columns)
    into = before.clone()
    given_ = torch.tensor(bits, dtype=torch.int32)
    signed = given_ | -(2**31) if negative else given_  # as floats have signs
    if any(low + (bins << shift) >= 2**32 for _, low, shift, bins in asked):
        assert not count_patterns(signed, asked, into)
        assert torch.equal(into, before)
        return
    assert count_patterns(signed, asked, into)
    assert torch.equal(into - before, torch.from_numpy(_expected(bits, asked, columns)))
    assert (signed & 2**31 - 1).tolist() == bits


@needs_it
def test_what_it_is_not_for_is_left_to_others():
    bits, counts = torch.arange(9, dtype=torch.int32), torch.zeros(1, 4, dtype=torch.int64)
    assert not count_patterns(bits.long(), [(0, 0, 0, 3)], counts)
    assert not count_patterns(bits, [(0, 0, 0, 4)], counts)  # no column is left for those above
    assert not count_patterns(bits, [(0, 0, 0, 3)], torch.zeros(4, 2, dtype=torch.int64).mT)
    assert not count_patterns(bits, [(1, 0, 0, 3)], counts)  # there is no such row
    assert not count_patterns(bits, [(0, 0, 0, 3)], counts.int())
    assert not count_patterns(bits.to("meta"), [(0, 0, 0, 3)], counts)
    assert not counts.any()
    assert count_patterns(bits[::2], [(0, 0, 1, 3)], counts)  # 0 2 4 6 8
    assert counts.tolist() == [[1, 1, 1, 2]]


@needs_it
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_found_is_the_same_without_it(monkeypatch, dtype):
    values = torch.randn(300_000, generator=torch.Generator().manual_seed(0)).to(dtype)

    class Whole:
        size = values.numel()

        def __call__(self, function):
            return function([values], base=values)

        def sample(self, function, count):
            return function([values[:: self.size // count | 1]], base=values)

    def find():
        return largest(
            Whole(), lambda tensors, _: [tensors[0].clone()], lambda _: [[1, 70_000, 299_000]]
        )

    called = []

    def watched(*given_):
        called.append(count_patterns(*given_))
        return called[-1]

    monkeypatch.setattr(trimming, "count_patterns", watched)
    found = find()
    assert called
    assert all(called) == (dtype == torch.float32)
    monkeypatch.setattr(trimming, "count_patterns", lambda *_: False)
    assert torch.equal(find(), found)
    ordered = values.abs().double().sort(descending=True).values
    assert found[0].tolist() == [ordered[k - 1].item() for k in (1, 70_000, 299_000)]
