"""Compiled programs give torch's bits: for every method that a program can be made of."""

import inspect
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from program_cases import DTYPES, ELEMENTWISE, OTHER, bits, few, prepared, program_of, rows

import conjoin.compiled.programs
from conjoin import merge
from conjoin.checkpoints import MemoryCheckpoint
from conjoin.compiled import LEAST, Programs, Run, load_library
from conjoin.errors import NonFiniteError
from conjoin.merging.rounding import rounded
from conjoin.methods import METHODS, Method, Need
from conjoin.methods.reductions import quick_products, quick_sums

if load_library() is None and not os.environ.get("CONJOIN_REQUIRE_COMPILED"):
    pytest.skip("this installation has no compiled part", allow_module_level=True)

# What these look at is a whole tensor, so that their summaries have other last bits.
SUMMED = {row.name for row in ELEMENTWISE if row.summarize is not None}


def by_torch(row, stored, keywords, seed, dtype):
    tensors, given = [tensor.float() for tensor in stored], dict(keywords)
    if Need.BASE in row.needs:
        given["base"] = tensors.pop()
    if row.is_random:
        given["generator"] = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return rounded(row.function(tensors, **given), dtype)


@rows
@few
@given(
    count=st.integers(2, 4),
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=1, max_size=3),
    result=st.sampled_from(DTYPES),
    size=st.sampled_from([1, 2, 511, 512, 513, 1024, 3001]),
    seed=st.integers(0, 999),
    other=st.booleans(),
)
def test_every_elementwise_method_has_torchs_bits(row, count, dtypes, result, size, seed, other):
    parameters = OTHER.get(row.name, {}) if other else {}
    if "density" in parameters and isinstance(parameters["density"], list):
        count = len(parameters["density"])
    stored, keywords = prepared(row, count, dtypes, size, seed, parameters)
    program = program_of(row, stored, keywords, result)
    if program is None:
        # Factors that are out of all bounds are used in float64, and the spread of many models.
        wide = not torch.as_tensor(keywords.get("summary", 0.0)).abs().max() <= 16
        assert wide or row.name == "slerp" or (row.name == "sce" and len(stored) > 3)
        return
    expected = by_torch(row, stored, keywords, seed, result)
    found = program.run(stored, torch.Generator().manual_seed(seed) if row.is_random else None)
    if found is None:
        # DARE may drop what is infinite in a model.
        assert not all(bool(one.isfinite().all()) for one in (*stored, expected))
    else:
        assert torch.equal(bits(found), bits(expected))


@rows
def test_programs_are_made_of_all_of_them(row):
    # Torch alone would be right as well, and slower: nothing else would tell.
    stored, keywords = prepared(row, 2, [torch.float32], 2000, 0, {})
    program = Programs(rounded).of(
        row.function,
        keywords,
        stored=[torch.bfloat16] * len(stored),
        result=torch.bfloat16,
        base=Need.BASE in row.needs,
    )
    assert program is not None


def models_of(count, size, dtype):
    generator = torch.Generator().manual_seed(size)
    base = torch.randn(size, generator=generator)
    made = [base + 0.1 * torch.randn(size, generator=generator) for _ in range(count)]
    return [MemoryCheckpoint({"w": one.to(dtype).reshape(2, -1)}) for one in made], (
        MemoryCheckpoint({"w": base.to(dtype).reshape(2, -1)})
    )


def _first(merged):
    """The result, or that for the first task."""
    return merged[0] if isinstance(merged, (list, tuple)) else merged


@pytest.mark.parametrize("dtype", DTYPES)
@rows
def test_the_engine_gives_the_same_with_it_and_without(row, dtype, monkeypatch):
    size = 2 * LEAST + (1 << 18)  # two blocks
    models, base = models_of(row.models or max(row.least, 2), size, dtype)
    given = {"base": base} if Need.BASE in row.needs else {}
    parameters = {
        name: 0.25 for name, value in row.defaults.items() if value is inspect.Parameter.empty
    }
    ran = []
    run = conjoin.compiled.Run.__call__
    monkeypatch.setattr(conjoin.compiled.Run, "__call__", lambda *args: ran.append(1) or run(*args))
    found = _first(merge(models, row.name, **given, parameters=parameters))["w"]
    assert ran
    monkeypatch.setattr(conjoin.compiled.programs, "load_library", lambda: None)
    ran.clear()
    expected = _first(merge(models, row.name, **given, parameters=parameters))["w"]
    assert not ran
    if row.name in SUMMED:
        torch.testing.assert_close(found, expected)
        assert dtype == torch.float32 or (found != expected).double().mean() < 1e-3
    else:
        assert torch.equal(bits(found), bits(expected))


