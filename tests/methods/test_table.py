"""What holds for every row of METHODS: a new row is covered by being there."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_engine import models_of, run

from conjoin.errors import MethodError
from conjoin.methods import METHODS, Method, Need, find_method

few = settings(deadline=None, max_examples=25)
rows = pytest.mark.parametrize("row", METHODS.values(), ids=METHODS.keys())

HARD = [
    [torch.tensor(1.5), torch.tensor(-2.0)],
    [torch.empty(0, 3), torch.empty(0, 3)],
    [torch.ones(2, 3, 4), -torch.ones(2, 3, 4) * 3],
    [torch.zeros(5), -torch.zeros(5)],
    [torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).t()] * 2,  # not contiguous
    [torch.tensor([1e30, 1e-30]), torch.tensor([-1e30, 1e-30]), torch.tensor([1.0, 2.0])],
    [torch.tensor([1e-45, -1e-45, 1e-39]), torch.tensor([3e-45, 0.0, -1e-38])],
    [torch.ones(3, dtype=torch.float64), torch.full((3,), 2.0, dtype=torch.float64)],
    [torch.tensor([[5.0]])],
]

# Not of huge numbers: a change from a base of the other sign would be infinite.
values = st.sampled_from([0.0, -0.0, 1e-45, 1e-30, -1e-30, 1e30, -1e30, 1.0]) | st.floats(
    -100, 100, width=32
)


@st.composite
def inputs(draw):
    """Tensors, a base and weights, of one shape."""
    shape = draw(st.sampled_from([(), (0,), (1,), (7,), (2, 3), (2, 0, 3), (3, 1, 4)]))
    count, size = draw(st.integers(1, 4)), torch.Size(shape).numel()
    row = st.lists(values, min_size=size, max_size=size)
    tensors = [torch.tensor(draw(row)).reshape(shape) for _ in range(count)]
    base = torch.tensor(draw(row)).reshape(shape)
    sides = st.sampled_from([0.5, 1.0, 2.0])
    return tensors, base, draw(st.lists(sides, min_size=count, max_size=count))


def _given(row: Method, tensors, base=None, weights=None):
    """What `run` takes for this row."""
    tensors = models_of(row, tensors)
    given = {"tensors": tensors}
    if Need.BASE in row.needs:
        given["base"] = torch.zeros_like(tensors[0]) + 0.5 if base is None else base
    if Need.WEIGHTS in row.needs:
        weights = [1.0, 2.0, 4.0] if weights is None else [*weights, 1.0]
        given["weights"] = weights[: len(tensors)]
    return given


# Their sums over blocks are added in another order if blocks are others.
SUMS = {
    "slerp",
    "nuslerp",
    "multislerp",
    "karcher",
    "geometric_median",
    "model_stock",
    "sce",
    "emr",
}


def _bits(tensor):
    assert tensor.dtype in (torch.float32, torch.float64)
    integers = torch.int32 if tensor.dtype == torch.float32 else torch.int64
    return tensor.contiguous().view(integers)


@rows
@pytest.mark.parametrize("tensors", HARD)
def test_shape_dtype_and_device_are_kept_and_inputs_unchanged(row, tensors):
    given = _given(row, tensors)
    all_inputs = [*given["tensors"], *([given["base"]] if "base" in given else [])]
    before = [tensor.clone() for tensor in all_inputs]
    result = run(row, **given)
    assert (result.shape, result.dtype) == (tensors[0].shape, tensors[0].dtype)
    assert result.device == tensors[0].device
    assert not result.isnan().any()
    for tensor, old in zip(all_inputs, before, strict=True):
        assert torch.equal(_bits(tensor), _bits(old))


@rows
@few
@given(case=inputs())
def test_inputs_stay_as_they_are_and_nothing_is_shared_with_them(row, case):
    given = _given(row, *case)
    all_inputs = [*given["tensors"], *([given["base"]] if "base" in given else [])]
    before = [tensor.clone() for tensor in all_inputs]
    run(row, **given).fill_(7)
    for tensor, old in zip(all_inputs, before, strict=True):
        assert torch.equal(_bits(tensor), _bits(old))


def _assert_sums_agree(one, other, case):
    """Sums in another order differ by roundings, of the size of the largest numbers at most."""
    tensors, base, _ = case
    largest = max((float(t.abs().max()) for t in (*tensors, base) if t.numel()), default=0.0)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6 * max(1.0, largest))


@rows
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_meta_tensors_stay_meta(row, dtype):
    tensors = [torch.empty(2, 3, device="meta", dtype=dtype)] * 2
    assert run(row, **_given(row, tensors)).is_meta


@rows
@few
@given(case=inputs(), seed=st.integers(0, 3))
def test_the_same_seed_gives_the_same_bits_in_any_order_of_blocks(row, case, seed):
    given = _given(row, *case)
    one = run(row, **given, seed=seed, block=4)
    other = run(row, **given, seed=seed, block=4, backwards=True)
    assert torch.equal(_bits(one), _bits(other))


@rows
@few
@given(case=inputs(), block=st.integers(1, 9))
def test_blocks_change_no_bit(row, case, block):
    if row.is_random:
        return  # the random numbers are those of a block
    given = _given(row, *case)
    whole = run(row, **given)
    cut = run(row, **given, block=block)
    if row.name in SUMS:
        _assert_sums_agree(cut, whole, case)
    else:
        assert torch.equal(_bits(cut), _bits(whole))


@rows
@pytest.mark.parametrize("block", [37, 1000, 4096])
def test_blocks_change_no_bit_of_long_tensors(row, block):
    # Torch does most elements eight at a time, and the last few one by one.
    if row.is_random or row.name in SUMS:
        return
    tensors = list(torch.randn(4, 10_007, generator=torch.Generator().manual_seed(0)))
    base = tensors.pop()
    given = _given(row, tensors, base)
    if Need.WEIGHTS in row.needs:
        given["weights"] = [0.3, 0.7, 1.9][: len(given["tensors"])]
    assert torch.equal(_bits(run(row, **given, block=block)), _bits(run(row, **given)))


@rows
def test_another_seed_gives_another_result_where_there_is_chance(row):
    tensors = list(torch.randn(2, 100, generator=torch.Generator().manual_seed(0)))
    given = _given(row, tensors)
    assert torch.equal(run(row, **given, seed=1), run(row, **given, seed=2)) != row.is_random


@rows
@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_changes_no_bit(row, threads):
    before = torch.get_num_threads()
    generator = torch.Generator().manual_seed(0)
    tensors = list(torch.randn(3, 150_001, generator=generator))
    given = _given(row, tensors, torch.randn(150_001, generator=generator))
    try:
        torch.set_num_threads(1)
        one = run(row, **given)
        torch.set_num_threads(threads)
        assert torch.equal(run(row, **given), one)
    finally:
        torch.set_num_threads(before)


@rows
@few
@given(case=inputs(), data=st.data())
def test_a_permutation_of_the_elements_goes_through(row, case, data):
    if row.is_random or not row.elementwise:
        return  # which element a random number is for depends on its place; rows are rows
    tensors, base, weights = case
    order = data.draw(st.permutations(range(base.numel())))
    shuffled = [tensor.reshape(-1)[order] for tensor in tensors]
    one = run(row, **_given(row, tensors, base, weights)).reshape(-1)[order]
    other = run(row, **_given(row, shuffled, base.reshape(-1)[order], weights))
    if row.name in SUMS:
        _assert_sums_agree(one, other, case)
    else:
        assert torch.equal(_bits(one), _bits(other))


@rows
@few
@given(case=inputs(), data=st.data())
def test_the_order_of_models_with_their_weights_says_nothing(row, case, data):
    if row.is_random or row.models is not None or row.per_task:
        return  # masks are drawn in the order of the models; slerp goes from one to the other
    # Sixteenths have sums without roundings, which could turn a vote.
    tensors = [(tensor.clamp(-64, 64) * 16).round() / 16 for tensor in case[0]]
    base, weights = (case[1].clamp(-64, 64) * 16).round() / 16, case[2]
    order = data.draw(st.permutations(range(len(tensors))))
    one = run(row, **_given(row, tensors, base, weights))
    shuffled = [tensors[i] for i in order]
    other = run(row, **_given(row, shuffled, base, [weights[i] for i in order]))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


# `sum` and `add_difference` add up; task arithmetic of n equal models goes n times as far; TIES
# trims; DARE drops; NearSwap goes a step of t; Arcee Fusion takes outliers alone.
SAME = {
    "della": {"density": 1},
    "della_linear": {"density": 1, "normalize": True},
    "breadcrumbs": {"density": 1, "normalize": True},
    "breadcrumbs_ties": {"density": 1},
    "magmax": {},
    "sce": {},
    "ram": {"epsilon": 0},
    "ramplus_tl": {"epsilon": 0},
    "expo": {"alpha": 0},
    "consensus": {"threshold": 0, "normalize": True},
    "tall_mask": {"threshold": 0, "normalize": True},
    "emr": {},
    "sum": None,
    "mean": {},
    "linear": {},
    "passthrough": {},
    "slerp": {},
    "task_arithmetic": {"normalize": True},
    "ties": {"density": 1},
    "dare_linear": {"density": 1, "normalize": True},
    "dare_ties": {"density": 1},
    "median": {},
    "trimmed_mean": {},
    "geometric_median": {},
    "nuslerp": {},
    "multislerp": {},
    "karcher": {},
    "model_stock": {},
    "nearswap": {"t": 3e38},
    "arcee_fusion": None,
    "add_difference": None,
    "train_difference": {},
    # By default a part of the directions; the isotropic methods change all sizes.
    "tsv": {"keep": "all"},
    "iso_c": None,
    "iso_cts": None,
    "knots_ties": {"density": 1},
}


@rows
@few
@given(case=inputs())
def test_identical_models_give_that_model(row, case):
    parameters = SAME[row.name]
    if parameters is None:
        return
    tensors, base, weights = case
    tensors = [tensors[0]] * len(tensors)
    by_number = parameters.get("density") and not parameters.get("normalize")
    if by_number or row.name == "tsv":
        weights = [1.0] * len(tensors)  # a mean over the number of models
    found = run(row, **_given(row, tensors, base, weights), **parameters)
    scale = tensors[0].abs() + (base.abs() if Need.BASE in row.needs else 0)
    if row.name in {"tsv", "knots_ties"}:
        scale = scale + scale.sum()  # small elements drown in a matrix with large ones
    assert ((found - tensors[0]).abs() <= 2e-6 * scale + 1e-44).all()


@rows
def test_a_row_says_what_it_is(row):
    assert METHODS[row.name] is row
    assert row.formula
    documentation = inspect.getdoc(row.function)
    assert documentation
    assert ">>>" in documentation
    parameters = inspect.signature(row.function).parameters
    assert {need.value for need in row.needs | row.optional} <= set(parameters)
    assert all(parameters[need.value].default is None for need in row.optional)
    assert row.whole_with <= set(row.defaults)
    assert ("summary" in parameters) == (row.summarize is not None)


@rows
def test_every_parameter_is_a_keyword_with_a_documented_name(row):
    first, *others = inspect.signature(row.function).parameters.values()
    assert first.name == "tensors"
    assert all(p.kind is p.KEYWORD_ONLY for p in others)
    for name in row.defaults:
        assert f"{name}:" in inspect.getdoc(row.function)


@rows
def test_methods_are_found_by_name(row):
    assert find_method(row.name) is row


def test_a_name_that_is_none_shows_the_closest_and_all():
    with pytest.raises(MethodError) as error:
        find_method("lienar")
    assert "'lienar'; did you mean 'linear'?" in str(error.value)
    assert all(name in str(error.value) for name in METHODS)
    with pytest.raises(MethodError, match="no method 'xyz'"):
        find_method("xyz")


@pytest.mark.parametrize(
    "message", [lambda: find_method("xyz"), lambda: METHODS["mean"].check(
        {"xyz": 1}, base=False, weights=False)], ids=["method", "parameter"]
)  # fmt: skip
def test_messages_without_a_closest_name_are_sentences(message):
    with pytest.raises(MethodError, match="'xyz'[.;:,]"):
        message()
