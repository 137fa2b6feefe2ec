"""DARE: which elements stay, by what factor, and that nothing but the generator decides."""

import math

import pytest
import torch
from method_engine import generator_of, run

from conjoin.errors import MethodError
from conjoin.methods import MERGEKIT_DEFAULTS, dare_linear, dare_ties
from conjoin.methods.strips import STRIP

ONES = torch.ones(200_000)
ZEROS = torch.zeros(200_000)


@pytest.mark.parametrize("density", [0.001, 0.1, 0.5, 2 / 3, 0.999])
@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_the_paper_keeps_the_expectation(method, density):
    found = run(method, [ONES], ZEROS, density=density)
    kept = found != 0
    spread = math.sqrt(density * (1 - density) / len(ONES))
    assert abs(kept.double().mean().item() - density) < 5 * spread
    torch.testing.assert_close(found[kept], torch.full_like(found[kept], 1 / density))
    assert abs(found.double().mean().item() - 1) < 5 * spread / density


# What a byte does not hold, of few binary digits and of many; and what bits alone decide.
@pytest.mark.parametrize(
    "density",
    [1 / 256, 0.5 + 1 / 512, 0.99999, 2.0**-20, 0.25, 0.75, 3 / 8, 11 / 16, 1 / 16, 1 / 32],
)
def test_chances_are_exact(density):
    # 2**22 elements: a density that were cut to a byte would be off by hundreds of deviations.
    size = 1 << 22
    found = run("dare_linear", [torch.ones(size)], torch.zeros(size), density=density)
    spread = math.sqrt(density * (1 - density) / size)
    assert abs(found.count_nonzero().item() / size - density) < 5 * spread


def test_masks_of_models_are_independent():
    a, b = run("dare_linear", [ONES, ZEROS], ZEROS), run("dare_linear", [ZEROS, ONES], ZEROS)
    both = ((a != 0) & (b != 0)).double().mean().item()
    assert abs(both - 0.25) < 5 * math.sqrt(0.25 * 0.75 / len(ONES))


@pytest.mark.parametrize("density", [0.5, 0.625, 0.3])
def test_neighbours_are_independent(density):
    # They are bits, or bytes, of one random number.
    kept = run("dare_linear", [ONES], ZEROS, density=density).view(-1, 64) != 0
    chance, spread = density**2, math.sqrt(density**2 * (1 - density**2) / len(kept))
    for one in range(64):
        both = (kept[:, one] & kept[:, one - 1]).double().mean().item()
        assert abs(both - chance) < 5 * spread


