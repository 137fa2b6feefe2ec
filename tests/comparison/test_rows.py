"""The list of rows, and how choices are made."""

import math

import torch

from conjoin.comparison.choosing import comparable
from conjoin.comparison.rows import BEST_PARENT, MEAN, ROWS, rows_for


def test_names():
    names = [row.name for row in rows_for(["a", "b"])]
    assert names[:3] == ["a alone", "b alone", BEST_PARENT]
    assert MEAN in names
    assert len(set(names)) == len(names)
    assert all(row.about and "\n" not in row.about for row in ROWS)


def test_nan_is_never_the_best():
    scores = [math.nan, -math.inf, -5.0, 3.0, math.nan]
    assert max(scores, key=comparable) == 3.0
    assert comparable(math.nan) == -math.inf


def test_the_thread_forgets_buffers(tiny):
    """Against sums written out: parameters are added up, statistics are those of a new network."""
    run = tiny.compare()
    (path,) = (run.folder / "checkpoints/seed-0").glob("*thread*")
    import conjoin

    saved = conjoin.open_checkpoint(path)
    one, other = tiny.network(0).state_dict(), tiny.network(1).state_dict()
    for name in ("0.weight", "0.bias", "1.weight", "3.bias"):
        assert torch.equal(saved[name], one[name] + other[name])
    assert saved["1.running_mean"].eq(0).all()
    assert saved["1.running_var"].eq(1).all()
    assert saved["1.num_batches_tracked"] == 0
