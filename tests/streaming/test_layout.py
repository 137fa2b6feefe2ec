"""Where every byte of a result will stand."""

import json
import math

import pytest
import safetensors
import torch
from hypothesis import given
from hypothesis import strategies as st
from streaming_runs import bits, few, filled, in_memory, merged_of, some, write

from conjoin.checkpoints import Kind, Spec, open_checkpoint
from conjoin.errors import InputError
from conjoin.streaming import INDEX, lay_out

dtypes = st.sampled_from(
    [torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.bool, torch.int64, torch.complex64]
)
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
shards = st.none() | st.integers(1, 200)


@st.composite
def many_specs(draw):
    names = draw(st.lists(st.text(max_size=6), unique=True, max_size=8))
    names = [name for name in names if name != "__metadata__"]
    specs = {}
    for name in names:
        free = [other for other, spec in specs.items() if spec.alias_of is None]
        if free and draw(st.integers(0, 3)) == 0:
            kept = draw(st.sampled_from(free))
            specs[name] = Spec(specs[kept].shape, specs[kept].dtype, Kind.WEIGHT, kept)
        else:
            specs[name] = Spec(draw(shapes), draw(dtypes), Kind.WEIGHT)
    return specs


@some
@given(many_specs(), shards)
def test_every_byte_belongs_to_the_header_or_to_one_tensor(specs, shard_bytes):
    layout = lay_out(specs, {}, shard_bytes=shard_bytes)
    placed = [name for file in layout.files for name in file.offsets]
    own = [name for name, spec in specs.items() if spec.alias_of is None]
    assert sorted(placed) == sorted(own)
    for file in layout.files:
        reached = len(file.header)
        for name, begin in file.offsets.items():
            assert begin == reached
            reached += specs[name].nbytes
        assert reached == file.size
    assert layout.size == sum(file.size for file in layout.files)


@some
@given(many_specs(), st.integers(1, 200))
def test_a_shard_holds_so_many_bytes_or_one_tensor_with_any(specs, shard_bytes):
    layout = lay_out(specs, {}, shard_bytes=shard_bytes)
    for file in layout.files:
        held = [specs[name].nbytes for name in file.offsets if specs[name].nbytes]
        assert sum(held) <= shard_bytes or len(held) == 1
    pairs = zip(layout.files, layout.files[1:], strict=False)
    for before, after in pairs:  # none that would have fitted into the one before
        held = sum(specs[name].nbytes for name in before.offsets)
        assert held + max(specs[name].nbytes for name in after.offsets) > shard_bytes or any(
            held + specs[name].nbytes > shard_bytes for name in after.offsets
        )


@some
@given(many_specs(), shards)
def test_the_index_names_every_tensor_and_all_bytes(specs, shard_bytes):
    layout = lay_out(specs, {}, shard_bytes=shard_bytes)
    assert (layout.index is None) == (len(layout.files) == 1)
    if layout.index is None:
        return
    index = json.loads(layout.index)
    own = {name: spec for name, spec in specs.items() if spec.alias_of is None}
    assert index["metadata"]["total_size"] == sum(spec.nbytes for spec in own.values())
    assert index["weight_map"] == {name: f.name for f in layout.files for name in f.offsets}
    count = len(layout.files)
    assert [file.name for file in layout.files] == [
        f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)
    ]


@few
@given(
    st.lists(st.tuples(shapes, st.sampled_from([torch.float16, torch.float32])), max_size=6),
    shards,
)
def test_conjoin_and_the_safetensors_package_read_what_was_laid_out(
    tmp_path_factory, given_shapes, shard_bytes
):
    out = tmp_path_factory.mktemp("layout") / "out"
    state = {f"t{i}": filled(shape, dtype, i) for i, (shape, dtype) in enumerate(given_shapes)}
    tied = filled((3, 2), torch.float32, 99)
    state = {"head": tied, **state, "embedding": tied, "rest": filled((4,), torch.float64, 98)}
    merged = merged_of([in_memory(state)] * 2)
    assert merged.specs["embedding"].alias_of == "head"
    write(merged, out, shard_bytes=shard_bytes)
    found = open_checkpoint(out)
    assert set(found) == set(state)
    assert found.specs["embedding"].alias_of == "head"
    assert {name: bits(found[name]) for name in state} == {n: bits(t) for n, t in state.items()}
    stored = {}
    for path in out.glob("*.safetensors"):
        with safetensors.safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                stored[name] = bits(file.get_tensor(name))
    assert stored == {name: bits(state[name]) for name in state if name != "embedding"}
    assert (out / INDEX).exists() == (len(list(out.glob("*.safetensors"))) > 1)


def test_names_of_files_of_one_and_of_several():
    specs = {name: Spec((4,), torch.float32, Kind.WEIGHT) for name in "abc"}
    assert [file.name for file in lay_out(specs, {}, name="x.safetensors").files] == [
        "x.safetensors"
    ]
    assert len(lay_out(specs, {}, shard_bytes=1, name="x.safetensors").files) == 3
    assert len(lay_out(specs, {}, shard_bytes=48).files) == 1
    assert len(lay_out(specs, {}, shard_bytes=47).files) == 2
    nothing = lay_out({}, {"a": "b"})
    assert nothing.size == math.ceil(nothing.size / 8) * 8 == len(nothing.files[0].header)


@pytest.mark.parametrize("shard_bytes", [0, -1])
def test_a_shard_of_no_bytes_is_refused(shard_bytes):
    with pytest.raises(InputError, match="above 0"):
        lay_out({}, {}, shard_bytes=shard_bytes)
