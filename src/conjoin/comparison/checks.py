"""What `compare` and `continuum` check of the options that they share."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

from conjoin.comparison.subject import Settings
from conjoin.errors import InputError

__all__ = ["check_calls", "run_folder", "settings_or_default"]


def run_folder(out: str | PathLike[str]) -> Path:
    """Give the folder of a run.

    Raises:
        InputError: it is no path, or a file.
    """
    if not isinstance(out, str | PathLike):
        raise InputError(f"out is the folder to write the run into, not {out!r:.80}")
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder to write the run into")
    return folder


def settings_or_default(settings: Settings | None) -> Settings:
    """Give the settings, or those there are without any.

    Raises:
        InputError: they are none.
    """
    if settings is not None and not isinstance(settings, Settings):
        raise InputError(
            "settings are conjoin.comparison.Settings, such as Settings(points=5), not "
            f"{settings!r:.80}"
        )
    return settings or Settings()


def check_calls(**functions: Callable[..., Any] | None) -> None:
    """Raise an InputError if one of these, by its name, is neither a function nor None."""
    for name, function in functions.items():
        if function is not None and not callable(function):
            hint = "" if isinstance(function, str | bool) else ", but what makes one"
            raise InputError(f"{name} is a function or a class, not {function!r:.80}{hint}")
