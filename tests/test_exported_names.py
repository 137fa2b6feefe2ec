"""What the package shows: every public name is listed, exists, and says what it is."""

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import conjoin


def _source(name: str) -> str:
    found = importlib.util.find_spec(name)
    assert found is not None
    return Path(str(found.origin)).read_text(encoding="utf-8")


MODULES = sorted(
    name
    for name in ["conjoin", *(m.name for m in pkgutil.walk_packages(conjoin.__path__, "conjoin."))]
    if not any(part.startswith("_") for part in name.split("."))
    and _source(name).strip()  # an empty __init__.py has no names
)


def _public_definitions(module: ModuleType) -> list[str]:
    """Names of the functions and classes whose code stands in the module."""
    tree = ast.parse(_source(module.__name__))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [
        node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")
    ]


def _own_members(cls: type) -> dict[str, object]:
    """Public functions and properties in the body of a class, without what dataclass adds."""
    kinds = (staticmethod, classmethod, property)
    return {
        name: value
        for name, value in vars(cls).items()
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, kinds))
    }


def _type_checking_imports(path: Path) -> dict[str, str]:
    """``{name: module}`` of the imports under ``if TYPE_CHECKING``."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            imports = [part for part in node.body if isinstance(part, ast.ImportFrom)]
            return {a.asname or a.name: str(i.module) for i in imports for a in i.names}
    return {}


def test_modules_are_found():
    assert {"conjoin", "conjoin.errors", "conjoin.methods.table"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_all_lists_every_public_name_once(name: str):
    module = importlib.import_module(name)
    assert hasattr(module, "__all__"), f"{name} has no __all__"
    listed = list(module.__all__)
    assert len(listed) == len(set(listed)), f"{name}.__all__ has a name twice"
    missing = [entry for entry in listed if not hasattr(module, entry)]
    assert not missing, f"{name}.__all__ lists what does not exist"
    unlisted = set(_public_definitions(module)) - set(listed)
    assert not unlisted, f"public in {name}, but not in its __all__ (or give it an underscore)"


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_has_a_docstring(name: str):
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    bare = []
    for entry in _public_definitions(module):
        value = getattr(module, entry)
        # vars, since a class inherits __doc__, and dataclass writes one that says nothing.
        own = vars(value).get("__doc__") if isinstance(value, type) else value.__doc__
        if not own or own.startswith(f"{entry}("):
            bare.append(entry)
        if isinstance(value, type):
            members = _own_members(value)
            bare += [f"{entry}.{m}" for m in members if not inspect.getdoc(getattr(value, m))]
    assert not bare, f"without a docstring in {name}"


def test_top_level_names_have_one_home_each():
    homes = conjoin._HOMES
    assert sorted([*homes, "__version__"]) == sorted(conjoin.__all__)
    assert _type_checking_imports(Path(str(conjoin.__file__))) == homes
    for name, home in homes.items():
        module = importlib.import_module(home)
        assert name in module.__all__
        assert getattr(conjoin, name) is getattr(module, name)


def test_top_level_all_is_sorted_and_dir_shows_it():
    assert conjoin.__all__ == sorted(conjoin.__all__)
    assert dir(conjoin) == conjoin.__all__


def test_no_top_level_name_is_also_a_submodule():
    # Importing conjoin.merge would replace the function conjoin.merge by the module.
    submodules = {found.name for found in pkgutil.iter_modules(conjoin.__path__)}
    assert submodules.isdisjoint(conjoin.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'murge'"):
        _ = conjoin.murge


@pytest.mark.parametrize("heavy", ["torch", "numpy", "scipy", "matplotlib"])
def test_import_conjoin_is_light(heavy: str):
    code = f"import sys, conjoin; conjoin.__version__; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_errors_are_all_drawn_in_the_tree():
    errors = importlib.import_module("conjoin.errors")
    assert [name for name in errors.__all__ if name not in str(errors.__doc__)] == []
    classes = [getattr(errors, name) for name in errors.__all__]
    assert all(issubclass(found, errors.ConjoinError | Warning) for found in classes)
