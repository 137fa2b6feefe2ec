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
