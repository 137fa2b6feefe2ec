"""Finding and calling the user's code; what it raises is shown as theirs."""

import sys

import pytest

from conjoin.comparison.user_code import find_callable, is_theirs, their_traceback, users_code
from conjoin.errors import DataError, InputError, UserCodeError


@pytest.fixture(autouse=True)
def modules(monkeypatch):
    """What a test imports is forgotten after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = dict(sys.modules)
    yield
    for name in set(sys.modules) - set(before):
        del sys.modules[name]


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_file(tmp_path):
    path = write(tmp_path, "netfile_a.py", "class Net:\n    width = 3\n")
    found = find_callable(f"{path}:Net")
    assert found.width == 3
    assert find_callable(f"{path}:Net") is found


def test_a_relative_file(tmp_path, monkeypatch):
    write(tmp_path, "netfile_b.py", "def make(): return 4\n")
    monkeypatch.chdir(tmp_path)
    assert find_callable("netfile_b.py:make")() == 4


def test_a_module_of_a_package(tmp_path, monkeypatch):
    write(tmp_path, "userpackage_a/__init__.py", "")
    write(tmp_path, "userpackage_a/nets.py", "from .more import Net\n")
    write(tmp_path, "userpackage_a/more.py", "class Net: pass\n")
    monkeypatch.chdir(tmp_path)
    assert find_callable("userpackage_a.nets:Net").__module__ == "userpackage_a.more"


def test_a_sibling(tmp_path):
    write(tmp_path, "sibling_a.py", "value = 5\n")
    path = write(tmp_path, "netfile_c.py", "from sibling_a import value\ndef f(): return value\n")
    assert find_callable(f"{path}:f")() == 5


def test_two_files_of_one_name(tmp_path):
    paths = [write(tmp_path, f"{n}/data_d.py", f"def f(): return {n}\n") for n in (1, 2, 3)]
    assert [find_callable(f"{path}:f")() for path in (*paths, *paths)] == [1, 2, 3, 1, 2, 3]


def test_a_file_called_as_a_module_of_python(tmp_path):
    import json

    path = write(tmp_path, "json.py", "def f(): return 6\n")
    assert find_callable(f"{path}:f")() == 6
    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("net.py", "expected FILE.py:NAME"),
        (":f", "expected FILE.py:NAME"),
        ("net.py:f()", "expected FILE.py:NAME"),
        ("absent.py:f", "there is no file absent.py"),
        ("no_such_package.nets:f", "no module no_such_package.nets; name a file"),
        ("no_such_module:f", "there is no module no_such_module"),
        ("json:laods", "json has no 'laods'; did you mean 'loads'"),
        ("json:zzzzzz", "json has no 'zzzzzz'; it has"),
        ("json:decoder", "is no function or class, but module"),
    ],
)
def test_specs_that_lead_nowhere(spec, message):
    with pytest.raises(InputError, match=message):
        find_callable(spec)


def ours_in(text):
    return "src/conjoin" in text or "importlib" in text


def test_a_file_that_raises(tmp_path):
    path = write(tmp_path, "raises_a.py", "def g():\n    return 1 / 0\ng()\n")
    for _ in range(2):  # it is not taken for imported the second time
        with pytest.raises(UserCodeError, match="ZeroDivisionError") as caught:
            find_callable(f"{path}:g")
        assert "return 1 / 0" in str(caught.value)
        assert 'raises_a.py", line 3' in str(caught.value)
        assert not ours_in(str(caught.value))


def test_a_module_that_raises(tmp_path, monkeypatch):
    write(tmp_path, "raises_b.py", "import no_such_thing\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserCodeError, match="no_such_thing") as caught:
        find_callable("raises_b:g")
    assert 'raises_b.py", line 1' in str(caught.value)
    assert not ours_in(str(caught.value))


def test_a_file_that_cannot_be_parsed(tmp_path):
    path = write(tmp_path, "broken_a.py", "x = 1\ndef f(:\n    pass\n")
    with pytest.raises(UserCodeError, match="SyntaxError") as caught:
        find_callable(f"{path}:f")
    text = str(caught.value)
    assert 'broken_a.py", line 2' in text
    assert "def f(:" in text
    assert not ours_in(text)


def test_a_script_that_ends_the_program(tmp_path):
    path = write(tmp_path, "script_a.py", "import sys\nsys.exit(2)\n")
    with pytest.raises(UserCodeError, match=r"SystemExit: 2.*__name__") as caught:
        find_callable(f"{path}:f")
    assert "sys.exit(2)" in str(caught.value)


@pytest.mark.parametrize("error", [DataError("mine"), KeyboardInterrupt(), MemoryError()])
def test_what_is_passed_on(error):
    with pytest.raises(type(error)) as caught, users_code("it"):
        raise error
    assert caught.value is error


def test_whose_error_it_is():
    with pytest.raises(InputError) as caught:
        find_callable("x")
    caught.value.__traceback__ = caught.value.__traceback__.tb_next  # without this file
    assert not is_theirs(caught.value)
    with pytest.raises(ZeroDivisionError) as theirs:
        1 / 0  # noqa: B018
    assert is_theirs(theirs.value)
    assert "test_user_code" in their_traceback(theirs.value)
