"""Torch is imported after the arguments are read, and garbage is looked for as before."""

import gc
import subprocess
import sys

import pytest

from conjoin.cli.computing import import_torch


def lines_of(code):
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=120, check=True
    )
    return result.stdout.splitlines()


@pytest.mark.parametrize("looks", [True, False])
def test_garbage_is_looked_for_as_before(looks):
    code = (
        "import gc, sys\n"
        "from conjoin.cli.computing import import_torch\n"
        f"gc.enable() if {looks} else gc.disable()\n"
        "found = []\n"
        "gc.callbacks.append(lambda phase, info: found.append(phase))\n"
        "import_torch()\n"
        "print('torch' in sys.modules, gc.isenabled(), len(found))\n"
        "print(gc.get_freeze_count() > 100_000)\n"
        "print(gc.get_threshold())\n"
    )
    found, frozen, thresholds = lines_of(code)
    assert (found, frozen) == (f"True {looks} 0", "True")
    assert thresholds == str(gc.get_threshold())


def test_nothing_happens_where_torch_is_imported_already():
    before = gc.get_freeze_count()
    import_torch()
    assert gc.get_freeze_count() == before


@pytest.mark.parametrize(
    ("arguments", "imported"),
    [(["methods", "mean"], True), (["merge", "--mistyped"], False), (["merge", "--help"], False)],
)
def test_mistakes_do_not_wait_for_torch(arguments, imported):
    code = (
        "import sys\n"
        "from conjoin.cli import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit:\n"
        "    print('torch' in sys.modules)\n"
    )
    assert lines_of(code)[-1] == str(imported)
