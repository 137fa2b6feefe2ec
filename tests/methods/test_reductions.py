"""Sums in a fixed order."""

import math

import numpy as np
import pytest
import torch

from conjoin.methods.reductions import sum_of, sum_of_magnitudes, sum_of_products

SIZES = [0, 1, 3, 1 << 14, (1 << 14) + 1, 100_000, 1 << 18]


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("size", SIZES)
def test_the_number_of_threads_changes_no_bit(size, threads):
    generator = torch.Generator().manual_seed(size)
    a, b = torch.randn(2, size, generator=generator)
    found = []
    for count in (1, 2, 3):
        threads(count)
        sums = [sum_of(a), sum_of_magnitudes(a), sum_of_products(a, b)]
        found.append([value.item().hex() for value in sums])
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("size", SIZES)
def test_against_exact_sums(size):
    generator = torch.Generator().manual_seed(size)
    a, b = torch.randn(2, size, generator=generator)
    x, y = a.double().numpy(), b.double().numpy()
    bound = 1e-13 * (1 + float(np.abs(x * y).sum()) + float(np.abs(x).sum()))
    assert abs(sum_of(a).item() - math.fsum(x)) <= bound
    assert abs(sum_of_magnitudes(a).item() - math.fsum(np.abs(x))) <= bound
    assert abs(sum_of_products(a, b).item() - math.fsum(x * y)) <= bound


def test_shapes_and_large_numbers():
    tensor = torch.full((2, 3), 3e38)
    assert sum_of(tensor).item() == pytest.approx(1.8e39)
    assert sum_of(tensor.t()[1:]).item() == pytest.approx(1.2e39)
    assert sum_of(torch.tensor(2.0)).shape == ()
    assert sum_of_products(tensor, tensor).item() == pytest.approx(5.4e77)
    # 2**24 + 1 is no float32
    assert sum_of(torch.tensor([2.0**24, 1.0])).item() == 2**24 + 1
