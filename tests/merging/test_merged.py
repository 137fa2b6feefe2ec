"""The lazy merge: the rule of each kind, ranges, and files."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merged_states import norms, state
from torch import nn

import conjoin
from conjoin.checkpoints import MemoryCheckpoint
from conjoin.errors import NonFiniteError
from conjoin.merging import BLOCK, Merged, merge

few = settings(deadline=None, max_examples=30)

# Statistics --------------------------------------------------------------------------------------


def test_statistics_are_pooled_by_hand():
    # Means 1 and 3, variances 2 and 4: the pooled mean is 2, the pooled variance 3 + 1.
    merged = merge(norms([[1.0], [3.0]], [[2.0], [4.0]]))
    assert (merged["bn.running_mean"].item(), merged["bn.running_var"].item()) == (2, 4)
    # Shares 3/4 and 1/4, whatever the sign: the mean is 1.5, the variance 2.5 + 3/16 + 9/16.
    for weights in ([3, 1], [3, -1], [-6, 2]):
        merged = merge(norms([[1.0], [3.0]], [[2.0], [4.0]]), "linear", weights=weights)
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
        norms(means, variances),
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
    states = norms([[1.0], [3.0]], [[2.0], [4.0]])
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
        states = [{n: t for n, t in state(s).items() if t.dim()} for s in (1, 2)]
    else:
        states = [state(1), state(2)]
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
    merged = merge([MemoryCheckpoint(state(1)), MemoryCheckpoint(state(2))], **CASES[case])
    for name, spec in merged.specs.items():
        stop = data.draw(st.integers(0, spec.numel))
        start = data.draw(st.integers(0, stop))
        whole = merged[name].reshape(-1)
        assert bits(merged.read(name, start, stop)) == bits(whole[start:stop])
        size = data.draw(st.sampled_from([1, 3, BLOCK]))
        for block in merged.blocks(name, start, stop, size):
            end = min(stop, (start // size + 1) * size)
            assert bits(block) == bits(whole[start:end])
            start = end
        assert start == stop
    assert merged.read("half", 2).shape == (5,)


@pytest.mark.parametrize("method", ["linear", "dare_linear"])
@pytest.mark.parametrize("start", [0, BLOCK, BLOCK - 7])
def test_blocks_of_a_compiled_method_equal_slices_of_the_whole(method, start, bits):
    generator = torch.Generator().manual_seed(0)
    size = 3 * BLOCK + 9
    base, *models = (torch.randn(size, generator=generator) for _ in range(3))
    models[0][BLOCK + 5] = torch.nan  # the program leaves this block to torch
    base, *models = (MemoryCheckpoint({"w": one.bfloat16()}) for one in (base, *models))
    given = {} if method == "linear" else {"base": base, "parameters": {"density": 0.5}}
    merged = merge(models, method, allow_nonfinite=True, **given)
    whole, places = merged["w"], []
    assert int(whole.isnan().sum()) == 1
    for block in merged.blocks("w", start, size, BLOCK):
        end = min(size, (start // BLOCK + 1) * BLOCK)
        assert bits(block) == bits(whole[start:end])
        places.append((start, end))
        start = end
    assert places[-1] == (3 * BLOCK, size)
    with pytest.raises(NonFiniteError, match="model 0"):
        list(merge(models, method, **given).blocks("w", 0, size, BLOCK))


def test_nothing_is_read_before_it_is_asked_for(spy):
    sources = [spy(state(1)), spy(state(2))]
    merged = merge(sources)
    assert list(merged.specs) == list(state(1))
    assert "head" in merged
    assert repr(merged).startswith("<Merged of ")
    assert [source.asked for source in sources] == [[], []]
    merged.read("conv.weight", 5, 9)
    assert [source.asked for source in sources] == [[("conv.weight", 5, 9)]] * 2
    _ = merged["double"]
    assert [source.asked[1:] for source in sources] == [[("double", 0, 3)]] * 2


def test_kept_tensors_are_read_from_their_model_only(spy):
    sources = [spy(state(1)), spy(state(2))]
    merged = merge(sources, keep={"double": 1})
    assert torch.equal(merged["double"], state(2)["double"])
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
    torch.save(state(1), plain)
    torch.save(wrap(state(2)), wrapped)
    assert all_bits(merge([plain, wrapped])) == all_bits(merge([state(1), state(2)]))


class Reader(MemoryCheckpoint):
    """Reads into one tensor, again and again."""

    def __init__(self, state):
        super().__init__(state)
        self._room = torch.empty(0)

    def read(self, name, start=0, stop=None):
        found = super().read(name, start, stop)
        return self._room.resize_(found.shape).copy_(found)


def test_a_checkpoint_may_read_into_the_same_tensor_again(tmp_path, bits):
    generator = torch.Generator().manual_seed(0)
    states = [{"w": torch.randn(3 * BLOCK + 1000, generator=generator)} for _ in range(2)]
    expected = merge([MemoryCheckpoint(state) for state in states])["w"]
    assert bits(merge([Reader(state) for state in states])["w"]) == bits(expected)
    parts = merge([Reader(state) for state in states]).blocks("w", 0, len(expected), BLOCK)
    assert bits(torch.cat([part.clone() for part in parts])) == bits(expected)
