"""The program: it ends at once, and yet nothing that was said or asked for is lost."""

import subprocess
import sys

import pytest
import torch

from conjoin.checkpoints import save

MAIN = """
import atexit, sys
from conjoin.__main__ import program
import conjoin.cli
def main():
    print("out")
    print("error", file=sys.stderr)
    atexit.register(print, "asked for")
    {end}
conjoin.cli.main = main
class Loud:
    def __del__(self):
        print("taken down")
kept = Loud()
program()
"""


def ended(end, **options):
    return subprocess.run(
        [sys.executable, "-c", MAIN.format(end=end)],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
        **options,
    )


@pytest.mark.parametrize(("end", "code"), [("sys.exit()", 0), ("sys.exit(130)", 130)])
def test_the_end_says_and_does_everything_but_taking_down(end, code):
    result = ended(end)
    assert result.returncode == code
    assert result.stdout == "out\nasked for\n"
    assert result.stderr == "error\n"


@pytest.mark.parametrize(
    ("end", "error"), [("sys.exit('why')", "why\n"), ("1 / 0", "ZeroDivisionError")]
)
def test_any_other_end_is_that_of_python(end, error):
    result = ended(end)
    assert result.returncode == 1
    assert error in result.stderr
    assert result.stdout == "out\nasked for\ntaken down\n"


def test_a_thread_is_waited_for():
    result = ended(
        "import threading, time; "
        "threading.Thread(target=lambda: (time.sleep(0.3), print('done'))).start(); sys.exit(0)"
    )
    assert "done\n" in result.stdout


def test_a_large_output_is_whole(tmp_path):
    many = {f"layer.{i}.weight": torch.zeros(1) for i in range(3000)}
    path = save(many, tmp_path / "m.safetensors")
    result = subprocess.run(
        [sys.executable, "-m", "conjoin", "inspect", path, "--no-data"],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=True,
    )
    assert "layer.2999.weight" in result.stdout
