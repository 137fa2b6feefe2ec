"""The memory of a run does not grow with the models."""

import subprocess
import sys

import pytest

_MERGE = """
import sys, threading, time
from pathlib import Path

import torch
sys.path.insert(0, sys.argv[1])
from streaming_runs import merged_of, write

from conjoin.checkpoints import open_checkpoint


def anonymous():
    text = Path("/proc/self/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) / 1024


folder = Path(sys.argv[2])
models = [open_checkpoint(folder / f"{name}.safetensors") for name in "abc"]
merged = merged_of(models, sys.argv[3])
before, seen, ended = anonymous(), [], threading.Event()


def watch():
    while not ended.wait(0.002):
        seen.append(anonymous())


watcher = threading.Thread(target=watch)
watcher.start()
write(merged, folder / "out", threads=2)
ended.set()
watcher.join()
print(max(seen) - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("method", ["linear", "ties"])
def test_a_merge_takes_less_memory_than_a_tensor(tmp_path, method):
    import torch

    from conjoin.checkpoints import save

    # 67 MB in bfloat16, 134 MB in float32: one tensor held whole would not pass.
    state = {"w": torch.ones(4096, 8192, dtype=torch.bfloat16)}
    for name in "abc":
        save(state, tmp_path / f"{name}.safetensors")
    here = str(__file__).rpartition("/")[0]
    done = subprocess.run(
        [sys.executable, "-c", _MERGE, here, str(tmp_path), method],
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) < 100  # MB
