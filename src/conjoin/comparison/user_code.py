"""Finding what the user names as ``net.py:VGG16`` or ``package.module:callable``, and calling it.

What that code raises is shown with its own traceback, without the frames of this program.
"""

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from conjoin.checkpoints import closest_name
from conjoin.errors import ConjoinError, InputError, UserCodeError

__all__ = ["code_digest", "find_callable", "users_code"]

_OURS = Path(__file__).parent.parent


@contextmanager
def users_code(what: str) -> Iterator[None]:
    """Turn what the user's code raises in the block into an error with its traceback.

    Raises:
        UserCodeError: anything but an error of ours or an interruption was raised.
    """
    try:
        yield
    except (ConjoinError, MemoryError):
        raise
    except Exception as error:
        raise UserCodeError(f"{what} raised an error:\n{_their_traceback(error)}") from error


def find_callable(spec: str) -> Callable[..., Any]:
    """Import what a spec names: ``FILE.py:NAME`` or ``PACKAGE.MODULE:NAME``.

    The folder of the file, or the working folder, is where its own imports are looked up first.

    Raises:
        InputError: the spec has another form, or there is no such file, module or name.
        UserCodeError: importing it raised.
    """
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name.isidentifier():
        raise InputError(
            f"expected FILE.py:NAME or PACKAGE.MODULE:NAME, such as net.py:VGG16, not {spec!r}"
        )
    module = _file_module(Path(place)) if place.endswith(".py") else _named_module(place)
    found = getattr(module, name, None)
    if found is None:
        names = [n for n in vars(module) if not n.startswith("_")]
        close = closest_name(name, names)
        hint = f"did you mean {close!r}?" if close else f"it has {', '.join(names[:8])}"
        raise InputError(f"{place} has no {name!r}; {hint}")
    if not callable(found):
        raise InputError(f"{spec} is no function or class, but {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def code_digest(function: Callable[..., Any]) -> str:
    """Hash the source of a function's file, and of the files beside it that were imported.

    What the user changes there must make a new measurement; libraries are known by their versions.
    """
    name = getattr(function, "__module__", type(function).__module__)
    own = getattr(sys.modules.get(name), "__file__", None)
    if own is None:
        return "unknown"
    folder = Path(own).resolve().parent
    loaded = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    files = {Path(file).resolve() for file in loaded if file}
    digest = hashlib.sha256()
    for file in sorted(f for f in files if f.is_relative_to(folder) and f.suffix == ".py"):
        digest.update(file.relative_to(folder).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _file_module(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    path = path.resolve()
    name = path.stem
    known = sys.modules.get(name)
    if known is not None:
        if getattr(known, "__file__", None) == str(path):
            return known
        name = f"{name}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        if name in sys.modules:
            return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # loaders with worker processes look their data sets up by name
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    try:
        with users_code(f"importing {path.name}"):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _named_module(name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        with users_code(f"importing {name}"):
            return importlib.import_module(name)
    except UserCodeError as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and name.startswith(cause.name or "\0"):
            raise InputError(
                f"there is no module {name}; name a file, as net.py:NAME, or run this where "
                f"{name.partition('.')[0]} can be imported"
            ) from error
        raise


def _their_traceback(error: BaseException) -> str:
    """Format an error from the first frame on that is neither ours nor the import machinery's."""
    frames: TracebackType | None = error.__traceback__
    while frames is not None and _is_passed_over(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    shown = traceback.TracebackException(type(error), error, frames or error.__traceback__)
    return "".join(shown.format()).rstrip()


def _is_passed_over(filename: str) -> bool:
    return filename.startswith("<frozen importlib") or Path(filename).is_relative_to(_OURS)
