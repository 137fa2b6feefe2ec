"""Which files a hash of code depends on."""

import importlib
import sys

import pytest
from torch import nn

from conjoin.comparison.source_code import code_digest, structure_digest
from conjoin.comparison.user_code import find_callable


@pytest.fixture(autouse=True)
def modules(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = dict(sys.modules)
    yield
    for name in set(sys.modules) - set(before):
        del sys.modules[name]


FILES = {
    "net_s.py": "import near_s\nfrom far_s.inner import deep\ndef make():\n    import late_s\n",
    "near_s.py": "VALUE = 1\n",
    "far_s/__init__.py": "from . import other\n",
    "far_s/inner.py": "def deep(): pass\n",
    "far_s/other.py": "OTHER = 1\n",
    "late_s.py": "pass\n",
    "data_s.py": "def loaders(): pass\n",
    "unused_s.py": "pass\n",
}


@pytest.fixture
def project(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    make = find_callable(f"{tmp_path / 'net_s.py'}:make")
    make()
    find_callable(f"{tmp_path / 'data_s.py'}:loaders")
    importlib.import_module("unused_s")
    return tmp_path, make


@pytest.mark.parametrize("name", FILES)
def test_what_is_imported_counts_and_nothing_else(project, name):
    folder, make = project
    before = code_digest(make)
    assert code_digest(make) == before
    path = folder / name
    path.write_text(path.read_text() + "# changed\n")
    assert (code_digest(make) != before) == (name not in ("data_s.py", "unused_s.py"))


def test_all_of_a_package_counts(tmp_path, monkeypatch):
    files = {
        "pack_s/__init__.py": "", "pack_s/base.py": "X = 1\n", "pack_s/sub/__init__.py": "",
        "pack_s/sub/net.py": "from ..base import X\nfrom . import more\nclass Net: pass\n",
        "pack_s/sub/more.py": "",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    net = find_callable("pack_s.sub.net:Net")
    digests = {code_digest(net)}
    for name in files:
        (tmp_path / name).write_text(files[name] + "# changed\n")
        digests.add(code_digest(net))
    # The package's own file is not imported by name there, but running a part of it runs it.
    assert len(digests) >= len(files) - 1


def test_what_has_no_file():
    spaces = [{"__name__": "nowhere_s"} for _ in range(3)]
    for space, number in zip(spaces, (1, 1, 2), strict=True):
        exec(f"def f():\n    return x.{'a' * number}", space)
    one, same, other = (code_digest(space["f"]) for space in spaces)
    assert one == same != other


def test_libraries_are_known_by_their_version():
    assert code_digest(nn.Linear).startswith("torch 2")


def test_no_address_is_in_it():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.thing, self.function, self.names = object(), lambda: 1, {"a": (1, [2.0])}

    assert structure_digest(Odd()) == structure_digest(Odd())
    assert structure_digest(nn.Sequential(Odd())) != structure_digest(Odd())
