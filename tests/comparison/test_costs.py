"""What a piece of work takes."""

import mmap
import sys
import time

import pytest

from conjoin.comparison.costs import metered


def test_time():
    value, usage = metered(lambda: time.sleep(0.05) or "done")
    assert value == "done"
    assert usage.seconds >= 0.05


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_memory_is_of_the_work_and_not_of_what_was_before():
    size = 96 << 20

    def work(size=size):
        # Pages of the system's own: an allocator may have as much at hand already.
        with mmap.mmap(-1, size) as pages:
            pages.write(b"1" * size)

    work(4 * size)  # its peak is over
    _, usage = metered(work)
    if usage.peak_bytes is None:
        pytest.skip("this system does not let a process reset its peak")
    assert 0.9 * size < usage.peak_bytes < 3 * size
    _, idle = metered(lambda: None)
    assert idle.peak_bytes < size / 2


def test_errors_pass():
    with pytest.raises(ZeroDivisionError):
        metered(lambda: 1 / 0)
