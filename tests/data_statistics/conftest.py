import sys
from functools import cache
from pathlib import Path

import pytest

# With --import-mode=importlib a test folder is not importable; the networks lie here, and what
# imports libraries of models beside the tests of symmetries.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "symmetry"))

from statistics_networks import NETWORKS, randomized

from conjoin.data_statistics import Program
from conjoin.symmetry.tracing import trace


@pytest.fixture(scope="session")
def traced():
    """Give by name: a network, its program, and what makes batches; traced once for all tests."""

    @cache
    def make(name):
        network, batch = NETWORKS[name]
        net = randomized(network())
        return net, Program(trace(net, batch(2))), batch

    return make
