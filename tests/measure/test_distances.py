import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conjoin.checkpoints import Kind, MemoryCheckpoint, save
from conjoin.errors import MismatchError
from conjoin.measure import by_kind, by_layer, compare_structure, distances

INF, NAN = math.inf, math.nan


def one(a, b, **arguments):
    (row,) = distances({"x": torch.as_tensor(a)}, {"x": torch.as_tensor(b)}, **arguments)
    return row


def values_of(row):
    return row.l2, row.relative, row.cosine, row.max_abs


def test_hand_worked_values():
    row = one([3.0, 4.0], [4.0, 3.0])
    assert values_of(row) == pytest.approx((math.sqrt(2), math.sqrt(2) / 5, 24 / 25, 1.0))
    assert (row.count, row.differing, row.kind) == (2, 2, Kind.WEIGHT)
    assert row.norms == pytest.approx((5.0, 5.0))


@given(
    seed=st.integers(0, 2**32 - 1),
    chunk=st.integers(1, 12),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
)
def test_agrees_with_numpy_in_float64_whatever_the_chunk(seed, chunk, dtype):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(2, 5, generator=generator).to(dtype) for _ in range(2))
    x, y = (tensor.double().numpy().ravel() for tensor in (a, b))
    row = one(a, b, chunk=chunk)
    norms = np.linalg.norm(x), np.linalg.norm(y)
    expected = np.linalg.norm(x - y), np.linalg.norm(x - y) / norms[0], x @ y / np.prod(norms)
    assert values_of(row)[:3] == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert row.max_abs == np.abs(x - y).max()
    assert row.count == 10


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([0.0, 0.0], [0.0, 0.0], (0, 0, 1, 0)),
        ([0.0, 0.0], [3.0, 4.0], (5, INF, NAN, 4)),
        ([3.0, 4.0], [0.0, 0.0], (5, 1, NAN, 4)),
        ([3.0, 4.0], [3.0, 4.0], (0, 0, 1, 0)),
        ([INF, 1.0], [INF, 1.0], (0, 0, 1, 0)),
        ([INF, 1.0], [INF, 2.0], (1, 0, NAN, 1)),
        ([INF, 1.0], [-INF, 1.0], (INF, NAN, NAN, INF)),
        ([1.0, 1.0], [INF, 1.0], (INF, INF, NAN, INF)),
        ([NAN, 1.0], [1.0, 1.0], (NAN, NAN, NAN, NAN)),
        ([NAN, 1.0], [NAN, 1.0], (NAN, NAN, NAN, NAN)),
        ([NAN, 1.0], [1.0, INF], (NAN, NAN, NAN, NAN)),
        ([0.0, 0.0], [NAN, 1.0], (NAN, NAN, NAN, NAN)),
        ([], [], (0, 0, 1, 0)),
    ],
)
@pytest.mark.parametrize("chunk", [1, 100])
def test_conventions(a, b, expected, chunk):
    assert values_of(one(a, b, chunk=chunk)) == pytest.approx(expected, nan_ok=True)


def test_nan_equals_nan_among_differing_elements():
    assert one([NAN, 1.0, 2.0], [NAN, 1.0, 3.0]).differing == 1
    assert one([NAN], [1.0]).differing == 1


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_squares_do_not_leave_the_range_of_float64(scale):
    a, b = (torch.tensor(v, dtype=torch.float64) * scale for v in ([3.0, 4.0], [4.0, 3.0]))
    row = one(a, b)
    assert row.l2 / scale == pytest.approx(math.sqrt(2))
    assert row.cosine == pytest.approx(24 / 25)


@pytest.mark.parametrize(
    "dtype",
    [torch.bool, torch.uint8, torch.int64, torch.uint16, torch.uint64, torch.float8_e4m3fn],
)
def test_every_dtype(dtype):
    row = one(torch.tensor([0, 1, 1]).to(dtype), torch.tensor([1, 1, 1]).to(dtype))
    assert (row.l2, row.max_abs, row.differing) == (1.0, 1.0, 1)


def test_large_integers_differ_though_float64_cannot_tell():
    row = one(torch.tensor([2**60]), torch.tensor([2**60 + 1]))
    assert row.differing == 1


def test_complex_numbers_are_pairs():
    row = one(torch.tensor([1 + 1j]), torch.tensor([4 + 5j]))
    assert (row.l2, row.max_abs, row.count, row.differing) == (5.0, 4.0, 1, 1)
    assert one(torch.tensor([1 + 0j]), torch.tensor([1.0])).l2 == 0
    conjugate = torch.tensor([1 + 1j]).conj()
    assert one(conjugate, torch.tensor([1 - 1j])).differing == 0


