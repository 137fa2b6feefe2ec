"""What is said, and with which exit code, when a command fails.

0 done   1 failed   2 an argument cannot be used   130 interrupted
"""

import errno
import re
import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from conjoin.cli.output import close_stdout, error_console, printable
from conjoin.errors import ConjoinError, InputError

__all__ = ["TROUBLE", "ReportingGroup", "explain"]

TROUBLE = "conjoin.trouble"
"""Key in a context's `meta`: the exit code of every error, where 1 has another meaning."""

# The library's messages name Python arguments; here the same things are options.
_PAIR = r"\{['\"]?(.*?)['\"]?: ['\"]?([^{}]*?)['\"]?\}"
_SPELLINGS = (
    (re.compile(r"\bpass overwrite=True"), "pass --overwrite"),
    (re.compile(r"\bpass allow_nonfinite=True"), "pass --allow-nonfinite"),
    (re.compile(r"\bkeep=" + _PAIR), r"--keep '\1=\2'"),
    (re.compile(r"\bkinds=" + _PAIR), r"--kind '\1=\2'"),
    (re.compile(r"\bdtype=torch\.(\w+)"), r"--dtype \1"),
    (re.compile(r"\bweights=\.\.\."), "--weights"),
    (re.compile(r"\bentry='([^']*)'"), r"--entry \1"),
    (re.compile(r"\bentry="), "--entry "),
)


class ReportingGroup(TyperGroup):
    """A group of commands whose failures are one line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # a broken pipe is noticed here, not when the interpreter ends
            return result
        except (KeyboardInterrupt, ConjoinError, OSError, MemoryError, RuntimeError) as error:
            if isinstance(error, typer.Exit | typer.Abort):
                raise  # these are RuntimeErrors
            reason = _reason(error)
            if reason is None:
                raise  # a mistake of ours: its traceback is wanted
            code = _report(reason, error, ctx)
        raise typer.Exit(code)


def _reason(error: BaseException) -> BaseException | None:
    """Return the exception to explain, or None if it is none that was expected."""
    if not isinstance(error, RuntimeError) or isinstance(error, ConjoinError):
        return error
    # torch.save hides a full disk, or an interruption, behind an error of its own.
    before = error.__cause__ or error.__context__
    while before is not None and not isinstance(before, OSError | KeyboardInterrupt | MemoryError):
        before = before.__cause__ or before.__context__
    return before


def _report(reason: BaseException, error: BaseException, ctx: Any) -> int:
    """Say what happened on stderr, and return the exit code."""
    if isinstance(reason, BrokenPipeError):
        close_stdout()
        return 1
    if isinstance(reason, KeyboardInterrupt):
        message, code = "Interrupted; nothing was written.", 130
    else:
        message, code = f"Error: {explain(reason)}", 2 if isinstance(reason, InputError) else 1
        code = ctx.meta.get(TROUBLE, code)
    if ctx.params.get("debug"):
        message = f"{''.join(traceback.format_exception(error)).rstrip()}\n{message}"
    console = error_console()
    for line in message.split("\n"):
        console.print(printable(line), soft_wrap=True, style="red" if console.is_terminal else "")
    return code


def explain(error: BaseException) -> str:
    """Say what went wrong, in terms of the command line.

    >>> explain(InputError("a.pt exists; choose another name, or pass overwrite=True"))
    'a.pt exists; choose another name, or pass --overwrite'
    >>> explain(PermissionError(13, "Permission denied", "a.pt"))
    'Permission denied: a.pt'
    """
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    if isinstance(error, OSError) and not isinstance(error, ConjoinError):
        return _explain_os(error)
    message = str(error)
    for pattern, spelling in _SPELLINGS:
        message = pattern.sub(spelling, message)
    return "\n".join([message, *getattr(error, "__notes__", [])])


def _explain_os(error: OSError) -> str:
    where = "" if error.filename is None else f": {error.filename}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full, or your share of it{where}; make room, then run this again"
    return f"{error.strerror or error}{where}"
