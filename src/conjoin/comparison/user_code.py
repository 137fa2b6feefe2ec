"""Finding what the user names as ``net.py:VGG16`` or ``package.module:callable``, and calling it.

What that code raises is shown with its own traceback, without the frames of this program.
"""

import hashlib
import importlib
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from conjoin.checkpoints import closest_name
from conjoin.errors import ConjoinError, InputError, UserCodeError

__all__ = ["as_text", "find_callable", "is_theirs", "their_traceback", "users_code"]

_OURS = Path(__file__).parent.parent
_IMPORTING = Path(importlib.__file__).parent


@contextmanager
def users_code(what: str) -> Iterator[None]:
    """Turn what the user's code raises in the block into an error with its traceback.

    Raises:
        UserCodeError: anything but an error of ours or an interruption was raised, or the code
            ended the program.
    """
    try:
        yield
    except (ConjoinError, MemoryError):
        raise
    except SystemExit as error:
        raise UserCodeError(
            f"{what} ended the program (SystemExit: {error.code}); what only a script does belongs "
            f'under if __name__ == "__main__":\n{their_traceback(error)}'
        ) from error
    except Exception as error:
        raise UserCodeError(f"{what} raised an error:\n{their_traceback(error)}") from error


def as_text(name: str) -> str:
    r"""Give a name that files can hold: what are bytes and no text in it is shown escaped.

    >>> as_text("caf\udce9")
    'caf\\udce9'
    """
    return name.encode("utf-8", "backslashreplace").decode()


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
        known = f"it has {', '.join(names[:8])}" if names else "it is empty"
        raise InputError(
            f"{place} has no {name!r}; {f'did you mean {close!r}?' if close else known}"
        )
    if not callable(found):
        raise InputError(f"{spec} is no function or class, but {type(found).__name__}")
    return found  # type: ignore[no-any-return]


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
    _look_first_in(path.parent)
    try:
        with users_code(f"importing {path.name}"):
            spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _named_module(name: str) -> Any:
    _look_first_in(Path.cwd())
    try:
        with users_code(f"importing {name}"):
            return importlib.import_module(name)
    except UserCodeError as error:
        cause = error.__cause__
        missing = cause.name if isinstance(cause, ModuleNotFoundError) else None
        if missing is not None and f"{name}.".startswith(f"{missing}."):
            raise InputError(
                f"there is no module {name}; name a file, as net.py:NAME, or run this where "
                f"{name.partition('.')[0]} can be imported"
            ) from error
        raise


def _look_first_in(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def their_traceback(error: BaseException) -> str:
    """Format an error from the first frame of the user's on, or of a library if there is none.

    An error without such a frame, as of code that cannot be parsed, has no frames shown.
    """
    frames = _after(error.__traceback__, lambda name: _is_ours(name) or _is_of_a_library(name))
    frames = frames or _after(error.__traceback__, _is_ours)
    shown = traceback.TracebackException(type(error), error, frames)
    return "".join(shown.format()).rstrip()


def _after(
    frames: TracebackType | None, passed_over: Callable[[str], bool]
) -> TracebackType | None:
    while frames is not None and passed_over(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    return frames


def is_theirs(error: BaseException) -> bool:
    """Whether an error came up in code that is neither ours nor of a library."""
    return any(
        not _is_ours(name) and not _is_of_a_library(name)
        for name in (frame.filename for frame in traceback.extract_tb(error.__traceback__))
    )


def _is_of_a_library(filename: str) -> bool:
    path = Path(filename)
    installed = "site-packages" in path.parts or "dist-packages" in path.parts
    return installed or path.is_relative_to(sysconfig.get_path("stdlib"))


def _is_ours(filename: str) -> bool:
    """Whether a file is of this program, or of what imports theirs."""
    ours = Path(filename).is_relative_to(_OURS) or Path(filename).is_relative_to(_IMPORTING)
    return ours or filename.startswith("<frozen")
