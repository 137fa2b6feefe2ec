"""What a piece of work takes."""

import sys
import time

import pytest
import torch

from conjoin.comparison.costs import metered


def test_time():
    value, usage = metered(lambda: time.sleep(0.05) or "done")
    assert value == "done"
    assert usage.seconds >= 0.05


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_memory_is_of_the_work_and_not_of_what_was_before():
    size = 96 << 20  # more than an allocator keeps at hand

    def work():
        return int(torch.ones(size, dtype=torch.uint8)[-1])  # the memory is let go

    before = torch.ones(4 * size, dtype=torch.uint8)
    del before  # its peak is over
    _, usage = metered(work)
    if usage.peak_bytes is None:
        pytest.skip("this system does not let a process reset its peak")
    assert 0.9 * size < usage.peak_bytes < 3 * size
    _, idle = metered(lambda: None)
    assert idle.peak_bytes < size / 2


def test_errors_pass():
    with pytest.raises(ZeroDivisionError):
        metered(lambda: 1 / 0)
