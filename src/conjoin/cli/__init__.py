"""The command line: arguments to calls, results to tables or JSON, errors to one line.

Nothing here imports torch until a command runs, so that help is quick.
"""

from conjoin.cli.app import app, main

__all__ = ["app", "main"]