@pytest.mark.parametrize("method", ["linear", "slerp", "dare_ties", "ties"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_named_as_torch_names_them(method, value, monkeypatch):
    models, base = models_of(2, 4 * LEAST, torch.bfloat16)
    broken = models[1]["w"].clone()
    broken[1, 77] = value
    models[1] = MemoryCheckpoint({"w": broken})
    given = {} if method in ("linear", "slerp") else {"base": base}
    with pytest.raises(NonFiniteError, match="'w' of model 1") as with_it:
        merge(models, method, **given)["w"]
    allowed = merge(models, method, allow_nonfinite=True, **given)["w"]
    monkeypatch.setattr(conjoin.compiled.programs, "load_library", lambda: None)
    with pytest.raises(NonFiniteError) as without:
        merge(models, method, **given)["w"]
    assert str(with_it.value) == str(without.value)
    expected = merge(models, method, allow_nonfinite=True, **given)["w"]
    assert torch.equal(allowed.isnan(), expected.isnan())
    if method == "linear":
        assert torch.equal(bits(allowed), bits(expected))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_overflows_in_the_result_is_named(dtype):
    large = torch.full((LEAST,), torch.finfo(dtype).max).to(dtype)
    models = [MemoryCheckpoint({"w": large})] * 2
    with pytest.raises(NonFiniteError, match="overflow"):
        merge(models, "sum")["w"]


def edges(dtype):
    """Float32 around the middles of numbers of a dtype, and around its largest."""
    info = torch.finfo(dtype)
    points = torch.tensor([1.0, 2.0, info.tiny, info.smallest_normal / 8, info.max], dtype=dtype)
    points = torch.cat([points, points.view(torch.int16).add(1).view(dtype)[:4]]).float()
    middles = torch.cat([points, (points[:4] + points[5:]) / 2, torch.tensor([info.max])])
    steps = torch.arange(-2, 3, dtype=torch.int32)
    near = (middles.view(torch.int32)[:, None] + steps).reshape(-1).view(torch.float32)
    return torch.cat([near, -near])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_at_the_edges(dtype):
    program = Programs(rounded).of(
        METHODS["passthrough"].function,
        {"scale": 1.0},
        stored=[torch.float32],
        result=dtype,
        base=False,
    )
    for value in edges(dtype):
        given = value.expand(3).contiguous()
        expected = given.to(dtype)
        found = program.run([given])
        if expected.isfinite().all():
            assert torch.equal(bits(found), bits(expected)), value
        else:
            assert found is None, value


def test_inputs_that_are_others_than_the_program_is_for():
    program = Programs(rounded).of(
        METHODS["mean"].function, {}, stored=[torch.bfloat16] * 2, result=torch.float32, base=False
    )
    right = torch.ones(5, dtype=torch.bfloat16)
    assert program.run([right, right]).tolist() == [1.0] * 5
    for wrong in (right.float(), right[:4], right.to("meta")):
        assert program.run([right, wrong]) is None
    assert program.run([right]) is None
    spread = torch.arange(10, dtype=torch.bfloat16)[::2]
    assert program.run([spread, spread]).tolist() == [0, 2, 4, 6, 8]


def test_a_run_over_many_blocks_sees_what_each_of_them_holds():
    program = Programs(rounded).of(
        METHODS["mean"].function, {}, stored=[torch.bfloat16] * 2, result=torch.float32, base=False
    )
    run, room = Run(program), torch.ones(5, dtype=torch.bfloat16)
    other = torch.zeros(10, dtype=torch.bfloat16)
    assert run([room, other[:5]]).tolist() == [0.5] * 5
    room.fill_(3)
    assert run([room, other[:5]]).tolist() == [1.5] * 5  # another view of the same
    spread = other[::2]  # of which a copy is read
    assert run([room, spread]).tolist() == [1.5] * 5
    other.fill_(1)
    assert run([room, spread]).tolist() == [2.0] * 5
    room[2] = torch.inf
    assert run([room, spread]) is None
    room.fill_(0)
    assert run([room[:2], spread[:2]]).tolist() == [0.5] * 2
    assert run([room, room.float()]) is None
    assert run([room, spread]).tolist() == [0.5] * 5
    assert program.run([room, room]) is not program.run([room, room])
    ones = torch.ones(5, dtype=torch.bfloat16)
    assert run([room, ones]).tolist() == [0.5] * 5
    room.set_(torch.full((5,), 4.0, dtype=torch.bfloat16))  # the same tensor, elsewhere
    assert run([room, ones]).tolist() == [2.5] * 5
    room.resize_(2)
    assert run([room, ones[:2]]).tolist() == [2.5] * 2


def test_sums_of_a_run_begin_anew_with_each_block():
    own = {"stored": [torch.float32], "result": None, "base": False}
    run = Run(Programs(rounded).of(lambda tensors: quick_sums([tensors[0].abs()]), {}, **own))
    one = torch.tensor([1.0, -2.0])
    assert [run([one]).tolist(), run([one]).tolist()] == [[3.0], [3.0]]


@few
@given(
    size=st.sampled_from([1, 511, 512, 3000, 1 << 16]),
    count=st.integers(1, 4),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 999),
)
def test_sums_and_products_are_those_of_float64(size, count, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    stored = [torch.randn(size, generator=generator).to(dtype) for _ in range(count)]
    wide = torch.stack(stored).double()
    programs = Programs(rounded)
    own = {"stored": [dtype] * count, "result": None, "base": False}
    sums = programs.of(lambda tensors: quick_sums([t.abs() for t in tensors]), {}, **own)
    torch.testing.assert_close(sums.run(stored), wide.abs().sum(1), rtol=1e-6, atol=0)
    products = programs.of(lambda tensors: quick_products(tensors), {}, **own).run(stored)
    upper = torch.triu_indices(count, count)
    expected = (wide @ wide.t())[tuple(upper)]
    lengths = wide.norm(dim=1)
    scale = torch.outer(lengths, lengths)[tuple(upper)]
    assert ((products - expected).abs() <= 3e-7 * scale).all()


def test_methods_of_users_are_left_to_torch(monkeypatch):
    # They may look at numbers where nobody sees it.
    def clipped(tensors):
        total = tensors[0] + tensors[1]
        np.clip(total.numpy(), -1, 1, out=total.numpy())
        return total

    models, _ = models_of(2, LEAST, torch.float32)
    ran = []
    monkeypatch.setattr(conjoin.compiled.Run, "__call__", lambda *args: ran.append(1))
    found = merge(models, Method("clipped", clipped, "clip(w_1 + w_2)"))["w"]
    assert not ran
    expected = (models[0]["w"] + models[1]["w"]).clamp(-1, 1)
    assert torch.equal(found, expected)


def test_a_large_l1_norm_is_formed_in_float64():
    large = MemoryCheckpoint({"w": torch.full((LEAST,), 3e37, dtype=torch.bfloat16)})
    base = MemoryCheckpoint({"w": torch.zeros(LEAST, dtype=torch.bfloat16)})
    found = merge([large], "dare_linear", base=base, parameters={"rescale": "l1"})["w"]
    assert found.double().sum().item() == pytest.approx(large["w"].double().sum().item(), rel=1e-2)


def test_nothing_is_compiled_where_there_is_no_compiled_part(monkeypatch):
    monkeypatch.setattr(conjoin.compiled.programs, "load_library", lambda: None)
    made = Programs(rounded).of(
        METHODS["mean"].function, {}, stored=[torch.float32], result=torch.float32, base=False
    )
    assert made is None
