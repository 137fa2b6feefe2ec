"""What benchmarks set for all of a program is put back after each test."""

import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def importable(monkeypatch):
    """Modules beside the benchmarks can be imported, anew for each test."""
    monkeypatch.syspath_prepend(str(FOLDER))
    torch.manual_seed(0)
    yield
    for name in [n for n in sys.modules if n.split(".")[0] in ("peers", "different_tasks")]:
        del sys.modules[name]
