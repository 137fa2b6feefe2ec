"""The program: it ends at once, and yet nothing that was said or asked for is lost."""

import os
import subprocess
import sys
from pathlib import Path

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


def ended(end, command="merge", **options):
    # With PYTHONUNBUFFERED nothing would be left to be written at the end.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [sys.executable, "-c", MAIN.format(end=end), command],
        **({"stdout": subprocess.PIPE} | options),
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=120,
        check=False,
        env=environment,
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


@pytest.mark.parametrize("command", ["align", "compare", "digits", "symmetries", ""])
def test_what_runs_code_of_users_ends_as_python_does(command):
    result = ended("sys.exit(0)", command)
    assert (result.returncode, result.stdout) == (0, "out\nasked for\ntaken down\n")


def test_a_thread_is_waited_for():
    result = ended(
        "import threading, time; "
        "threading.Thread(target=lambda: (time.sleep(0.3), print('done'))).start(); sys.exit(0)"
    )
    assert result.stdout == "out\ndone\nasked for\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk of Linux")
def test_what_cannot_be_written_is_told():
    with Path("/dev/full").open("w") as full:
        result = ended("sys.exit(0)", stdout=full)
    assert result.returncode == 120
    assert "No space left" in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk of Linux")
def test_a_difference_is_not_told_by_a_failure(tmp_path):
    one, two = (save({"w": torch.full((2,), v)}, tmp_path / f"{v}.pt") for v in (1.0, 2.0))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "conjoin", "diff", one, two, "--json", "--exit-code"]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            command,
            stdout=full,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            timeout=120,
            check=False,
            env=environment,
        )
    assert "No space left" in result.stderr
    assert result.returncode not in (0, 1)


def test_an_interrupt_while_modules_are_imported_is_no_traceback():
    code = """
import sys
class Interrupting:
    def find_spec(self, name, path, target=None):
        if name == "conjoin.cli":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
from conjoin.__main__ import program
program()
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (result.returncode, result.stderr) == (130, "Interrupted.\n")