def test_masks_of_strips_and_blocks_differ():
    found = run("dare_linear", [torch.ones(3 * STRIP)], torch.zeros(3 * STRIP), block=2 * STRIP)
    first, second, third = found.view(3, STRIP)
    assert not torch.equal(first, second)
    assert not torch.equal(first, third)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("density", "expected"),
    [
        (0.5, "221202322020200011130003"),
        (0.75, "131323333212120233310203"),
        (0.3, "112000010211003031003200"),
    ],
)
def test_the_stream_of_bits(dtype, density, expected):
    # With other bits every merge gives another result: that would need a word in the changelog.
    base = torch.zeros(24, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    summary = torch.ones(2, dtype=torch.float64)
    found = dare_linear(
        [base + 1, base + 2],
        base=base,
        weights=[1, 1],
        summary=summary,
        generator=generator,
        density=density,
    )
    assert "".join(str(int(x)) for x in found) == expected


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_the_ends_of_the_range(method):
    tensor, base = torch.tensor([1.0, -2.0, math.inf]), torch.zeros(3)
    assert run(method, [tensor], base, density=1).tolist() == tensor.tolist()
    assert run(method, [tensor], base, density=0).tolist() == [0, 0, 0]
    assert run(method, [tensor], base, density=1e-12).tolist() == [0, 0, 0]
    assert run(method, [tensor], base, density=1 - 1e-12).tolist() == tensor.tolist()


def test_a_dropped_infinity_is_zero_and_not_nan():
    found = run("dare_linear", [torch.full((1000,), math.inf)], torch.zeros(1000))
    assert set(found.tolist()) == {0.0, math.inf}


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("size", [1000, 3 * STRIP + 5])
def test_l1_restores_the_sum_of_magnitudes(method, size):
    change = torch.randn(size, generator=torch.Generator().manual_seed(0))
    base = torch.zeros(size)
    found = run(method, [change], base, density=0.3, rescale="l1", block=2 * STRIP)
    before, after = change.double().abs().sum().item(), found.double().abs().sum().item()
    assert after == pytest.approx(before, rel=1e-6)
    kept = found != 0
    ratios = found[kept] / change[kept]
    assert ratios.std() < 1e-5
    assert 0.2 < kept.double().mean().item() < 0.4


def test_l1_of_nothing():
    base = torch.zeros(3)
    for density in (0.0, 0.5):
        assert run("dare_linear", [base], base, rescale="l1", density=density).tolist() == [0] * 3
    one = torch.ones(1)
    for seed in range(8):  # all dropped, or nothing
        found = run("dare_linear", [one], torch.zeros(1), rescale="l1", seed=seed).item()
        assert found in (0, 1)


def test_by_hand_where_nothing_is_dropped():
    base = torch.tensor([1.0])
    a, b, c = base + 2, base - 4, base + 1
    # 1 + 2 - 4 + 1, and with the sign of -1: 1 - 4
    assert run("dare_linear", [a, b, c], base, density=1).item() == 0
    assert run("dare_ties", [a, b, c], base, density=1).item() == -3
    # weights 2, 1, 1: 1 + (4 - 4 + 1) / 4; 4 - 4 + 1 > 0: 1 + (4 + 1) / 2
    weights = [2, 1, 1]
    found = run("dare_linear", [a, b, c], base, weights=weights, density=1, normalize=True)
    assert found.item() == 1.25
    assert run("dare_ties", [a, b, c], base, weights=weights, density=1).item() == 3.5
    # by count two of three are positive, and weighted (4 + 1) / (2 + 1)
    choices = {"density": 1, "elect": "count", "merge": "weighted"}
    found = run("dare_ties", [a, b, c], base, weights=weights, **choices)
    assert found.item() == pytest.approx(1 + 5 / 3)
    # mergekit's: 1 + 0.5 * (4 + 1), nothing divided
    choices = {**MERGEKIT_DEFAULTS["dare_ties"], "scale": 0.5}
    assert run("dare_ties", [a, b, c], base, weights=weights, **choices).item() == 3.5


def test_one_density_per_model():
    found = run("dare_linear", [ONES, 10 * ONES], ZEROS, density=[1, 0.5], rescale="none")
    assert set(found.tolist()) == {1.0, 11.0}
    found = run("dare_linear", [ONES, 10 * ONES], ZEROS, density=[0, 0.5])
    assert set(found.tolist()) == {0.0, 20.0}


def test_masks_depend_on_the_generator_alone():
    # There they came from the global generator, and so depended on the order of the tensors.
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a, b = torch.ones(50), torch.zeros(50)
    summary = torch.ones(1, dtype=torch.float64)
    calls = [
        function([a], base=b, weights=[1], summary=summary, generator=generator_of(0, "x", 0))
        for function in (dare_linear, dare_ties, dare_linear)
    ]
    assert torch.equal(calls[0], calls[1])
    assert torch.equal(calls[0], calls[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_that_cancel_are_an_error():
    with pytest.raises(MethodError, match="sum to zero.*normalize"):
        run("dare_linear", [ONES, ONES], ZEROS, weights=[1, -1], normalize=True)
    with pytest.raises(MethodError, match="sum to zero; use merge="):
        run("dare_ties", [ONES, ONES], ZEROS, weights=[1, -1], merge="weighted")


def test_complex_tensors_are_refused():
    tensor = torch.zeros(2, dtype=torch.complex64)
    with pytest.raises(MethodError, match="dare_linear looks at signs"):
        run("dare_linear", [tensor], tensor)
