"""Run folders that no training made."""

import sys
from pathlib import Path

import pytest

# With --import-mode=importlib a test folder is not importable; `synthetic_run` lies here.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def synthetic_run():
    """Give `write_synthetic_run`; see there."""
    from synthetic_run import write_synthetic_run

    return write_synthetic_run
