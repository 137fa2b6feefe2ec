"""The lazy merge: the rule of each kind, ranges, files, and what methods are promised."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import conjoin
from conjoin.checkpoints import MemoryCheckpoint
from conjoin.errors import MethodError, NonFiniteError
from conjoin.merging import Merged, merge
from conjoin.merging.blocks import BLOCK
from conjoin.merging.task import Settings, make_tasks
from conjoin.methods import METHODS, Method, Need

few = settings(deadline=None, max_examples=30)

# Statistics --------------------------------------------------------------------------------------


def _norms(means, variances):
    return [
        {"bn.running_mean": torch.tensor(m), "bn.running_var": torch.tensor(v)}
        for m, v in zip(means, variances, strict=True)
    ]


def test_statistics_are_pooled_by_hand():
    # Means 1 and 3, variances 2 and 4: the pooled mean is 2, the pooled variance 3 + 1.
    merged = merge(_norms([[1.0], [3.0]], [[2.0], [4.0]]))
    assert (merged["bn.running_mean"].item(), merged["bn.running_var"].item()) == (2, 4)
    # Shares 3/4 and 1/4, whatever the sign: the mean is 1.5, the variance 2.5 + 3/16 + 9/16.
    for weights in ([3, 1], [3, -1], [-6, 2]):
        merged = merge(_norms([[1.0], [3.0]], [[2.0], [4.0]]), "linear", weights=weights)
        assert merged["bn.running_mean"].item() == 1.5
        assert merged["bn.running_var"].item() == 2.5 + 0.25 * 0.75 * 4


@few
@given(st.integers(0, 2**32), st.sampled_from(["sum", "mean", "linear"]))
def test_pooled_statistics_against_float64_and_never_negative(seed, method):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 5))
    means = rng.normal(scale=10.0 ** rng.integers(-3, 4), size=(count, 3))
    variances = rng.exponential(size=(count, 3)) * rng.integers(0, 2, size=(count, 3))
    weights = rng.normal(size=count) if method == "linear" else np.ones(count)
    merged = merge(
        _norms(means, variances),
        method,
        weights=weights.tolist() if method == "linear" else None,
        parameters={"normalize": False} if method == "linear" else None,
    )
    shares = np.abs(weights) / np.abs(weights).sum()
    centre = shares @ means
    expected = shares @ (variances + (means - centre) ** 2)
    np.testing.assert_allclose(merged["bn.running_mean"], centre, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(merged["bn.running_var"], expected, rtol=1e-9, atol=1e-12)
    assert (merged["bn.running_var"] >= 0).all()


def test_pooling_equals_the_moments_of_all_the_data_together():
    torch.manual_seed(0)
    data = [torch.randn(50, 3) * 2 + 1, torch.randn(50, 3) - 4]
    norms = []
    for part in data:
        norm = nn.BatchNorm1d(3)
        norm.running_mean = part.mean(0)
        norm.running_var = part.var(0, correction=0)
        norms.append(norm)
    merged = merge(norms, "sum")  # the sum of weights does not sum statistics
    torch.testing.assert_close(merged.running_mean, torch.cat(data).mean(0))
    torch.testing.assert_close(merged.running_var, torch.cat(data).var(0, correction=0))


def test_metadata_say_that_statistics_are_pooled():
    states = _norms([[1.0], [3.0]], [[2.0], [4.0]])
    merged = merge([MemoryCheckpoint(state) for state in states])
    assert merged.pooled == ["bn.running_mean", "bn.running_var"]
    assert "re-estimate" in merged.metadata["conjoin.statistics"]
    assert merged.metadata["conjoin.method"] == "mean"
    assert "conjoin.statistics" not in merge([MemoryCheckpoint({"w": torch.ones(1)})]).metadata


# Dtypes ------------------------------------------------------------------------------------------

# The spacing of numbers near 1, as NumPy's finfo has it for its own dtypes.
EPS = {
    torch.float8_e4m3fn: 2**-3,
    torch.float8_e5m2: 2**-2,
    torch.bfloat16: 2**-7,
    torch.float16: 2**-10,
    torch.float32: 2**-23,
    torch.float64: 2**-52,
}


@few
@given(st.integers(0, 2**32), st.sampled_from(list(EPS)), st.sampled_from(["sum", "mean"]))
def test_every_dtype_is_within_one_rounding_of_float64(seed, dtype, method):
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(20, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)]
    result = merge([{"w": value} for value in values], method)["w"]
    assert result.dtype == dtype
    exact = np.stack([value.double().numpy() for value in values])
    expected = exact.sum(0) if method == "sum" else exact.mean(0)
    found = result.double().numpy()
    # Cancellation makes the error of float32 relative to the largest term, not to the result.
    working = EPS[torch.float64] if dtype == torch.float64 else EPS[torch.float32]
    smallest = {torch.float8_e4m3fn: 2.0**-9, torch.float8_e5m2: 2.0**-16}.get(dtype, 0.0)
    bound = np.abs(expected) * EPS[dtype] + 3 * working * np.abs(exact).sum(0)
    assert (
        np.abs(found - expected) <= bound + max(smallest, 2.0**-24 if dtype == torch.float16 else 0)
    ).all()


@few
@given(st.lists(st.integers(-(2**15), 2**15 - 1), min_size=2, max_size=2))
def test_the_mean_of_two_bfloat16_is_rounded_once(patterns):
    a, b = (torch.tensor([p], dtype=torch.int16).view(torch.bfloat16) for p in patterns)
    if not (a.isfinite() & b.isfinite()).all() or (a.abs() + b.abs()).item() > 1e38:
        return
    exact = ((a.double() + b.double()) / 2).to(torch.bfloat16)
    if 0 < abs(exact.double().item()) < 1e-37:  # the CPU may flush what is subnormal
        return
    assert torch.equal(merge([{"w": a}, {"w": b}])["w"], exact)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_weights_stay_complex(dtype):
    a, b = torch.tensor([1 + 2j, -1j], dtype=dtype), torch.tensor([3.0, 5j], dtype=dtype)
    merged = merge([{"w": a}, {"w": b}])["w"]
    assert merged.dtype == dtype
    assert merged.tolist() == [2 + 1j, 2j]
    merged = merge([{"w": a}, {"w": b}], "linear", weights=[3, 1])["w"]
    assert merged.tolist() == [1.5 + 1.5j, 0.5j]


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_half_precision_complex_weights_keep_their_imaginary_part():
    a = torch.tensor([1 + 2j]).to(torch.complex32)
    assert merge([{"w": a}, {"w": a}])["w"].to(torch.complex64).tolist() == [1 + 2j]


# Lazy and in ranges ------------------------------------------------------------------------------


def _state(seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, dtype=torch.float32):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    tied = draw(3, 2)
    return {
        "conv.weight": draw(4, 3, 2),
        "half": draw(7, dtype=torch.float16),
        "brain": draw(2, 5, dtype=torch.bfloat16),
        "double": draw(3, dtype=torch.float64),
        "scalar": draw(),
        "empty": torch.empty(0, 3),
        "embedding": tied,
        "head": tied,
        "bn.running_mean": draw(4),
        "bn.running_var": draw(4).abs(),
        "bn.num_batches_tracked": torch.tensor(seed),
        "index": torch.arange(6).reshape(2, 3),
    }


CASES = {
    "sum": {"method": "sum"},
    "mean": {"method": "mean"},
    "linear": {"method": "linear", "weights": [3.0, -1.0]},
    "kept": {"method": "mean", "keep": {"conv.*": 1, "bn.running_var": 0}},
    "dtype": {"method": "mean", "dtype": torch.float32},
    "callable": {"method": lambda tensors: torch.maximum(*tensors).cumsum(0)},
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("case", CASES)
def test_merging_files_equals_merging_in_memory(tmp_path: Path, all_bits, suffix, case):
    if case == "callable":
        states = [{n: t for n, t in _state(s).items() if t.dim()} for s in (1, 2)]
    else:
        states = [_state(1), _state(2)]
    paths = [conjoin.save(state, tmp_path / f"{i}{suffix}") for i, state in enumerate(states)]
    expected = all_bits(merge(states, **CASES[case]))
    lazy = merge(paths, **CASES[case])
    assert isinstance(lazy, Merged)
    assert all_bits(lazy) == expected
    assert {n: (s.shape, s.dtype) for n, s in lazy.specs.items()} == {
        n: (t.shape, t.dtype) for n, t in lazy.items()
    }
    written = conjoin.open_checkpoint(conjoin.save(lazy, tmp_path / f"out{suffix}"))
    assert all_bits(written) == expected
    assert list(written) == list(states[0])


@few
@given(st.sampled_from([c for c in CASES if c != "callable"]), st.data())
def test_ranges_equal_slices_of_the_whole(bits, case, data):
    merged = merge([MemoryCheckpoint(_state(1)), MemoryCheckpoint(_state(2))], **CASES[case])
    for name, spec in merged.specs.items():
        stop = data.draw(st.integers(0, spec.numel))
        start = data.draw(st.integers(0, stop))
        assert bits(merged.read(name, start, stop)) == bits(merged[name].reshape(-1)[start:stop])
    assert merged.read("half", 2).shape == (5,)


def test_nothing_is_read_before_it_is_asked_for(spy):
    sources = [spy(_state(1)), spy(_state(2))]
    merged = merge(sources)
    assert list(merged.specs) == list(_state(1))
    assert "head" in merged
    assert repr(merged).startswith("<Merged of ")
    assert [source.asked for source in sources] == [[], []]
    merged.read("conv.weight", 5, 9)
    assert [source.asked for source in sources] == [[("conv.weight", 5, 9)]] * 2
    _ = merged["double"]
    assert [source.asked[1:] for source in sources] == [[("double", 0, 3)]] * 2


def test_kept_tensors_are_read_from_their_model_only(spy):
    sources = [spy(_state(1)), spy(_state(2))]
    merged = merge(sources, keep={"double": 1})
    assert torch.equal(merged["double"], _state(2)["double"])
    assert [source.asked for source in sources] == [[], [("double", 0, 3)]]


def test_a_nan_outside_of_the_range_is_not_read():
    bad = {"w": torch.tensor([1.0, math.nan])}
    merged = merge([MemoryCheckpoint(bad), MemoryCheckpoint({"w": torch.ones(2)})])
    assert merged.read("w", 0, 1).tolist() == [1]
    with pytest.raises(NonFiniteError, match="'w' of model 0"):
        merged.read("w", 1, 2)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s},
        lambda s: {f"module.{n}": t for n, t in s.items()},
        lambda s: {f"_orig_mod.{n}": t for n, t in s.items()},
        lambda s: {"model": {f"module._orig_mod.{n}": t for n, t in s.items()}, "epoch": 3},
        lambda s: {"state_dict": s, "pytorch-lightning_version": "2.5", "optimizer_states": []},
    ],
    ids=["state_dict", "parallel", "compiled", "nested", "lightning"],
)
def test_wrapped_files_merge_with_plain_ones(tmp_path, all_bits, wrap):
    plain, wrapped = tmp_path / "plain.pt", tmp_path / "wrapped.ckpt"
    torch.save(_state(1), plain)
    torch.save(wrap(_state(2)), wrapped)
    assert all_bits(merge([plain, wrapped])) == all_bits(merge([_state(1), _state(2)]))


# What methods are promised ------------------------------------------------------------------------


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
    sources = [MemoryCheckpoint(_state(1)), MemoryCheckpoint(_state(2))]
    whole = merge(sources, noise, seed=3)
    forward = {name: bits(whole[name]) for name in whole}
    other = merge(sources, noise, seed=3)
    assert {name: bits(other[name]) for name in reversed(list(other))} == forward
    alone = merge([{"half": _state(1)["half"]}], noise, seed=3)
    assert bits(alone["half"]) == forward["half"]
    assert bits(merge(sources, noise, seed=4)["half"]) != forward["half"]
    flat = {"a": torch.zeros(5), "b": torch.zeros(5)}
    result = merge([flat], noise)
    assert not torch.equal(result["a"], result["b"])


def test_random_methods_leave_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    merge([_state(1)], Method("noise", _noise, "w + e", elementwise=False))
    assert torch.equal(torch.get_rng_state(), before)


def test_ranges_of_random_methods_equal_slices_of_the_whole(bits):
    sources = [MemoryCheckpoint(_state(1)), MemoryCheckpoint(_state(2))]
    merged = merge(sources, Method("noise", _noise, "w + e"))
    whole = bits(merged["conv.weight"].reshape(-1)[5:9])
    assert bits(merged.read("conv.weight", 5, 9)) == whole


def test_ranges_of_tied_random_tensors_are_equal(bits):
    merged = merge([MemoryCheckpoint(_state(1))], Method("noise", _noise, "w + e"))
    assert bits(merged.read("head")) == bits(merged.read("embedding"))


def test_methods_that_need_a_base():
    def arithmetic(tensors, *, base, weights):
        total = base.clone()
        for tensor, weight in zip(tensors, weights, strict=True):
            total += weight * (tensor - base)
        return total

    needs = frozenset({Need.BASE, Need.WEIGHTS})
    method = Method("arithmetic", arithmetic, "b + sum_i a_i (w_i - b)", needs=needs)
    a, b = _norms([[1.0], [3.0]], [[2.0], [4.0]])
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
    model, base = spy(_state(1)), spy(_state(2))
    merged = merge([model], method, base=base)
    part = merged.read("conv.weight", 3, 5)
    assert base.asked == [("conv.weight", 3, 5)]
    whole = _state(1)["conv.weight"] - _state(2)["conv.weight"]
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
