"""A checkpoint that takes note of what was read."""

import threading

import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from streaming_runs import BLOCK, bits, filled, in_memory, on_disk, small_blocks, some

from conjoin.streaming import NotedCheckpoint
from conjoin.streaming.noted import RawBytes, digest_of, raw_bytes


def _by_hand(flat):
    data = bits(flat)[2]
    step = BLOCK * flat.dtype.itemsize
    digests = [xxhash.xxh3_64_digest(data[i : i + step]) for i in range(0, len(data), step)]
    return xxhash.xxh3_64_hexdigest(b"".join(digests))


@some
@given(
    st.integers(0, 400),
    st.sampled_from([torch.bfloat16, torch.float64]),
    st.sampled_from(["whole", "ranges", "blocks", "blocks of a file"]),
)
def test_the_digest_is_the_same_read_whole_or_in_blocks(tmp_path_factory, numel, dtype, how):
    tensor = filled((numel,), dtype, 0)
    inner = in_memory({"w": tensor})
    if how == "blocks of a file":
        inner = on_disk({"w": tensor}, tmp_path_factory.mktemp("noted") / "w.safetensors")
    with small_blocks():
        noted = NotedCheckpoint(inner)
        if how == "whole":
            assert bits(noted["w"]) == bits(tensor)
        elif how != "ranges":
            parts = [block.clone() for block in noted.blocks("w", 0, numel, BLOCK)]
            assert bits(torch.cat([*parts, tensor[:0]])) == bits(tensor)
        else:
            for start in range(0, numel, BLOCK):
                noted.read("w", start, min(start + BLOCK, numel))
        assert noted.take("w", 0, numel) == _by_hand(tensor)
        if numel:
            assert noted.take("w", 0, numel) is None  # taken


def test_a_range_that_was_read_in_part_has_no_digest():
    tensor = filled((200,), torch.float32, 0)
    with small_blocks():
        noted = NotedCheckpoint(in_memory({"w": tensor}))
        noted.read("w", 0, BLOCK)
        noted.read("w", BLOCK + 1, 2 * BLOCK)
        assert noted.take("w", 0, 2 * BLOCK) is None
        noted.read("w", 2 * BLOCK, 3 * BLOCK)
        list(noted.blocks("w", 3 * BLOCK, 200, BLOCK))
        assert noted.take("w", 2 * BLOCK, 200) == _by_hand(tensor[2 * BLOCK :])


def test_no_note_is_taken_of_a_sample():
    noted = NotedCheckpoint(in_memory({"w": torch.arange(9.0)}))
    assert noted.sample("w", 1, 9, 3).tolist() == [1, 4, 7]
    assert noted.take("w", 0, 9) is None


def test_two_threads_that_read_the_same_both_have_its_digest():
    # A layer may stand twice in a result, and both be made at once.
    noted = NotedCheckpoint(in_memory({"w": filled((10,), torch.float32, 0)}))
    both_read, found = threading.Barrier(2, timeout=20), []

    def job():
        noted.read("w")
        both_read.wait()
        found.append(noted.take("w", 0, 10))

    threads = [threading.Thread(target=job) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] is not None
    assert found[0] == found[1]


def test_it_is_the_other_checkpoint_in_every_respect(tmp_path):
    inner = on_disk({"w": torch.ones(3), "v": torch.zeros(2)}, tmp_path / "m.safetensors")
    noted = NotedCheckpoint(inner)
    assert noted.specs == inner.specs
    assert noted.metadata == inner.metadata
    assert (noted.source, noted.files) == (inner.source, inner.files)
    assert noted.in_file("w") == inner.in_file("w")
    assert noted.reads_ranges("w") is inner.reads_ranges("w")


def test_bytes_of_views_and_lazy_bits_are_those_of_the_values():
    wide = torch.arange(12.0).reshape(3, 4)
    numbers = filled((5,), torch.complex64, 0)
    for tensor in (wide.t(), wide[:, 1], numbers.conj(), numbers.conj().imag, wide[:0]):
        plain = tensor.clone().resolve_conj().resolve_neg().contiguous()
        assert bytes(raw_bytes(tensor)) == bits(plain)[2]
        assert digest_of(tensor) == digest_of(plain)


def test_bytes_are_those_that_a_tensor_has_now():
    raw, tensor = RawBytes(), torch.arange(6.0)
    spread = torch.arange(12.0)[::2]  # of which a copy is made
    for one in (tensor, spread, tensor[:2], tensor, torch.zeros(0), tensor):
        one += 1
        assert bytes(raw.of(one)) == one.numpy().tobytes()
        one += 1
        assert bytes(raw.of(one)) == one.numpy().tobytes()
    tensor.resize_(3)
    assert bytes(raw.of(tensor)) == tensor.numpy().tobytes()
    tensor.set_(torch.full((3,), 7.0))
    assert bytes(raw.of(tensor)) == tensor.numpy().tobytes()
