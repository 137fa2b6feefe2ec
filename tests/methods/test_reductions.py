"""Sums in a fixed order."""

import math

import numpy as np
import pytest
import torch

from conjoin.methods.reductions import (
    quick_products,
    quick_sums,
    sum_of,
    sum_of_magnitudes,
    sum_of_products,
    went_well,
)

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


def magnitudes(kind, size):
    """Normal values times factors that go over many orders of magnitude."""
    generator = torch.Generator().manual_seed(size)
    values = torch.randn(2, size, generator=generator)
    if kind == "spread":
        values *= 10.0 ** (20 * torch.rand(2, size, generator=generator) - 15)
    if kind == "few large":
        values[:, ::1000] *= 1e4
    if kind == "tiny beside large":
        values[0] *= 1e-14
        values[1] *= 1e14
    if kind == "near 1":
        values = 1 + 1e-3 * values
    if kind == "sparse":
        values[:, torch.rand(size, generator=generator) < 0.9] = 0
    return values


@pytest.mark.parametrize("size", [1, 3, 4095, 4096, 4097, 65_536, 1 << 18])
@pytest.mark.parametrize(
    "kind", ["normal", "spread", "few large", "tiny beside large", "near 1", "sparse"]
)
def test_quick_products_are_those_of_float64(kind, size):
    vectors = magnitudes(kind, size)
    first, product, second = quick_products(list(vectors)).tolist()
    if not went_well([first, second]):
        assert kind in ("sparse", "spread")
        assert size < 4
        return
    found = torch.tensor([[first, product], [0.0, second]], dtype=torch.float64)
    wide = vectors.double()
    expected = (wide @ wide.t()).triu()
    lengths = wide.norm(dim=1)
    errors = (found - expected).abs() / torch.outer(lengths, lengths)
    assert errors.max() <= 3e-7  # roundings of products, and of sums of rows
    if kind == "normal" and size >= 65_536:
        assert errors.max() <= 6e-8


@pytest.mark.parametrize(
    "values",
    [
        [0.0, 0.0],
        [1e-16, 0.0],  # 1e-32: beside it squares of 1e-23 and less are lost
        [1e-30, 1e-40],
        [4e18, 1.0],
        [1e30, 1e30],
        [math.nan, 1.0],
        [math.inf, 1.0],
    ],
)
def test_it_is_seen_where_quick_products_could_go_wrong(values):
    tensor = torch.tensor(values)
    assert not went_well(quick_products([tensor]).tolist())
    _, _, square = quick_products([torch.ones(2), tensor]).tolist()
    assert not went_well([2.0, square])


def test_quick_products_of_float64_and_of_nothing():
    large = torch.tensor([1e100, 3e100], dtype=torch.float64)
    assert quick_products([large]).item() == pytest.approx(1e201, rel=1e-15)
    assert quick_products([torch.ones(0), torch.ones(0)]).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("values", [[3.0, 4.0], [1e38, 3e38, 3e38, 0.0], [0.0], []])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quick_sums_are_those_of_float64(values, dtype):
    tensor = torch.tensor(values, dtype=dtype)
    found = quick_sums([tensor, tensor.repeat(3000)])
    expected = tensor.double().sum().item()
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx([expected, 3000 * expected], rel=1e-6)


@pytest.mark.parametrize("size", [5000, 65_536, 200_001])
def test_the_number_of_threads_changes_no_bit_of_quick_products(size, threads):
    vectors = list(magnitudes("normal", size))
    found = []
    for count in (1, 2, 3):
        threads(count)
        found.append(quick_products(vectors))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
