"""The hash of a data set."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conjoin.comparison.digests import Digest, described
from conjoin.errors import DataError

X, Y = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), torch.arange(12)


def digest(*batches):
    found = Digest()
    for inputs, targets in batches:
        found.add(inputs, targets, "x")
    assert found.count == sum(len(targets) for _, targets in batches)
    return found.hexdigest()


@settings(deadline=None, max_examples=20)
@given(st.sets(st.integers(1, 11)))
def test_batches_do_not_matter(cuts):
    ends = [0, *sorted(cuts), 12]
    parts = [(X[a:b], Y[a:b]) for a, b in pairwise(ends)]
    assert digest(*parts) == digest((X, Y))


@pytest.mark.parametrize(
    "other",
    [
        (X.flip(0), Y), (X, Y.flip(0)), (X.double(), Y), (X, Y.int()), (X.reshape(12, 3, 1), Y),
        ((X,), Y), ({"x": X}, Y), ((X, X), Y), (X[:-1], Y[:-1]), (X.clone().fill_(0), Y),
        (-X, Y),
    ],
)  # fmt: skip
def test_everything_else_does(other):
    assert digest(other) != digest((X, Y))


def test_memory_does_not_matter():
    assert digest((X.t().contiguous().t(), Y)) == digest((X, Y))
    assert digest((torch.complex(X, X).conj(), Y)) == digest((torch.complex(X, -X), Y))
    digest((torch.zeros(2, 0), Y[:2]), (torch.zeros(0, 0), Y[:0]))
    digest((X.bfloat16(), Y))
    digest((X > 0, Y > 3))


def test_batches_that_differ():
    several, single = Digest(), Digest()
    several.add((X, X), Y, "here")
    with pytest.raises(DataError, match="here: batches differ"):
        several.add(X, Y, "here")
    single.add(X, Y, "here")
    with pytest.raises(DataError, match="here: targets differ: torch.int64"):
        single.add(X, Y.float(), "here")


def test_what_inputs_are():
    assert described({"x": X, "y": Y}) == "float32 [12, 3], int64 [12]"
