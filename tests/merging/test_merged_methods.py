"""What the lazy merge promises to methods: summaries, random numbers, bases, whole tensors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merged_states import norms, state

import conjoin
from conjoin.checkpoints import MemoryCheckpoint
from conjoin.errors import MethodError, NonFiniteError
from conjoin.merging import Merged, merge
from conjoin.merging.blocks import BLOCK
from conjoin.merging.task import Settings, make_tasks
from conjoin.methods import METHODS, Method, Need


def _squares(total, *, fraction=0.5):
    return fraction * total(lambda tensors: sum(t.double().square().sum() for t in tensors))


def _scaled(tensors, *, summary, fraction=0.5, per="model"):
    return (tensors[0] + tensors[1]) * summary


def test_a_summary_is_of_the_whole_model_or_of_a_tensor():
    method = Method("scaled", _scaled, "(w_1 + w_2) s", summarize=_squares)
    a = {"x": torch.tensor([1.0, -2.0]), "y": torch.tensor([3.0]), "i": torch.tensor([100])}
    b = {"x": torch.tensor([1.0, -2.0]), "y": torch.tensor([-2.0]), "i": torch.tensor([100])}
    # 1 + 4 + 9 and 1 + 4 + 4 are 23; a constant is not a part of it
    merged = merge([a, b], method)
    assert {n: t.tolist() for n, t in merged.items()} == {"x": [23, -46], "y": [11.5], "i": [100]}
    doubled = merge([a, b], method, parameters={"fraction": 1.0})
    assert doubled["x"].tolist() == [46, -92]
    without = merge([a, b], method, keep={"y": 0})  # what is kept is not a part of it
    assert without["x"].tolist() == [10, -20]
    each = merge([a, b], method, parameters={"per": "tensor"})
    assert {n: t.tolist() for n, t in each.items()} == {"x": [10, -20], "y": [6.5], "i": [100]}


def test_a_summary_is_made_once():
    calls = []

    def summarize(total):
        calls.append(total(lambda tensors: torch.ones((), dtype=torch.int64)).item())
        return torch.ones(())

    def function(tensors, *, summary, per="model"):
        return tensors[0] * summary

    a = {"x": torch.ones(2 * BLOCK + 1), "y": torch.ones(()), "z": torch.ones(0)}
    method = Method("first", function, "w_1", summarize=summarize)
    merge([a, a], method)
    assert calls == [4]  # three blocks of x, one of y


def test_totals_see_ties_once_and_the_base_by_name():
    seen = []

    def summarize(total):
        def note(tensors, base):
            seen.append([*(tensor.tolist() for tensor in tensors), base.tolist()])
            return torch.zeros(1, dtype=torch.int64)

        return total(note)

    def function(tensors, *, base, summary):
        return base

    method = Method("base", function, "b", needs=frozenset({Need.BASE}), summarize=summarize)
    tied, base = torch.ones(1), torch.zeros(1)
    merge([{"a": tied, "b": tied}], method, base={"a": base, "b": base})
    assert [one for one in seen if one != [[], []]] == [[[1.0], [0.0]]]


def test_random_numbers_of_a_block_are_the_same_in_a_total():
    def summarize(total):
        def drawn(tensors, generator):
            return torch.rand(tensors[0].shape, generator=generator).double().sum()

        return total(drawn)

    def function(tensors, *, summary, generator):
        noise = torch.rand(tensors[0].shape, generator=generator)
        return noise / summary

    method = Method("noise", function, "e / sum(e)", summarize=summarize)
    merged = merge([{"x": torch.ones(2 * BLOCK + 5)}], method)
    assert abs(merged["x"].double().sum().item() - 1) < 1e-6
    lazy = merge([MemoryCheckpoint({"x": torch.ones(2 * BLOCK + 5)})], method)
    assert torch.equal(lazy.read("x", BLOCK - 3, BLOCK + 7), merged["x"][BLOCK - 3 : BLOCK + 7])


def test_settings_that_differ_where_the_whole_model_is_meant():
    method = Method("scaled", _scaled, "(w_1 + w_2) s", summarize=_squares)
    state = MemoryCheckpoint({"x": torch.ones(1), "y": torch.ones(1)})
    tasks = make_tasks(
        [state, state],
        method,
        base=None,
        kept={},
        settings=lambda name: Settings(None, {"fraction": 1.0 if name == "x" else 0.5}),
    )
    with pytest.raises(MethodError, match="per='model' looks at the whole model"):
        _ = Merged(tasks)["x"]


def _noise(tensors, *, generator, scale=1.0):
    return tensors[0] + scale * torch.randn(tensors[0].shape, generator=generator)


def test_random_methods_depend_on_seed_and_name_alone(bits):
    noise = Method("noise", _noise, "w + e", elementwise=False)
    sources = [MemoryCheckpoint(state(1)), MemoryCheckpoint(state(2))]
    whole = merge(sources, noise, seed=3)
    forward = {name: bits(whole[name]) for name in whole}
    other = merge(sources, noise, seed=3)
    assert {name: bits(other[name]) for name in reversed(list(other))} == forward
    alone = merge([{"half": state(1)["half"]}], noise, seed=3)
    assert bits(alone["half"]) == forward["half"]
    assert bits(merge(sources, noise, seed=4)["half"]) != forward["half"]
    flat = {"a": torch.zeros(5), "b": torch.zeros(5)}
    result = merge([flat], noise)
    assert not torch.equal(result["a"], result["b"])


def test_random_methods_leave_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    merge([state(1)], Method("noise", _noise, "w + e", elementwise=False))
    assert torch.equal(torch.get_rng_state(), before)


def test_ranges_of_random_methods_equal_slices_of_the_whole(bits):
    sources = [MemoryCheckpoint(state(1)), MemoryCheckpoint(state(2))]
    merged = merge(sources, Method("noise", _noise, "w + e"))
    whole = bits(merged["conv.weight"].reshape(-1)[5:9])
    assert bits(merged.read("conv.weight", 5, 9)) == whole


def test_ranges_of_tied_random_tensors_are_equal(bits):
    merged = merge([MemoryCheckpoint(state(1))], Method("noise", _noise, "w + e"))
    assert bits(merged.read("head")) == bits(merged.read("embedding"))


def test_methods_that_need_a_base():
    def arithmetic(tensors, *, base, weights):
        total = base.clone()
        for tensor, weight in zip(tensors, weights, strict=True):
            total += weight * (tensor - base)
        return total

    needs = frozenset({Need.BASE, Need.WEIGHTS})
    method = Method("arithmetic", arithmetic, "b + sum_i a_i (w_i - b)", needs=needs)
    a, b = norms([[1.0], [3.0]], [[2.0], [4.0]])
    base = {"bn.running_mean": torch.tensor([100.0]), "bn.running_var": torch.tensor([100.0])}
    a["w"], b["w"], base["w"] = (torch.tensor([v]) for v in (3.0, 5.0, 1.0))
    merged = merge([a, b], method, base=base, weights=[1, 0.5])
    assert merged["w"].item() == 1 + 2 + 2
    assert merged["bn.running_mean"].item() == pytest.approx(5 / 3)  # the base is no member
    with pytest.raises(MethodError, match="common base; pass base="):
        merge([a, b], method)
    with pytest.raises(conjoin.ConjoinError, match="different tensors"):
        merge([a, b], method, base={"w": torch.ones(1)})


def test_the_base_of_files_is_read_in_the_same_ranges(spy):
    method = Method(
        "change",
        lambda tensors, *, base: tensors[0] - base,
        "w - b",
        needs=frozenset({Need.BASE}),
    )
    model, base = spy(state(1)), spy(state(2))
    merged = merge([model], method, base=base)
    part = merged.read("conv.weight", 3, 5)
    assert base.asked == [("conv.weight", 3, 5)]
    whole = state(1)["conv.weight"] - state(2)["conv.weight"]
    assert torch.equal(part, whole.reshape(-1)[3:5])


def test_methods_that_are_not_elementwise_always_see_the_whole_tensor(spy):
    shapes = []

    def total(tensors):
        shapes.append(tuple(tensors[0].shape))
        return torch.full_like(tensors[0], tensors[0].sum().item())

    method = Method("total", total, "sum of all", elementwise=False)
    merged = merge([spy({"w": torch.ones(2, 3)})], method)
    assert merged.read("w", 4, 6).tolist() == [6, 6]
    assert shapes == [(2, 3)]


def test_a_method_that_needs_statistics_says_so():
    def function(tensors, *, statistics):
        return tensors[0]

    method = Method("fisher", function, "f", needs=frozenset({Need.STATISTICS}))
    with pytest.raises(MethodError, match="statistics"):
        merge([{"w": torch.ones(1)}], method)


# Whole tensors as they are stored ----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rescale", ["expectation", "l1"])
@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if row.widens])
def test_methods_that_widen_by_themselves_give_the_same_bits(name, rescale, dtype):
    generator = torch.Generator().manual_seed(0)
    base, *models = torch.randn(4, 700, 400, generator=generator).to(dtype)
    models = models[: METHODS[name].models]
    parameters = {"rescale": rescale} if "rescale" in METHODS[name].defaults else {}

    def merged(kind):
        return merge(
            [{"w": model.to(kind)} for model in models],
            name,
            base={"w": base.to(kind)},
            parameters=parameters,
            dtype=dtype,
        )["w"]

    found = merged(dtype)
    assert found.dtype == dtype
    assert torch.equal(found, merged(torch.float32))
    assert not torch.equal(found, base)


def test_only_what_has_the_dtype_of_the_result_comes_as_it_is_stored():
    seen = []

    def look(tensors):
        seen.append([tensor.dtype for tensor in tensors])
        return tensors[0].clone()

    row = Method("look", look, "w_1", elementwise=False, widens=True)
    half, single = torch.ones(2).bfloat16(), torch.ones(2)
    merge([{"w": half}, {"w": half}], row)
    merge([{"w": half}, {"w": single}], row, dtype=torch.bfloat16)
    merge([{"w": half}, {"w": half}], row, dtype=torch.float32)
    merge([{"w": half}, {"w": half.half()}], row, dtype=torch.bfloat16)
    bytes_ = [{"w": half.to(torch.float8_e5m2)}]
    merge(bytes_, row)
    merge([{"w": half}], Method("look", look, "w_1", elementwise=False))
    assert [set(kinds) for kinds in seen] == [{torch.bfloat16}] + [{torch.float32}] * 5
    with pytest.raises(NonFiniteError, match="1 NaN"):
        merge([{"w": torch.tensor([1.0, torch.nan]).bfloat16()}], row)


PASSING = [row for row in METHODS.values() if row.passes_nonfinite]


def test_the_rows_that_pass_on_what_is_no_number():
    assert {row.name for row in PASSING} == {
        "sum",
        "mean",
        "linear",
        "passthrough",
        "task_arithmetic",
    }


@pytest.mark.parametrize("row", PASSING, ids=lambda row: row.name)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
@given(
    at=st.integers(0, 2),
    place=st.integers(0, 9),
    weights=st.lists(st.sampled_from([0.0, 1.0, 0.3, -2.0, 1e-30]), min_size=3, max_size=3).filter(
        lambda found: abs(sum(found)) > 0.1
    ),
)
@settings(deadline=None, max_examples=20)
def test_what_is_no_number_reaches_the_same_place(row, bad, dtype, at, place, weights):
    generator = torch.Generator().manual_seed(place)
    tensors = [torch.randn(10, generator=generator) for _ in range(3)]
    if row.models is None or at < row.models:
        tensors[at][place] = bad
    else:
        at = None
    models = [{"w": tensor} for tensor in tensors[: row.models]]
    base = {"w": torch.randn(10, generator=generator)} if Need.BASE in row.needs else None
    given = {"weights": weights} if Need.WEIGHTS in row.needs else {}
    found = merge(models, row, base=base, dtype=dtype, allow_nonfinite=True, **given)["w"]
    expected = [number == place and at is not None for number in range(10)]
    if dtype.itemsize > 1:  # others may lack infinity, and take their largest number for it
        assert (~found.float().isfinite()).tolist() == expected
    if at is not None:
        with pytest.raises(NonFiniteError, match=f"'w' of model {at} .* has [01] NaN and [01] inf"):
            merge(models, row, base=base, dtype=dtype, **given)


@pytest.mark.parametrize("row", PASSING, ids=lambda row: row.name)
@pytest.mark.parametrize(
    ("bad", "dtype"),
    [
        (complex(1, torch.nan), torch.float32),
        (torch.inf, torch.float8_e4m3fn),
    ],
)
def test_dtypes_that_do_not_show_it(row, bad, dtype):
    # An imaginary part has no place in float32, infinity none in this float8.
    models = [{"w": torch.tensor([1.0, bad])}, {"w": torch.ones(2)}][: row.models]
    base = {"w": torch.ones(2)} if Need.BASE in row.needs else None
    with pytest.raises(NonFiniteError, match="'w' of model 0 .* has"):
        merge(models, row, base=base, dtype=dtype)


@pytest.mark.parametrize(
    "row", [row for row in PASSING if Need.BASE in row.needs], ids=lambda row: row.name
)
def test_a_bad_base_is_named(row):
    with pytest.raises(NonFiniteError, match="'w' of model 2 .* has 1 NaN"):
        merge([{"w": torch.ones(2)}] * 2, row, base={"w": torch.tensor([1.0, torch.nan])})


def test_what_overflows_is_not_laid_upon_a_model():
    large = {"w": torch.full((3,), 3e38)}
    with pytest.raises(NonFiniteError, match="'w' of the result"):
        merge([large, large], "sum")


@pytest.mark.parametrize(
    ("dtype", "largest", "beyond"),
    [
        (torch.float8_e4m3fn, 463.0, 465.0),
        (torch.float8_e5m2, 61439.0, 61441.0),
        (torch.float8_e5m2fnuz, 61439.0, 61441.0),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_bytes_do_not_hide_an_overflow(dtype, largest, beyond, sign):
    # Torch makes 448 of 1000 in float8_e4m3fn, which has no infinity.
    fits = merge([{"w": torch.tensor([sign * largest])}], "sum", dtype=dtype)["w"]
    assert fits.float().item() == sign * torch.finfo(dtype).max
    for rule in ({}, {"keep": {"w": 0}}):
        with pytest.raises(NonFiniteError, match=r"'w' of the result .* has [01] NaN and [01] inf"):
            merge([{"w": torch.tensor([1.0, sign * beyond])}] * 2, "mean", dtype=dtype, **rule)


def test_a_function_may_give_other_numbers():
    def counted(tensors):
        return tensors[0].int() + 1

    models = [{"w": torch.tensor([1.0, 2.0])}] * 2
    found = merge(models, counted, dtype=torch.float8_e4m3fn)["w"]
    assert found.float().tolist() == [2, 3]
    same = merge(models, lambda tensors: tensors[0].to(found.dtype), dtype=found.dtype)["w"]
    assert same.float().tolist() == [1, 2]
