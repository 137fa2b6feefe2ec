"""Programs that functions of symbols write down are those that tracing them with tensors gives."""

import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from program_cases import drawn, few, prepared, program_of, rows

import conjoin.compiled.programs
from conjoin.compiled import Programs, load_library
from conjoin.merging.rounding import rounded
from conjoin.methods import METHODS, TotalOf
from conjoin.methods.gram import gram_of

if load_library() is None and not os.environ.get("CONJOIN_REQUIRE_COMPILED"):
    pytest.skip("this installation has no compiled part", allow_module_level=True)

BY_SYMBOLS = (
    *("sum", "mean", "linear", "passthrough", "task_arithmetic"),
    *("slerp", "nuslerp", "multislerp", "karcher", "geometric_median", "model_stock"),
    "nearswap",
)


@rows
@few
@given(data=st.data())
def test_symbols_and_tracing_give_the_same_program(row, data):
    case = drawn(data.draw, row, 3001)
    program = program_of(row, *case)
    traced = without_symbols(lambda: program_of(row, *case))
    assert (program is None) == (traced is None)
    if program is not None:
        assert bytes(program.code) == bytes(traced.code)
        assert program.structure == traced.structure


def without_symbols(make):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conjoin.compiled.programs, "_by_symbols", lambda *_, **__: None)
        return make()


@pytest.mark.parametrize("base", [False, True])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_symbols_and_tracing_give_the_same_sums(base, count):
    asked = []

    class Asked(TotalOf):
        def __call__(self, function):
            asked.append(function)
            return super().__call__(function)

    stored = [torch.randn(9, generator=torch.Generator().manual_seed(k)) for k in range(count)]
    given = {"base": torch.ones(9)} if base else {}
    gram_of(Asked(stored, **given), "m")

    def make():
        stored = [torch.bfloat16] * (count + base)
        return Programs(rounded).of(asked[0], {}, stored=stored, result=None, base=base)

    program, traced = make(), without_symbols(make)
    assert program.sums == traced.sums == count * (count + 1) // 2
    assert bytes(program.code) == bytes(traced.code)


@pytest.mark.parametrize("name", BY_SYMBOLS)
def test_simple_functions_are_understood_without_tensors(name, monkeypatch):
    # Nothing but time would tell, and a torch that is imported for nothing.
    row = METHODS[name]
    stored, keywords = prepared(row, 2, [torch.float32], 2000, 0, {})
    monkeypatch.setattr(Programs, "_make", lambda *_, **__: None)
    assert program_of(row, stored, keywords, torch.bfloat16) is not None


def in_place(tensors):
    result = tensors[0].clone()
    seen = result.view(-1)  # the same memory
    seen -= tensors[1]
    seen *= 0.3
    seen += tensors[1]
    seen /= 7
    return result


def in_the_middle(tensors):
    return tensors[0].lerp(tensors[1], 0.3)


def at_the_end(tensors):
    return tensors[0].lerp(tensors[1], 0.7).clamp_(-0.5, 0.25)


def both_in_range(tensors):
    return (tensors[0] - tensors[1]).clamp_(-0.0, 3e38).add_(tensors[1], alpha=-2)


@pytest.mark.parametrize("function", [in_place, in_the_middle, at_the_end, both_in_range])
def test_symbols_do_what_tensors_do(function, monkeypatch):
    def make():
        read = [torch.float32, torch.bfloat16]
        return Programs(rounded).of(
            function, {}, stored=read, result=torch.float32, base=False, size=10**6
        )

    traced = without_symbols(make)
    monkeypatch.setattr(Programs, "_make", lambda *_, **__: None)
    assert bytes(make().code) == bytes(traced.code)


@pytest.mark.parametrize(
    "looks",
    [
        lambda one: one.numel() <= 1000,
        lambda one: one.numel() == 0,
        lambda one: one.shape == (3,),
        lambda one: one.numel() > 5,
        lambda one: one.view(3, -1),
        lambda one: one.clamp_(-1, float("inf")),
        lambda one: one.sum() > 1,
        lambda one: one > 0,
        bool,
    ],
)
def test_what_hangs_on_more_than_operations_is_not_understood(looks, monkeypatch):
    def function(tensors):
        return tensors[0] * 2 if looks(tensors[0]) else tensors[0] + 1

    monkeypatch.setattr(Programs, "_make", lambda *_, **__: None)
    of = Programs(rounded).of
    assert of(function, {}, stored=[torch.float32], result=torch.float32, base=False) is None
