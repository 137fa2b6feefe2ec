import sys
from inspect import signature
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from conjoin.checkpoints import open_checkpoint, save
from conjoin.cli import app

# With --import-mode=importlib a test folder is not importable; `outside_project` lies here.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch):
    for name in ("FORCE_COLOR", "CONJOIN_DEBUG", "CONJOIN_MNIST", "CONJOIN_SVHN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")


def new_runner():
    # Before click 8.2, stderr was mixed into stdout unless one said no.
    old = "mix_stderr" in signature(CliRunner).parameters
    return CliRunner(mix_stderr=False) if old else CliRunner()


@pytest.fixture
def run():
    """Run the program in this process; the exit code has to be the expected one."""

    def run(*arguments, code=0):
        result = new_runner().invoke(app, [str(argument) for argument in arguments])
        expected_end = result.exception is None or isinstance(result.exception, SystemExit)
        assert expected_end, result.exception
        assert result.exit_code == code, (result.stdout, result.stderr)
        return result

    return run


@pytest.fixture
def two(tmp_path):
    """Two models with weights, statistics and a counter."""
    torch.manual_seed(0)
    paths = []
    for name in ("a", "b"):
        tensors = {
            "conv.weight": torch.randn(4, 3),
            "bn.weight": torch.randn(4),
            "bn.running_mean": torch.randn(4),
            "bn.running_var": torch.rand(4),
            "bn.num_batches_tracked": torch.tensor(7),
            "classifier.weight": torch.randn(2, 4),
        }
        paths.append(save(tensors, tmp_path / f"{name}.safetensors"))
    return paths


@pytest.fixture
def assert_same():
    """Compare a file or folder with named tensors, bit for bit."""
    return _assert_same


def _assert_same(path, expected):
    found = open_checkpoint(path)
    assert list(found) == list(expected)
    for name in expected:
        assert found[name].dtype == expected[name].dtype
        assert torch.equal(found[name], expected[name]), name
