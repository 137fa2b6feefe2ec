"""The packages that only the page and the figures need."""

from collections.abc import Iterator
from contextlib import contextmanager

from conjoin.errors import ConjoinError

__all__ = ["report_packages"]


@contextmanager
def report_packages() -> Iterator[None]:
    """Turn a missing package within the block into an error that says what to install.

    Raises:
        ConjoinError: a package that is not conjoin's own is missing.

    >>> with report_packages():
    ...     import a_package_that_nobody_has
    Traceback (most recent call last):
        ...
    conjoin.errors.ConjoinError: the package a_package_that_nobody_has is missing; install what
    the report needs: pip install "conjoin[report]"
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "conjoin").startswith("conjoin"):
            raise
        raise ConjoinError(
            f"the package {error.name} is missing; install what the report needs: "
            'pip install "conjoin[report]"'
        ) from error
