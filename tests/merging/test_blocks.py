"""Blocks of tensors: how they are cut, read and checked, and their generators."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conjoin.checkpoints import MemoryCheckpoint
from conjoin.errors import CheckpointError, MismatchError, NonFiniteError
from conjoin.merging import BLOCK, Source, merge
from conjoin.merging.blocks import (
    block_generator,
    blocks_of,
    check_finite,
    hold,
    read_inputs,
    read_source,
)
from conjoin.merging.task import Settings, make_tasks
from conjoin.methods import METHODS

numbers = st.integers(0, 5 * BLOCK)


class Whole(MemoryCheckpoint):
    """A checkpoint that can only give whole tensors; it counts how often."""

    def __init__(self, state):
        super().__init__(state)
        self.fetched = 0

    def reads_ranges(self, name):
        return False

    def __getitem__(self, name):
        self.fetched += 1
        return super().__getitem__(name)


def _task(*models, name="w"):
    tasks = make_tasks(
        models, METHODS["mean"], base=None, kept={}, settings=lambda name: Settings()
    )
    return tasks[name]


@given(numbers, numbers)
def test_blocks_cover_a_range_and_end_at_multiples(first, second):
    start, stop = sorted((first, second))
    found = list(blocks_of(start, stop))
    assert [begin for begin, _ in found] == [start, *(end for _, end in found)][: len(found)]
    assert (not found and start == stop) or found[-1][1] == stop
    assert all(0 < end - begin <= BLOCK for begin, end in found)
    assert all(end % BLOCK == 0 for _, end in found[:-1])
    assert all(begin // BLOCK == (end - 1) // BLOCK for begin, end in found)


def test_a_generator_depends_on_seed_name_and_block_alone():
    def draw(*given):
        return torch.rand(8, generator=block_generator(*given)).tolist()

    assert draw(1, "w", 0) == draw(1, "w", 0) == draw(1, "w", BLOCK - 1)
    others = [(1, "w", BLOCK), (2, "w", 0), (1, "v", 0), (11, "w", 0), (1, "1/w", 0), (-1, "w", 0)]
    assert len({tuple(draw(*given)) for given in [(1, "w", 0), *others]}) == 1 + len(others)


def test_the_global_generator_is_left_alone():
    before = torch.random.get_rng_state()
    torch.rand(8, generator=block_generator(1, "w", 0))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_only_what_cannot_be_had_in_parts_is_held():
    whole, ranges = (
        Whole({"w": torch.arange(6.0).reshape(2, 3)}),
        MemoryCheckpoint({"w": torch.ones(2, 3)}),
    )
    sources = [Source(0, whole, "w"), Source(1, ranges, "w")]
    held = hold(sources)
    assert list(held) == sources[:1]
    assert read_source(sources[0], (1, 3), held).tolist() == [1, 2]
    assert read_source(sources[0], (3, 6), held).tolist() == [3, 4, 5]
    assert read_source(sources[1], (0, 2), held).tolist() == [1, 1]
    assert whole.fetched == 1
    assert read_source(sources[0], None).shape == (2, 3)


def test_a_whole_tensor_is_fetched_once_for_all_its_blocks():
    models = [Whole({"w": torch.full((2 * BLOCK + 5,), float(i))}) for i in range(2)]
    merged = merge(models)
    assert merged["w"].eq(0.5).all()
    assert [model.fetched for model in models] == [1, 1]


def test_inputs_come_in_the_dtype_of_the_arithmetic():
    models = [MemoryCheckpoint({"w": torch.tensor([1, 2, 3]).to(torch.bfloat16)})] * 2
    task = _task(*models)
    found = read_inputs(task, task.sources, (1, 3), finite=True)
    assert [tensor.dtype for tensor in found] == [torch.float32] * 2
    assert [tensor.tolist() for tensor in found] == [[2, 3]] * 2


def test_a_tensor_without_data_beside_one_with_data():
    models = [MemoryCheckpoint({"w": torch.ones(3, device=d)}) for d in ("cpu", "meta")]
    task = _task(*models)
    with pytest.raises(CheckpointError, match="'w' of model 1 .* on the meta device"):
        read_inputs(task, task.sources, None, finite=True)


def test_a_tie_that_only_the_first_model_has_is_checked_in_every_block():
    tensor = torch.zeros(BLOCK + 3)
    first = MemoryCheckpoint({"a": tensor, "b": tensor})
    changed = tensor.clone()
    changed[BLOCK + 1] = 1
    task = _task(first, MemoryCheckpoint({"a": tensor.clone(), "b": changed}), name="a")
    read_inputs(task, task.sources, (0, BLOCK), finite=True)
    with pytest.raises(MismatchError, match="'b' and 'a' are one tensor in the first model"):
        read_inputs(task, task.sources, (BLOCK, BLOCK + 3), finite=True)


# NaN and infinity ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.complex64]
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("index", [0, 777, 4999])
def test_one_number_that_is_not_finite_is_found(dtype, value, index):
    tensor = torch.ones(5000, dtype=dtype)
    check_finite(tensor, "x", "w")
    tensor[index] = value
    with pytest.raises(NonFiniteError, match="'w' of x has"):
        check_finite(tensor, "x", "w")


def test_infinities_that_cancel_in_a_sum_are_found():
    with pytest.raises(NonFiniteError, match="0 NaN and 2 infinite among 3 values"):
        check_finite(torch.tensor([math.inf, 1, -math.inf]), "x", "w")


def test_an_imaginary_nan_is_found():
    with pytest.raises(NonFiniteError, match="1 NaN and 0 infinite among 2 values"):
        check_finite(torch.tensor([1 + 1j, complex(0, math.nan)]), "x", "w")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_large_finite_numbers_whose_sum_overflows_pass(dtype):
    check_finite(torch.full((1000,), torch.finfo(dtype).max, dtype=dtype), "x", "w")


def test_what_has_no_values_passes():
    for tensor in (torch.empty(0), torch.ones(3, device="meta"), torch.arange(3)):
        check_finite(tensor, "x", "w")


def test_the_message_counts_over_the_whole_tensor_although_a_block_was_seen():
    tensor = torch.zeros(2 * BLOCK)
    tensor[5], tensor[BLOCK + 5], tensor[-1] = math.nan, math.inf, math.nan
    merged = merge(
        [MemoryCheckpoint({"w": tensor}), MemoryCheckpoint({"w": torch.zeros(2 * BLOCK)})]
    )
    with pytest.raises(NonFiniteError, match=f"2 NaN and 1 infinite among {2 * BLOCK} values"):
        merged.read("w", 0, 10)


# Tensors that are kept ----------------------------------------------------------------------------


def _kept(tensor, **given):
    models = [MemoryCheckpoint({"w": tensor})] * 2
    return merge(models, keep={"w": 0}, **given)["w"]


def test_a_kept_tensor_is_checked_in_its_own_dtype():
    wide = torch.tensor([1e300], dtype=torch.float64)  # no float32
    assert torch.equal(_kept(wide), wide)
    number = torch.tensor([1 + 2j])
    assert torch.equal(_kept(number), number)
    for broken in (torch.tensor([complex(0, math.nan)]), torch.tensor([math.inf])):
        with pytest.raises(NonFiniteError, match="'w' of model 0"):
            _kept(broken)
        assert torch.equal(_kept(broken, allow_nonfinite=True).isfinite(), torch.tensor([False]))


def test_a_kept_tensor_that_does_not_fit_the_dtype_of_the_result():
    large = torch.tensor([1e38])
    with pytest.raises(NonFiniteError, match="'w' of the result"):
        _kept(large, dtype=torch.float16)
    assert _kept(large, dtype=torch.bfloat16).dtype == torch.bfloat16
