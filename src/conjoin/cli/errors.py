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

__all__ = ["IN_RECIPE", "TROUBLE", "ReportingGroup", "explain"]

TROUBLE = "conjoin.trouble"
"""Key in a context's `meta`: the exit code of every error, where 1 has another meaning."""

IN_RECIPE = "conjoin.in_recipe"
"""Key in a context's `meta`: whether what to do is said by a recipe, not by options."""

# The library's messages name Python arguments; here the same things are options, or keys of a
# recipe.
_PAIR = r"\{['\"]?(.*?)['\"]?: ['\"]?([^{}]*?)['\"]?\}"
_OF_A_RUN = ((re.compile(r"\b(overwrite|resume|restart)=True"), r"--\1"),)
_OPTIONS = (
    (re.compile(r"\bpass allow_nonfinite=True"), "pass --allow-nonfinite"),
    (re.compile(r"\bkeep=" + _PAIR), r"--keep '\1=\2'"),
    (re.compile(r"\bkinds=" + _PAIR), r"--kind '\1=\2'"),
    (re.compile(r"\bdtype=torch\.(\w+)"), r"--dtype \1"),
    (re.compile(r"\b(weights|base)=\.\.\."), r"--\1"),
    (re.compile(r"\bentry='([^']*)'"), r"--entry \1"),
    (re.compile(r"\bentry="), "--entry "),
)
_KEYS = (
    (re.compile(r"\bpass allow_nonfinite=True"), "write `nonfinite: allow`"),
    (re.compile(r"\bkeep=\{pattern: number\}"), "`keep: {PATTERN: MODEL}` in the recipe"),
    (re.compile(r"\b(keep|kinds)=" + _PAIR), r"`\1: {'\2': \3}` in the recipe"),
    (re.compile(r"\bdtype=torch\.(\w+)"), r"`dtype: \1` in the recipe"),
    (re.compile(r"\b(weights|base)=\.\.\."), r"`\1:`"),
    (re.compile(r"\bopen_checkpoint\(path, entry='([^']*)'\)"), r"`entry: \1` beside the model"),
    (re.compile(r"\bentry='([^']*)'"), r"`entry: \1`"),
)


class ReportingGroup(TyperGroup):
    """A group of commands whose failures are one line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            try:
                result = super().invoke(ctx)
            except typer.Exit:
                _flush()
                raise
            _flush()  # a broken pipe is noticed here, not when the interpreter ends
            return result
        except (KeyboardInterrupt, ConjoinError, OSError, MemoryError, RuntimeError) as error:
            if isinstance(error, typer.Exit | typer.Abort):
                raise  # these are RuntimeErrors
            reason = _reason(error)
            if reason is None:
                raise  # a mistake of ours: its traceback is wanted
            code = _report(reason, error, ctx)
        raise typer.Exit(code)


def _flush() -> None:
    if sys.stdout is not None:  # it is where standard output was closed: `conjoin ... >&-`
        sys.stdout.flush()


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
    in_recipe = bool(ctx.meta.get(IN_RECIPE))
    if isinstance(reason, KeyboardInterrupt):
        notes = [_spelled(note, in_recipe) for note in getattr(reason, "__notes__", [])]
        message, code = " ".join(["Interrupted.", *(notes or ["Nothing was written."])]), 130
    else:
        message = f"Error: {explain(reason, in_recipe=in_recipe)}"
        code = 2 if isinstance(reason, InputError) else 1
        code = ctx.meta.get(TROUBLE, code)
    if ctx.params.get("debug"):
        message = f"{''.join(traceback.format_exception(error)).rstrip()}\n{message}"
    console = error_console()
    for line in message.split("\n"):
        console.print(printable(line), soft_wrap=True, style="red" if console.is_terminal else "")
    return code


def explain(error: BaseException, *, in_recipe: bool = False) -> str:
    """Say what went wrong, in terms of the command line, or of a recipe.

    >>> explain(InputError("a.pt exists; choose another name, or pass overwrite=True"))
    'a.pt exists; choose another name, or pass --overwrite'
    >>> explain(InputError("choose: keep={'mask': 0}")), explain(
    ...     InputError("choose: keep={'mask': 0}"), in_recipe=True
    ... )
    ("choose: --keep 'mask=0'", "choose: `keep: {'mask': 0}` in the recipe")
    >>> explain(PermissionError(13, "Permission denied", "a.pt"))
    'Permission denied: a.pt'
    """
    if isinstance(error, MemoryError):
        return _noted("there is not enough memory", error, in_recipe)
    if isinstance(error, OSError) and not isinstance(error, ConjoinError):
        return _noted(_describe_os(error), error, in_recipe)
    return _noted(str(error), error, in_recipe)


def _noted(message: str, error: BaseException, in_recipe: bool) -> str:
    return _spelled("\n".join([message, *getattr(error, "__notes__", [])]), in_recipe)


def _spelled(message: str, in_recipe: bool = False) -> str:
    for pattern, spelling in (*_OF_A_RUN, *(_KEYS if in_recipe else _OPTIONS)):
        message = pattern.sub(spelling, message)
    return message


def _describe_os(error: OSError) -> str:
    where = "" if error.filename is None else f": {error.filename}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full, or your share of it{where}; make room, then run this again"
    return f"{error.strerror or error}{where}"
