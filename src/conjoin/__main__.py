"""The program `conjoin`, which is `python -m conjoin`: begins and ends quickly."""

import atexit
import os
import sys
import threading

__all__ = ["program"]

_QUICK = ("merge", "plan", "verify", "inspect", "diff", "methods", "schema")
"""Commands that run no code of users, who may have opened files of their own."""


def program() -> None:
    """Run the command line of this process."""
    # NumPy's OpenBLAS starts a thread for each core when it is imported, and each of them waits for
    # work .05 s at full speed before it sleeps. This is the shortest time that it knows.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    try:
        from conjoin.cli import main

        main()
    except KeyboardInterrupt:  # while modules are imported; later the commands see to it
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    except SystemExit as end:
        if sys.argv[1:2] and sys.argv[1] in _QUICK and isinstance(end.code, int | None):
            _leave(end.code or 0)
        raise


def _leave(status: int) -> None:
    """End the process without taking down what it has built, unless something is not written yet.

    Freeing all objects of torch takes .3 s, and the system frees the memory anyway. mypy ends in
    the same way (`mypy.util.hard_exit`); here what Python does before, in its order, is done too.
    """
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.main_thread():
            thread.join()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return  # Python says so, and with which exit code
    os._exit(status)


if __name__ == "__main__":
    program()
