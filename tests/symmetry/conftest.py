import sys
from pathlib import Path

import pytest

# With --import-mode=importlib a test folder is not importable; the toys and cases lie here.
sys.path.insert(0, str(Path(__file__).parent))

from symmetry_toys import Traced, traced_cases


@pytest.fixture(scope="session")
def traced() -> dict[str, Traced]:
    """All cases, exported once for each file."""
    return traced_cases()
