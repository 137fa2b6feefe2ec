"""What holds for every row of METHODS: a new row is covered by being there."""

import inspect

import pytest
import torch

from conjoin.errors import MethodError
from conjoin.methods import METHODS, Method, Need, find_method

rows = pytest.mark.parametrize("row", METHODS.values(), ids=METHODS.keys())

HARD = [
    [torch.tensor(1.5), torch.tensor(-2.0)],
    [torch.empty(0, 3), torch.empty(0, 3)],
    [torch.ones(2, 3, 4), -torch.ones(2, 3, 4) * 3],
    [torch.zeros(5), -torch.zeros(5)],
    [torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).t()] * 2,  # not contiguous
    [torch.tensor([1e30, 1e-30]), torch.tensor([-1e30, 1e-30]), torch.tensor([1.0, 2.0])],
    [torch.ones(3, dtype=torch.float64), torch.full((3,), 2.0, dtype=torch.float64)],
]


def _call(row: Method, tensors):
    """Call a method as the engine does."""
    keywords = {}
    base = torch.zeros_like(tensors[0]) + 0.5
    if Need.BASE in row.needs:
        keywords["base"] = base
    if Need.WEIGHTS in row.needs:
        keywords["weights"] = [1.0, 2.0, 4.0][: len(tensors)]
    if row.summarize is not None:
        inputs = [*tensors, base] if Need.BASE in row.needs else list(tensors)
        keywords["summary"] = row.summarize(iter([inputs]))
    if row.is_random:
        keywords["generator"] = torch.Generator().manual_seed(0)
    return row.function(tensors, **keywords)


@rows
@pytest.mark.parametrize("tensors", HARD)
def test_shape_dtype_and_device_are_kept_and_inputs_unchanged(row, tensors):
    before = [tensor.clone() for tensor in tensors]
    result = _call(row, tensors)
    assert (result.shape, result.dtype) == (tensors[0].shape, tensors[0].dtype)
    assert result.device == tensors[0].device
    for tensor, old in zip(tensors, before, strict=True):
        assert torch.equal(tensor, old)
        assert torch.equal(torch.signbit(tensor), torch.signbit(old))


@rows
def test_meta_tensors_stay_meta(row):
    if not row.is_random:
        assert _call(row, [torch.empty(2, 3, device="meta")] * 2).is_meta


@rows
def test_the_same_call_gives_the_same_bits(row):
    for tensors in HARD:
        assert torch.equal(_call(row, tensors), _call(row, tensors))


@rows
def test_elementwise_methods_may_be_called_in_chunks(row):
    if row.elementwise and not row.is_random:
        tensors = [torch.linspace(-1, 2, 12), torch.linspace(3, -2, 12)]
        whole = _call(row, tensors)
        if row.summarize is None:
            parts = [_call(row, [t[i : i + 5] for t in tensors]) for i in range(0, 12, 5)]
            assert torch.equal(torch.cat(parts), whole)


@rows
def test_a_row_says_what_it_is(row):
    assert METHODS[row.name] is row
    assert row.formula
    documentation = inspect.getdoc(row.function)
    assert documentation
    assert ">>>" in documentation
    parameters = inspect.signature(row.function).parameters
    assert {need.value for need in row.needs} <= set(parameters)
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
