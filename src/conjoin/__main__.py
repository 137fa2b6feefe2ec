"""The program `conjoin`, which is `python -m conjoin`: begins and ends quickly."""

import atexit
import contextlib
import os
import sys
from dataclasses import dataclass

__all__ = ["program"]


@dataclass
class _Leaving:
    """The last thing that is done: the process ends without taking down what it has built.

    Freeing all objects of torch takes .3 s, and the system frees the memory anyway (mypy ends in
    the same way). It comes after what other modules do at the end, since they said so later.

    Args:
        status: the exit code, once it is known; until then Python ends as usual.
    """

    status: int | None = None

    def __call__(self) -> None:
        if self.status is None:
            return
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or no reader
                stream.flush()
        os._exit(self.status)


def program() -> None:
    """Run the command line of this process."""
    leaving = _Leaving()
    atexit.register(leaving)
    # NumPy's OpenBLAS starts a thread for each core when it is imported, and each of them waits for
    # work .05 s at full speed before it sleeps. This is the shortest time that it knows.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    from conjoin.cli import main  # after that: what it imports ends before

    try:
        main()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            leaving.status = end.code or 0
        raise


if __name__ == "__main__":
    program()