@given(seed=st.integers(0, 2**32 - 1))
def test_symmetric_but_for_relative(seed):
    a, b = torch.randn(2, 7, generator=torch.Generator().manual_seed(seed))
    forth, back = one(a, b), one(b, a)
    assert (forth.l2, forth.max_abs, forth.cosine) == (back.l2, back.max_abs, back.cosine)


def test_dtypes_may_differ():
    assert one(torch.tensor([0.5, 1.0], dtype=torch.float16), [0.5, 1.0]).differing == 0


def test_rows_are_in_the_order_of_the_first_and_a_tie_has_one_row():
    shared = torch.ones(2)
    a = {"z": torch.ones(1), "embed": shared, "head": shared}
    b = {"embed": torch.ones(2), "head": torch.ones(2), "z": torch.ones(1)}
    assert [row.name for row in distances(a, a)] == ["z", "embed"]
    assert [row.name for row in distances(a, b)] == ["z", "embed", "head"]


def test_files_are_compared_in_chunks(tmp_path):
    values = torch.randn(1000)
    path = save({"x": values}, tmp_path / "a.safetensors")
    (row,) = distances(path, {"x": values * 2}, chunk=64)
    assert row.relative == pytest.approx(1.0)
    assert row.cosine == pytest.approx(1.0)


def test_mismatches_raise_unless_only_shared_is_wanted():
    a = {"x": torch.ones(2), "y": torch.ones(2), "w": torch.ones(1)}
    b = {"x": torch.ones(2), "y": torch.ones(3), "v": torch.ones(1)}
    with pytest.raises(MismatchError, match="'w'"):
        distances(a, b)
    del a["w"], b["v"]
    with pytest.raises(MismatchError, match=r"'y': \[2\] and \[3\]"):
        distances(a, b)
    assert [row.name for row in distances(a, b, only_shared=True)] == ["x"]


def test_tensors_without_data_are_refused():
    from conjoin.errors import CheckpointError

    meta = {"x": torch.ones(2, device="meta")}
    with pytest.raises(CheckpointError, match="meta device"):
        distances(meta, meta)


def test_structure():
    a = {"x": torch.ones(2), "y": torch.ones(2), "w": torch.ones(1)}
    b = {"x": torch.ones(2).half(), "y": torch.ones(3), "v": torch.ones(1)}
    found = compare_structure(a, b)
    assert found
    assert (found.only_first, found.only_second) == (("w",), ("v",))
    assert found.shapes == {"y": ((2,), (3,))}
    assert found.dtypes == {"x": (torch.float32, torch.float16)}
    assert not compare_structure(a, a)


@given(seed=st.integers(0, 2**32 - 1))
def test_a_layer_is_the_concatenation_of_its_tensors(seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = ({n: torch.randn(3, generator=generator) for n in ("l.w", "l.b")} for _ in range(2))
    (layer,) = by_layer(distances(a, b))
    whole = one(torch.cat([*a.values()]), torch.cat([*b.values()]))
    assert layer.name == "l"
    assert values_of(layer) == pytest.approx(values_of(whole), rel=1e-12, abs=1e-12)
    assert (layer.count, layer.differing) == (whole.count, whole.differing)


def test_layers_keep_kinds_apart():
    names = ["bn.weight", "bn.bias", "bn.running_mean", "bn.num_batches_tracked", "top"]
    a = {name: torch.zeros(1) for name in names} | {names[3]: torch.tensor(0)}
    b = {name: torch.ones(1) for name in names} | {names[3]: torch.tensor(40_000)}
    rows = by_layer(distances(a, b))
    assert [(row.name, row.kind.value, row.max_abs) for row in rows] == [
        ("bn", "weight", 1.0),
        ("bn", "statistic", 1.0),
        ("bn", "counter", 40_000.0),
        ("", "weight", 1.0),
    ]
    totals = by_kind(distances(a, b))
    assert totals[Kind.WEIGHT].l2 == pytest.approx(math.sqrt(3))
    assert list(totals) == [Kind.WEIGHT, Kind.STATISTIC, Kind.COUNTER]


def test_a_layer_with_nan_is_nan_and_one_without_is_not():
    a = {"p.w": torch.tensor([NAN]), "p.b": torch.ones(1), "q.w": torch.ones(1)}
    p, q = by_layer(distances(a, {name: torch.ones(1) for name in a}))
    assert all(map(math.isnan, values_of(p)))
    assert values_of(q) == (0, 0, 1, 0)


def test_what_is_computed_is_computed_once():
    class Slow(MemoryCheckpoint):
        reads = 0

        def __getitem__(self, name):
            Slow.reads += 1
            return super().__getitem__(name)

    distances(Slow({"x": torch.ones(100)}), {"x": torch.ones(100)}, chunk=10)
    assert Slow.reads == 1
