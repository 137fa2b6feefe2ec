"""Results are the exact ones, rounded once: from float64, and of weights that are decimals."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from conjoin import merge
from conjoin.errors import NonFiniteError
from conjoin.merging.rounding import rounded

few = settings(deadline=None, max_examples=40)

# Bits of a significand, exponent of the smallest number, and largest number.
DTYPES = {
    torch.bfloat16: (8, -133, (2 - 2**-7) * 2.0**127),
    torch.float16: (11, -24, 65504.0),
    torch.float8_e4m3fn: (4, -9, 448.0),
    torch.float8_e5m2: (3, -16, 57344.0),
}


def nearest(value: Fraction, dtype: torch.dtype) -> float:
    """Round by the definition; infinity where that is beyond the largest number."""
    digits, least, largest = DTYPES[dtype]
    if value == 0:
        return 0.0
    size = abs(value)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent
    step = Fraction(2) ** max(exponent - digits + 1, least)
    found = round(size / step) * step  # of two that are as near, Python takes the even one
    return math.copysign(float(found) if found <= largest else math.inf, value)


@st.composite
def hard_cases(draw):
    """Draw a number of float64, mostly in or near the middle of two of a dtype."""
    dtype = draw(st.sampled_from(list(DTYPES)))
    digits, least, largest = DTYPES[dtype]
    low = least + digits - 1
    exponent = draw(st.integers(low - digits - 1, math.frexp(largest)[1] - 1))
    step = 2.0 ** max(exponent - digits + 1, least)
    value = step * draw(st.integers(0, 2**digits - 1))
    value += draw(st.sampled_from([0, 0.5, 0.25])) * step
    value += draw(st.sampled_from([0, 1, -1])) * step * 2.0 ** -draw(st.integers(2, 44 - digits))
    return dtype, math.copysign(value, draw(st.sampled_from([1, -1])))


@settings(deadline=None, max_examples=200)
@given(hard_cases())
def test_float64_is_rounded_once(case):
    dtype, value = case
    expected = nearest(Fraction(value), dtype)
    assume(math.isfinite(expected))
    found = rounded(torch.tensor([value], dtype=torch.float64), dtype)
    assert found.dtype == dtype
    assert found.float().item() == expected
    assert math.copysign(1, found.float().item()) == math.copysign(1, value)


def test_two_roundings_would_be_another_number():
    for sign in (1, -1):
        wide = sign * torch.tensor(
            [1 + 2**-8 + 2**-40, 1 + 3 * 2**-8 - 2**-40], dtype=torch.float64
        )
        assert (sign * wide.to(torch.bfloat16)).tolist() == [1, 1 + 2**-6]
        assert (sign * rounded(wide, torch.bfloat16)).tolist() == [1 + 2**-7, 1 + 2**-7]


def test_what_is_no_number_stays_so():
    values = [math.inf, -math.inf, math.nan, 1e300, -1e300, 1e-300, -0.0]
    special = torch.tensor(values, dtype=torch.float64)
    for dtype in (torch.bfloat16, torch.float16):
        found = rounded(special, dtype)
        assert found[[0, 1, 3, 4]].tolist() == [math.inf, -math.inf, math.inf, -math.inf]
        assert found[2].isnan()
        assert found[5:].tolist() == [0, 0]
        assert math.copysign(1, found[6].item()) == -1


def test_other_dtypes_are_as_torch_has_them():
    for same in (torch.float32, torch.float64, torch.complex64):
        tensor = torch.randn(5, dtype=same)
        assert torch.equal(rounded(tensor, same), tensor)
    tenth = torch.tensor([0.1], dtype=torch.float64)
    assert torch.equal(rounded(tenth, torch.float32), torch.tensor([0.1]))
    assert rounded(torch.empty(3, device="meta", dtype=torch.float64), torch.bfloat16).is_meta


# Whole merges -------------------------------------------------------------------------------------

# Products with these do not fit into float32, so that what cancels is off by roundings of it.
LONG = [0.5317, 0.3142, 0.4272]

weights_in_decimals = st.sampled_from(
    [
        [0.3, 0.7],
        [0.5, 0.3, 0.4],
        [1, 1, 1],
        [2, 1],
        [0.3, 0.7, -0.1],
        [0.6, -0.35],
        [0.125, 0.9],
        [1, 0.3, 0, 2],
        [0.5, 0.5],
    ]
)


@few
@given(
    weights_in_decimals | st.just(LONG),
    st.booleans(),
    st.sampled_from(["linear", "task_arithmetic", "breadcrumbs", "consensus"]),
    st.sampled_from([torch.bfloat16, torch.float16]),
    st.integers(0, 2**32),
    st.data(),
)
def test_merges_by_decimal_weights_are_the_nearest_numbers(
    weights, normalize, method, dtype, seed, data
):
    assume(method != "consensus" or len(weights) > 1)
    generator = torch.Generator().manual_seed(seed)
    digits = DTYPES[dtype][0]

    def numbers():
        # Of two or three binades and both signs, so that all products and sums fit into float32.
        whole = torch.randint(2 ** (digits - 3), 2**digits, (60,), generator=generator)
        signs = torch.randint(0, 2, (60,), generator=generator) * 2 - 1
        return (whole * signs * 2.0 ** (-3 - digits)).to(dtype)

    tensors, base = [numbers() for _ in weights], numbers()
    scale = 1.0
    parameters = {"normalize": normalize}
    if method == "task_arithmetic":
        scale = parameters["scale"] = data.draw(st.sampled_from([1.0, 0.3, -0.7, 2.0]))
    if method == "breadcrumbs":
        parameters["density"] = 1.0
    if method == "consensus":
        parameters["agree"] = 0
    found = merge(
        [{"w": tensor} for tensor in tensors],
        method,
        base=None if method == "linear" else {"w": base},
        weights=weights,
        parameters=parameters,
    )["w"]
    exact = [Fraction(str(weight)) for weight in weights]
    total = sum(exact) if normalize else 1
    for index in range(base.numel()):
        origin = 0 if method == "linear" else Fraction(base[index].item())
        changes = [Fraction(tensor[index].item()) - origin for tensor in tensors]
        merged = sum(w * d for w, d in zip(exact, changes, strict=True))
        expected = origin + Fraction(str(scale)) * merged / total
        if weights is LONG:
            terms = sum(abs(w * d) for w, d in zip(exact, changes, strict=True)) / total
            error = float(abs(scale) * terms + abs(origin)) * 2.0**-21
            low, high = (nearest(expected + sign * Fraction(error), dtype) for sign in (-1, 1))
            assert low <= found[index].item() <= high
        else:
            assert found[index].item() == nearest(expected, dtype)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("power", [0, 10, -20, -126, 100])
def test_middles_by_hand(sign, power):
    # 0.3 a + 0.7 b in units of the last place: 0.3 128 + 0.7 143 = 138.5, and 138 is even;
    # 0.3 129 + 0.7 144 = 139.5, and 140 is; 0.3 255 + 0.7 248 = 250.1.
    unit = sign * 2.0 ** (power - 7)
    a = (torch.tensor([128.0, 129.0, 255.0]) * unit).bfloat16()
    b = (torch.tensor([143.0, 144.0, 248.0]) * unit).bfloat16()
    found = merge([{"w": a}, {"w": b}], "linear", weights=[0.3, 0.7])["w"]
    assert (found.double() / unit).tolist() == [138, 140, 250]
    found = merge([{"w": b}, {"w": a}], "linear", weights=[7, 3])["w"]
    assert (found.double() / unit).tolist() == [138, 140, 250]


def test_middles_of_numbers_below_the_normal_ones():
    # Multiples of 2^-133, the smallest number of bfloat16.
    a, b = torch.tensor([1.0, 5.0, -15.0]), torch.tensor([3.0, 0.0, 10.0])
    unit = 2.0**-133
    models = [{"w": (unit * one.double()).bfloat16()} for one in (a, b)]
    found = merge(models, "linear", weights=[0.3, 0.7])["w"]
    assert (found.double() / unit).tolist() == [2, 2, 2]  # of 2.4, 1.5 and 2.5


def test_sums_beyond_the_largest_number_are_refused_and_others_are_not():
    largest = torch.tensor([torch.finfo(torch.bfloat16).max]).bfloat16()
    for weights in ([0.3, 0.7], [0.5317, 0.3142], [1, 1], [2, 1]):
        assert torch.equal(
            merge([{"w": largest}, {"w": largest}], "linear", weights=weights)["w"], largest
        )
    with pytest.raises(NonFiniteError, match="overflow"):
        merge(
            [{"w": largest}, {"w": largest}],
            "linear",
            weights=[0.3, 0.8],
            parameters={"normalize": False},
        )


@few
@given(st.integers(0, 2**32))
def test_a_merge_in_float64_is_rounded_once(seed):
    generator = torch.Generator().manual_seed(seed)
    models = [{"w": torch.randn(40, generator=generator, dtype=torch.float64)} for _ in range(2)]
    wide = merge(models, "linear", weights=[0.3, 0.7])["w"]
    found = merge(models, "linear", weights=[0.3, 0.7], dtype=torch.bfloat16)["w"]
    for value, stored in zip(wide.tolist(), found.tolist(), strict=True):
        assert stored == nearest(Fraction(value), torch.bfloat16)
    # Also of what is only copied.
    kept = merge(models, "linear", keep={"w": 1}, dtype=torch.bfloat16)["w"]
    for value, stored in zip(models[1]["w"].tolist(), kept.tolist(), strict=True):
        assert stored == nearest(Fraction(value), torch.bfloat16)
