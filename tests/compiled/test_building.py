"""The compiled part is built where it can be, and its absence is no error."""

import ctypes
import importlib.util
import platform
import shutil
import sys
from pathlib import Path

import pytest
import torch

import conjoin.compiled.library as library

HOOK = Path(__file__).parents[2] / "hatch_build.py"
COMPILED = Path(str(library.__file__)).parent


@pytest.fixture
def hook():
    pytest.importorskip("hatchling")
    spec = importlib.util.spec_from_file_location("hatch_build", HOOK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def root(hook, tmp_path):
    folder = tmp_path / hook.FOLDER
    folder.mkdir(parents=True)
    for path in COMPILED.glob("*.[ch]"):
        shutil.copy(path, folder)
    return tmp_path


needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@needs_compiler
def test_every_kind_is_compiled_without_a_warning(hook, root, capfd):
    for kind, flags in hook.kinds().items():
        made = hook.compiled(root, kind, [*flags, "-Wall", "-Wextra", "-Werror"])
        assert made is not None, capfd.readouterr().out
        assert made.name == f"native-{kind}.bin"


@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the sets of x86-64 are others")
def test_the_kind_of_this_machine_is_among_them(hook, root, monkeypatch):
    monkeypatch.setattr(library, "__file__", str(root / hook.FOLDER / "library.py"))
    assert library.find_library() is None
    for kind, flags in hook.kinds().items():
        hook.compiled(root, kind, flags)
    found = library.find_library()
    assert found is not None
    made = ctypes.CDLL(str(found))
    assert made.conjoin_run
    assert made.conjoin_count
    assert made.conjoin_divergence


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_that_works_it_is_left_out(hook, root, monkeypatch, capsys, compiler):
    monkeypatch.setenv("CC", compiler)
    (root / hook.FOLDER / "native-avx2.bin").write_bytes(b"of an older version")
    assert hook.compiled(root, "avx2", []) is None
    assert "left out" in capsys.readouterr().out
    assert not (root / hook.FOLDER / "native-avx2.bin").exists()


def test_a_file_that_is_no_library_is_as_none(monkeypatch, tmp_path):
    broken = tmp_path / "native-avx2.bin"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(library, "find_library", lambda: broken)
    assert library.load_library.__wrapped__() is None


@needs_compiler
@pytest.mark.parametrize("name", ["tiles.c", "numbers.h", "divergence.c"])
def test_a_library_of_another_version_is_not_used(hook, root, monkeypatch, name):
    kind, flags = next(iter(hook.kinds().items()))
    made = hook.compiled(root, kind, flags)
    monkeypatch.setattr(library, "find_library", lambda: made)
    if kind == "generic" or torch.backends.cpu.get_cpu_capability().lower() == kind:
        assert library.load_library.__wrapped__() is not None
    with (made.with_name(name)).open("a") as source:
        source.write("/* a change */\n")
    assert library.load_library.__wrapped__() is None


def test_it_can_be_turned_off(monkeypatch):
    monkeypatch.setenv("CONJOIN_COMPILED", "0")
    assert library.load_library.__wrapped__() is None


def test_nothing_is_compiled_on_other_systems(hook, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert hook.kinds() == {}


def test_python_and_c_agree_on_the_operations():
    from conjoin.compiled.program import KINDS, REGISTERS, Operation

    text = (COMPILED / "tiles.c").read_text(encoding="utf-8")
    names = text[text.index("LOAD, STORE") : text.index("};", text.index("LOAD, STORE"))]
    listed = [name.strip() for name in names.replace("\n", " ").split(",")]
    assert listed == [operation.name for operation in Operation]
    assert [operation.value for operation in Operation] == list(range(len(listed)))
    assert f"REGISTERS = {REGISTERS}" in text
    text = (COMPILED / "numbers.h").read_text(encoding="utf-8")
    kinds = text[text.index("enum { BFLOAT16") :].split("}")[0].split("{")[1].split(",")
    assert [kind.strip() for kind in kinds] == ["BFLOAT16", "FLOAT16", "FLOAT32", "INT8", "BITS"]
    assert list(KINDS.values()) == list(range(len(kinds)))
