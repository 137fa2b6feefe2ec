import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import conjoin
from conjoin.checkpoints import save

COMMANDS = [
    "merge",
    "plan",
    "verify",
    "compare",
    "report",
    "inspect",
    "diff",
    "methods",
    "schema",
    "digits",
    "symmetries",
    "align",
]
HEAVY = "{'torch', 'altair', 'numpy', 'scipy', 'safetensors', 'yaml', 'conjoin.records'}"


def python(*arguments, **options):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
        **options,
    )


def test_version(run):
    assert run("--version").stdout == f"conjoin {conjoin.__version__}\n"


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_teaches(run, command):
    text = " ".join(run(*command, "--help").stdout.split())
    assert "Usage: conjoin" in text
    if command:
        assert "Writes" in text
        assert text.count(f"conjoin {command[0]}") >= 3  # the usage, and two examples
    assert "[dim]" not in text
    assert run(*command, "-h").stdout == run(*command, "--help").stdout


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_does_not_wait_for_torch(command):
    code = (
        "import sys\n"
        "from conjoin.cli import main\n"
        "try:\n"
        f"    main({[*command, '--help']!r})\n"
        "finally:\n"
        f"    print(sorted({HEAVY} & sys.modules.keys()), file=sys.stderr)\n"
    )
    result = python("-c", code)
    assert result.returncode == 0
    assert result.stderr.strip() == "[]"


def test_no_arguments_show_help():
    result = python("-m", "conjoin")
    assert "Commands" in result.stdout + result.stderr


def test_typing_mistakes_are_usage_errors(run):
    assert "No such command" in run("mrege", code=2).stderr
    assert "No such option" in run("inspect", "--jsn", "x", code=2).stderr


def test_python_m_conjoin(two):
    result = python("-m", "conjoin", "inspect", two[0], "--json")
    assert result.returncode == 0
    assert len(json.loads(result.stdout)["tensors"]) == 6
    failed = python("-m", "conjoin", "inspect", "missing.pt")
    assert failed.returncode == 1
    assert failed.stderr.startswith("Error: there is no file missing.pt")
    assert failed.stdout == ""


@pytest.mark.skipif(os.name != "posix", reason="pipes and signals of POSIX")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_closed_pipe_is_quiet(tmp_path, options):
    many = {f"layer.{i}.weight": torch.zeros(1) for i in range(3000)}
    path = save(many, tmp_path / "m.safetensors")
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(
        [sys.executable, "-m", "conjoin", "inspect", path, "--no-data", *options],
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=120,
        check=False,
    )
    os.close(write)
    assert result.stderr == b""
    assert result.returncode == 1


@pytest.mark.skipif(os.name != "posix", reason="pipes and signals of POSIX")
def test_ctrl_c_leaves_what_can_be_gone_on_with(run, two, tmp_path):
    code = (
        "import time\n"
        "from conjoin.streaming.running import _Files\n"
        "write = _Files.write\n"
        "def slow(*arguments):\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(0.5)\n"
        "    write(*arguments)\n"
        "_Files.write = slow\n"
        "from conjoin.cli import main\n"
        f"main(['merge', {str(two[0])!r}, {str(two[1])!r}, '-o', 'out.safetensors'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        encoding="utf-8",
    )
    with process:
        assert process.stdout.readline().startswith("writing")  # of two processes, perhaps
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error == (
        "Interrupted. What is done lies in out.safetensors.partial; go on with --resume.\n"
    )
    out = tmp_path / "out.safetensors"
    assert not out.exists()
    run("merge", *two, "-o", out, "--resume")
    same = save(conjoin.merge(two), tmp_path / "python.safetensors")
    assert out.read_bytes() == same.read_bytes()


def test_names_that_the_encoding_lacks_are_escaped(tmp_path):
    path = save({"fusión": torch.ones(1)}, tmp_path / "m.safetensors")
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    result = python("-m", "conjoin", "inspect", path, env=ascii_only)
    assert result.returncode == 0
    assert "fusi\\xf3n" in result.stdout
