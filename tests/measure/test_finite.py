import math

import pytest
import torch

from conjoin.checkpoints import MemoryCheckpoint, save
from conjoin.measure import FiniteCount, count_nonfinite, nonfinite_tensors

HOSTILE = [1.0, math.nan, math.inf, -math.inf, math.nan]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_counts_whatever_the_chunk(dtype, chunk):
    checkpoint = MemoryCheckpoint({"x": torch.tensor(HOSTILE, dtype=dtype)})
    assert count_nonfinite(checkpoint, "x", chunk=chunk) == FiniteCount(nan=2, inf=2, count=5)


@pytest.mark.parametrize("dtype", [torch.float8_e5m2, torch.float8_e4m3fn])
def test_8_bit_floats(dtype):
    checkpoint = MemoryCheckpoint({"x": torch.tensor([1.0, math.nan]).to(dtype)})
    assert count_nonfinite(checkpoint, "x") == FiniteCount(nan=1, inf=0, count=2)


def test_a_complex_number_counts_once():
    values = torch.tensor([complex(math.nan, math.inf), complex(0, math.inf), 1j])
    assert count_nonfinite(MemoryCheckpoint({"x": values}), "x") == FiniteCount(1, 1, 3)


def test_integers_and_empty_tensors_are_finite():
    checkpoint = MemoryCheckpoint({"i": torch.arange(3), "e": torch.empty(0, 4)})
    assert count_nonfinite(checkpoint, "i") == FiniteCount(0, 0, 3)
    assert count_nonfinite(checkpoint, "e") == FiniteCount(0, 0, 0)
    assert count_nonfinite(checkpoint, "e").all_finite


def test_models_of_every_form(tmp_path):
    shared = torch.tensor([math.nan])
    tensors = {"good": torch.ones(2), "bad": shared, "tied": shared}
    path = save(tensors, tmp_path / "a.safetensors")
    expected = {"bad": FiniteCount(nan=1, inf=0, count=1)}
    assert nonfinite_tensors(tensors) == nonfinite_tensors(path) == expected
    assert nonfinite_tensors(torch.nn.Linear(2, 2)) == {}
