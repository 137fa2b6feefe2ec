"""What a network's outputs depend on besides its tensors: source code, and plain attributes.

A class that was changed must make new measurements; a loader that was changed in the file beside it
must not.
"""

import ast
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import resolve_name
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

__all__ = ["code_digest", "structure_digest"]


def code_digest(made: Callable[..., Any]) -> str:
    """Hash the file that a class or function is from, and the files beside it that it imports.

    Beside it are the files in its folder and below; for a module of a package, all of the package.
    What is installed is known by its name and the version of its library. What has no file, as in
    a notebook, is known by its own source.
    """
    if isinstance(made, partial):
        return _hash(code_digest(made.func), _plain(made.args), _plain(made.keywords))
    named = getattr(made, "__module__", None) or type(made).__module__
    module = sys.modules.get(named)
    file = _file_of(module)
    if module is None or file is None:
        return _hash(_own_source(made))
    top = sys.modules.get(named.partition(".")[0], module)
    if _is_installed(file):
        # Two functions of one library differ by their names alone.
        return f"{top.__name__} {getattr(top, '__version__', '')} {_qualified(made)}"
    folder = (_file_of(top) or file).parent
    files: dict[Path, None] = {}
    _follow(module, folder, files)
    # Any bytes will do: a file need not be in UTF-8.
    texts = {f.relative_to(folder).as_posix(): f.read_bytes().decode("latin-1") for f in files}
    return _hash(*(part for name in sorted(texts) for part in (name, texts[name])))


def structure_digest(module: nn.Module) -> str:
    """Hash what a module is made of: the class of each part, its code and its plain attributes."""
    parts = list(module.named_modules())
    lines = [f"{name} {_qualified(type(part))} {_attributes(part)}" for name, part in parts]
    kinds = {_qualified(type(part)): type(part) for _, part in parts}
    return _hash(*lines, *(code_digest(kinds[name]) for name in sorted(kinds)))


def _follow(module: ModuleType, folder: Path, files: dict[Path, None]) -> None:
    """Add a module's file, and those of the modules in `folder` that it imports."""
    file = _file_of(module)
    if file is None or file in files or not file.is_relative_to(folder) or _is_installed(file):
        return
    files[file] = None
    for name in _imported(module, file):
        found = sys.modules.get(name)
        if found is not None:
            _follow(found, folder, files)


def _imported(module: ModuleType, file: Path) -> Iterator[str]:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            package = getattr(module, "__package__", None) or ""
            if node.level and not package:
                continue  # it cannot have been imported
            base = resolve_name(base, package) if node.level else base
            yield from _with_parents(base)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _with_parents(name: str) -> Iterator[str]:
    """Give a.b.c, a.b and a: importing the first runs the others."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _file_of(module: ModuleType | None) -> Path | None:
    name = getattr(module, "__file__", None)
    found = None if name is None else Path(name).resolve()
    return found if found is not None and found.suffix == ".py" and found.is_file() else None


def _is_installed(file: Path) -> bool:
    return any(part in ("site-packages", "dist-packages") for part in file.parts)


def _own_source(made: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(made)
    except (OSError, TypeError):
        return _plain(made)


def _attributes(part: nn.Module) -> str:
    found = {k: _plain(v) for k, v in vars(part).items() if k[:1] != "_" and k != "training"}
    return ", ".join(f"{name}={found[name]}" for name in sorted(found))


def _plain(value: Any) -> str:
    """Describe a value by what is the same in every process: no address is in it."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_plain(k)}: {_plain(v)}' for k, v in value.items())}}}"
    if isinstance(value, FunctionType):
        return f"{_qualified(value)} {value.__code__.co_code.hex()} {value.__code__.co_names}"
    return _qualified(value if isinstance(value, type) or callable(value) else type(value))


def _qualified(value: Any) -> str:
    name = getattr(value, "__qualname__", None) or type(value).__qualname__
    return f"{getattr(value, '__module__', '')}.{name}"


def _hash(*texts: str) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)} {text}".encode("utf-8", "backslashreplace"))
    return digest.hexdigest()
