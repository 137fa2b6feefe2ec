"""What a program is made of, and that none is made of what it could not do."""

import math
import os

import numpy as np
import pytest
import torch

from conjoin.compiled import Programs, load_library
from conjoin.compiled.program import Instruction, Operation, Program
from conjoin.merging.rounding import rounded
from conjoin.methods.reductions import quick_sums

if load_library() is None and not os.environ.get("CONJOIN_REQUIRE_COMPILED"):
    pytest.skip("this installation has no compiled part", allow_module_level=True)

FLOAT = torch.float32


def program_of(function, *, result=FLOAT, base=False, **keywords):
    stored = [FLOAT] * (3 if base else 2)
    return Programs(rounded).of(function, keywords, stored=stored, result=result, base=base)


def in_place(tensors):
    total = tensors[0].clone()
    total.add_(tensors[1], alpha=2.5)
    view = total.view(-1)
    view.mul_(3)
    return total.sub_(1)


TRACED = {
    "operators": lambda t: (t[0] - 2) * t[1] / 3 + (1 - t[0]),
    "in place, through a view": in_place,
    "comparisons": lambda t: torch.where((t[0] > t[1]) | (t[0] <= -1.0), t[0], -t[1]),
    "and, not": lambda t: t[0] * ((t[0] > 0) & ~(t[1] == t[0])),
    "clamp": lambda t: t[0].clamp(-0.5, 0.25) + t[1].clamp(min=0),
    "lerp from the one end": lambda t: torch.lerp(t[0], t[1], 0.3),
    "lerp from the other": lambda t: torch.lerp(t[0], t[1], 0.8),
    "lerp from the middle": lambda t: torch.lerp(t[0], t[1], 0.49999999999),
    "sign of largest": lambda t: torch.maximum(t[0].abs(), t[1].abs()).copysign(t[0]),
    "a number of float64": lambda t: t[0] * torch.tensor(0.1, dtype=torch.float64),
    "zeros": lambda t: torch.zeros_like(t[0]).add_(t[1]).square_(),
    "shrink": lambda t: torch.nn.functional.hardshrink(t[0], 0.7) - torch.relu(t[1]),
    "an input as it is": lambda t: t[1],
    "out": lambda t: torch.eq(t[0], t[1], out=torch.empty_like(t[0])) + t[0],
}


@pytest.mark.parametrize("function", TRACED.values(), ids=TRACED.keys())
def test_programs_do_what_functions_do(function):
    program = program_of(function)
    generator = torch.Generator().manual_seed(3)
    tensors = [torch.randn(700, generator=generator) for _ in range(2)]
    tensors[1][::3] = tensors[0][::3]
    before = [tensor.clone() for tensor in tensors]
    found = program.run(tensors)
    assert torch.equal(found.view(torch.int32), function(tensors).view(torch.int32))
    assert all(map(torch.equal, tensors, before))


UNTRACED = {
    "other elements": lambda t: t[0].cumsum(0),
    "all elements": lambda t: t[0] - t[0].mean(),
    "its size": lambda t: t[0][:-1],
    "the order": lambda t: t[0].flip(0),
    "a part": lambda t: t[0].clone().index_fill_(0, torch.tensor([0]), 1.0),
    "a slice in place": lambda t: t[0].clone()[:5].zero_(),
    "numbers in Python": lambda t: t[0] * t[1][0].item(),
    "numbers in Python, unseen": lambda t: t[0] * max(t[1].tolist()),
    "numbers in NumPy, unseen": lambda t: t[0] * float(t[1].numpy().max()),
    "more digits": lambda t: (t[0].double() * t[1].double()).float(),
    "fewer digits": lambda t: t[0].half().float(),
    "other operations": lambda t: t[0].exp(),
    "integers": lambda t: (t[0].view(torch.int32) + 1).view(torch.float32),
    "how many": lambda t: t[0] * t[0].numel(),
    "how many rows": lambda t: t[0] * t[0].shape[0],
    "rows": lambda t: t[0].reshape(-1, 1) + t[1].reshape(1, -1),
    "whether they are equal": lambda t: t[0] * 2 if t[0] == t[1] else t[0],
    "NumPy's doing": lambda t: np.add(t[0], t[1]),
    "NumPy's array": lambda t: np.asarray(t[0]) + 1,
    "a factor that is NaN": lambda t: t[0] * math.nan,
    "a table": lambda t: t[0] * torch.arange(t[0].numel()),
    "random numbers": lambda t: t[0] * torch.rand_like(t[0]),
    "infinity": lambda t: t[0].clamp(max=float("inf")),
    "bool of numbers": lambda t: t[0].bool().float(),
    "a number in bool": lambda t: t[0] * torch.full_like(t[0], 2, dtype=torch.bool),
    "another number in bool": lambda t: t[0] * (t[0] > 0).fill_(2),
    "sum of bool": lambda t: t[0] * ((t[0] > 0) + (t[1] > 0)),
    "no tensor": lambda t: None,
    "an error": lambda t: t[5],
    "sums": lambda t: quick_sums(t),
}


@pytest.mark.parametrize("function", UNTRACED.values(), ids=UNTRACED.keys())
def test_no_program_is_made_of(function):
    assert program_of(function) is None


def clamped_sums(tensors):
    sums = quick_sums([tensor.abs() for tensor in tensors])
    sums.clamp_(max=1e6)
    return sums


SUMS_UNTRACED = {
    "what is done with sums": lambda t: quick_sums(t) * 2,
    "two sums": lambda t: quick_sums(t) + quick_sums(t),
    "other sums": lambda t: t[0].sum(dtype=torch.float64)[None],
    "counts": lambda t: (t[0] > 0).sum()[None],
    "sums in place": clamped_sums,
}


