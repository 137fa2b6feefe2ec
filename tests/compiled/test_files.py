"""Programs over files: the bits, sums and digests of the same work on tensors."""

import os

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from conjoin.compiled import Programs, Stretch, load_library, run_over_files
from conjoin.merging.rounding import rounded
from conjoin.methods import METHODS
from conjoin.methods.reductions import quick_products

if load_library() is None and not os.environ.get("CONJOIN_REQUIRE_COMPILED"):
    pytest.skip("this installation has no compiled part", allow_module_level=True)

some = settings(deadline=None, max_examples=60)
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
# Around the 241 bytes of the long form of XXH3, its stripes of 64 and its blocks of 1024 bytes.
SIZES = [1, 2, 31, 32, 33, 60, 61, 119, 120, 121, 128, 480, 511, 512, 513, 1000, 1024, 1536, 5001]


def raw(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def numbers(count, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, generator=generator).to(dtype)


@pytest.fixture
def place(tmp_path):
    """Files that hold tensors, each behind so many other bytes."""
    opened = []

    def put(name, tensor, before=0):
        path = tmp_path / name
        path.write_bytes(b"x" * before + raw(tensor) + b"y" * 9)
        opened.append(os.open(path, os.O_RDWR))
        return Stretch(opened[-1], before, tensor.element_size())

    yield put
    for file in opened:
        os.close(file)


def linear(dtypes, result):
    weights = [0.3, 0.7, 0.11][: len(dtypes)]
    program = Programs(rounded).of(
        METHODS["linear"].function,
        {"weights": weights, "normalize": False},
        stored=dtypes,
        result=result,
        base=False,
    )
    assert program is not None
    return program


def products(tensors):
    return quick_products(tensors)


def digest(data):
    return xxhash.xxh3_64_hexdigest(data)


def of_blocks(tensor, block):
    """As `NotedCheckpoint` makes it: of the digests of all blocks."""
    parts = [tensor[k : k + block] for k in range(0, len(tensor), block)]
    return digest(b"".join(xxhash.xxh3_64_digest(raw(part)) for part in parts))


@some
@given(
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=1, max_size=3),
    result=st.sampled_from(DTYPES),
    count=st.sampled_from(SIZES),
    block=st.sampled_from([64, 128, 512, 4096]),
    before=st.integers(0, 9),
    seed=st.integers(0, 99),
)
def test_what_is_written_and_all_digests_are_those_of_the_tensors(
    dtypes, result, count, block, before, seed, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("files")
    tensors = [numbers(count, dtype, seed + k) for k, dtype in enumerate(dtypes)]
    program = linear(dtypes, result)
    expected = program.run(tensors)
    files = []
    try:
        stretches = []
        for k, tensor in enumerate(tensors):
            path = folder / str(k)
            path.write_bytes(b"x" * before + raw(tensor) + b"y")
            files.append(os.open(path, os.O_RDONLY))
            stretches.append(Stretch(files[-1], before, tensor.element_size()))
        out = folder / "out"
        out.write_bytes(b"." * (before + expected.nbytes + 3))
        files.append(os.open(out, os.O_RDWR))
        target = Stretch(files[-1], before, expected.element_size())
        passed = run_over_files(program, stretches, target, count, block, digests=True)
        assert passed is not None
        assert out.read_bytes() == b"." * before + raw(expected) + b"..."
        assert passed.written == digest(raw(expected))
        assert passed.read == tuple(of_blocks(tensor, block) for tensor in tensors)
        unasked = run_over_files(program, stretches, target, count, block)
        assert (unasked.read, unasked.written) == ((), passed.written)
    finally:
        for file in files:
            os.close(file)


@pytest.mark.parametrize("count", [64, 1000, 4096, 5001])
def test_sums_are_those_of_the_blocks_added_up(place, count):
    tensors = [numbers(count, torch.bfloat16, k) for k in range(3)]
    program = Programs(rounded).of(
        products, {}, stored=[torch.bfloat16] * 3, result=None, base=False
    )
    expected = torch.zeros(6, dtype=torch.float64)
    for start in range(0, count, 1024):
        expected += program.run([tensor[start : start + 1024] for tensor in tensors])
    stretches = [place(str(k), tensor, before=k) for k, tensor in enumerate(tensors)]
    passed = run_over_files(program, stretches, None, count, 1024)
    assert (passed.sums == expected.numpy()).all()  # to the last bit: one order of additions
    wide = np.stack([tensor.double().numpy() for tensor in tensors])
    pairs = (wide @ wide.T)[np.triu_indices(3)]
    np.testing.assert_allclose(passed.sums, pairs, rtol=1e-5, atol=1e-4)
    assert (passed.read, passed.written) == ((), None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("at", [0, 700, 1999])
def test_it_gives_up_on_numbers_that_are_not_finite(place, value, at):
    tensors = [numbers(2000, torch.float16, k) for k in range(2)]
    tensors[1][at] = value
    stretches = [place(str(k), tensor) for k, tensor in enumerate(tensors)]
    target = place("out", torch.zeros(2000, dtype=torch.float16))
    program = linear([torch.float16] * 2, torch.float16)
    assert run_over_files(program, stretches, target, 2000, 512) is None


def test_it_gives_up_where_a_file_ends_or_cannot_be_written(place, tmp_path):
    tensor = numbers(2000, torch.float32, 0)
    program = linear([torch.float32], torch.float32)
    stretch, target = place("in", tensor), place("out", torch.zeros(2000))
    assert run_over_files(program, [stretch], target, 2000, 512) is not None
    assert run_over_files(program, [stretch], target, 2600, 512) is None
    readable = os.open(tmp_path / "out", os.O_RDONLY)
    closed = Stretch(readable, 0, 4)
    assert run_over_files(program, [stretch], closed, 2000, 512) is None
    os.close(readable)
    assert run_over_files(program, [closed], target, 2000, 512) is None


def test_it_leaves_random_masks_to_others(place):
    stretches = [place(str(k), numbers(300, torch.bfloat16, k)) for k in range(2)]
    target = place("out", torch.zeros(300, dtype=torch.bfloat16))
    program = linear([torch.bfloat16] * 2, torch.bfloat16)
    assert run_over_files(program, stretches, target, 300, 512) is not None
    program.draws = (lambda generator, size: [torch.zeros(size, dtype=torch.int8)],)
    assert run_over_files(program, stretches, target, 300, 512) is None
