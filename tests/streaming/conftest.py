import json
import subprocess
import sys
from pathlib import Path

import pytest

# With --import-mode=importlib a test folder is not importable; `streaming_runs` lies here.
sys.path.insert(0, str(Path(__file__).parent))


class ForkedRuns:
    """The program of `forked_runs`, and what it answers to orders."""

    def __init__(self, process):
        self._process = process
        assert self._answer() == "ready"

    def __call__(self, **order):
        self.send(order)
        return int(self._answer())

    def send(self, order):
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def _answer(self):
        return self._process.stdout.readline().strip()

    def answer(self):
        return int(self._answer())


@pytest.fixture(scope="session")
def forked_runs():
    command = [sys.executable, str(Path(__file__).parent / "forked_runs.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield ForkedRuns(process)
        process.stdin.close()  # it ends