@pytest.mark.parametrize("function", SUMS_UNTRACED.values(), ids=SUMS_UNTRACED.keys())
def test_no_sums_are_made_of(function):
    assert program_of(function, result=None) is None


def test_a_base_is_given_where_it_is_wanted():
    program = program_of(lambda tensors, base: tensors[1] - base, base=True)
    one, other, base = (torch.full((3,), value) for value in (1.0, 5.0, 2.0))
    assert program.run([one, other, base]).tolist() == [3.0] * 3
    program = program_of(lambda tensors: tensors[1] - tensors[0], base=True)
    assert program.run([one, other, base]).tolist() == [4.0] * 3


def test_what_a_function_hangs_on_is_looked_at():
    programs = Programs(rounded)

    def made(factor):
        return programs.of(
            lambda tensors: tensors[0] * factor, {}, stored=[FLOAT], result=FLOAT, base=False
        )

    one = torch.ones(2)
    assert made(2).run([one]).tolist() == [2, 2]
    assert made(3).run([one]).tolist() == [3, 3]
    assert made(2) is made(2)
    assert made(2) is not made(2.0)  # equal, and yet the types may make a difference
    held = [3.0]
    assert made(torch.tensor(3.0)).run([one]).tolist() == [3, 3]
    del held


def test_a_program_of_another_function_is_not_taken_for_one_that_was_proved():
    programs = Programs(rounded)
    own = {"stored": [FLOAT] * 2, "result": FLOAT, "base": False}
    assert programs.of(lambda t: t[0] * 2, {}, **own) is not None
    # It has the same operations, and a constant that hangs on the sample.
    assert programs.of(lambda t: t[0] * max(t[1].tolist()), {}, **own) is None


def test_functions_are_told_apart_by_all_that_they_hang_on():
    programs = Programs(rounded)
    own = {"stored": [FLOAT], "result": FLOAT, "base": False}

    def made(function, **keywords):
        return programs.of(function, keywords, **own)

    functions = []
    for factor in (2.0, 3.0):

        def times(tensors, *, factor=factor):
            return tensors[0] * factor

        functions.append(times)
    one = torch.ones(2)
    assert [made(times).run([one])[0] for times in functions] == [2, 3]
    minus = [made(lambda t, by: t[0] * by, by=by).run([one])[0] for by in (0.0, -0.0)]
    assert [math.copysign(1, value) for value in minus] == [1, -1]
    # What has no equal is traced anew, and what hangs on itself as well.
    told = object()
    assert made(lambda t: t[0] * (told is not None)).run([one])[0] == 1
    hung: list = []
    hung.append(hung)
    assert made(lambda t: t[0] * len(hung)).run([one])[0] == 1
    grad = torch.ones((), requires_grad=True)
    assert made(lambda t: t[0] * grad.detach()).run([one])[0] == 1


def test_samples_are_never_changed():
    programs = Programs(rounded)
    own = {"stored": [FLOAT] * 2, "result": FLOAT, "base": False}

    def spoils(tensors):
        return tensors[0].zero_() + tensors[1].zero_()

    programs.of(spoils, {}, **own)
    assert programs.of(lambda t: t[0] * max(t[1].tolist()), {}, **own) is None


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_set_outside_changes_nothing(device, dtype):
    one = torch.full((5,), 3.0)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.device(device), torch.inference_mode():
            program = program_of(lambda t: torch.lerp(t[0], t[1], 0.8).reshape(-1))
            assert program.run([one, 2 * one]).tolist() == torch.lerp(one, 2 * one, 0.8).tolist()
    finally:
        torch.set_default_dtype(before)


def test_memory_of_any_kind():
    program = program_of(lambda t: t[0] + t[1])
    one = torch.arange(5, dtype=FLOAT)
    raw = torch.zeros(21, dtype=torch.uint8)
    raw[1:] = one.view(torch.uint8)
    odd = torch.frombuffer(raw.numpy().data, dtype=FLOAT, count=5, offset=1)
    for other in (torch._neg_view(-one), odd, one.expand(2, 5)[1], one.clone().requires_grad_()):
        assert program.run([one, other]).tolist() == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, FLOAT])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_is_seen_even_where_nothing_comes_of_it(value, dtype):
    stored = [dtype] * 2
    program = Programs(rounded).of(
        lambda t: t[0].clone(), {}, stored=stored, result=FLOAT, base=False
    )
    one, other = (torch.ones(600, dtype=dtype) for _ in range(2))
    assert program.run([one, other]).tolist() == [1.0] * 600
    other[599] = value
    assert program.run([one, other]) is None


def test_sums_that_overflow_are_left_to_torch():
    program = program_of(lambda t: quick_sums(t), result=None)
    large = torch.full((3000,), 1e38)
    assert program.run([large, large]) is None


def test_more_values_at_once_than_there_are_registers():
    loads = [Instruction(Operation.LOAD, k, 0, third=2) for k in range(60)]
    adds = [Instruction(Operation.ADD, 60, 0, 1)]
    for k in range(2, 60):
        adds.append(Instruction(Operation.ADD, 59 + k, 58 + k, k))
    with pytest.raises(ValueError, match="too many"):
        Program([*loads, *adds], dtypes=[FLOAT], result=FLOAT)


def test_many_models_take_few_registers():
    stored = [FLOAT] * 40

    def total(tensors):
        found = tensors[0].clone()
        for tensor in tensors[1:]:
            found += tensor
        return found

    program = Programs(rounded).of(total, {}, stored=stored, result=FLOAT, base=False)
    assert program.run([torch.full((9,), float(k)) for k in range(40)]).tolist() == [780.0] * 9
