"""Printing tables, lines and JSON, with names that come from files."""

import json
import math
import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = [
    "close_stdout",
    "count_noun",
    "error_console",
    "format_bytes",
    "format_number",
    "make_table",
    "output_console",
    "print_json",
    "printable",
    "report_console",
]

# Wider than any table: cut lines are of no use to grep.
_UNLIMITED = 100_000


def printable(text: str) -> Text:
    r"""Return text that cannot move the cursor, change colours or be taken for rich's markup.

    >>> printable("fc.[red]weight\x1b[2J").plain
    'fc.[red]weight\\x1b[2J'
    """
    return Text("".join(c if _is_plain(c) else c.encode("unicode_escape").decode() for c in text))


def _is_plain(character: str) -> bool:
    # C*: control, direction overrides, surrogates; Zl, Zp: separators that break lines.
    category = unicodedata.category(character)
    return category[0] != "C" and category not in ("Zl", "Zp")


def output_console() -> Console:
    """Return a console for results, on stdout."""
    return _console(stderr=False)


def error_console() -> Console:
    """Return a console for messages, on stderr."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _UNLIMITED
    return console


def report_console(*, stderr: bool) -> Console:
    """Return a console for a report of the library's own making, with markup and colours."""
    console = Console(stderr=stderr)
    if not console.is_terminal:
        console.width = 160  # a log file has room for the tables
    return console


def make_table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, left: int) -> Table:
    """Return a table of which the first `left` columns are text and the others numbers."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, column in enumerate(columns):
        if number < left:
            table.add_column(column, overflow="fold")
        else:
            table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(printable(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def print_json(value: object) -> None:
    """Print JSON in ASCII to stdout. What is not finite, which JSON has no number for, is null."""
    sys.stdout.write(json.dumps(_without_nonfinite(value), indent=2, allow_nan=False) + "\n")


def _without_nonfinite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nonfinite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nonfinite(item) for item in value]
    return value


def count_noun(count: int, noun: str) -> str:
    """Return a number of things in words.

    >>> count_noun(1, "tensor"), count_noun(1234, "tensor")
    ('1 tensor', '1,234 tensors')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_bytes(count: float) -> str:
    """Return a size for people.

    >>> format_bytes(999), format_bytes(1_234_567)
    ('999 B', '1.2 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def format_number(value: float) -> str:
    """Return a number in four digits.

    >>> format_number(0.000123456), format_number(float("nan"))
    ('0.0001235', 'nan')
    """
    return f"{value:.4g}"


def close_stdout() -> None:
    """Let what is still to be written to a closed pipe vanish quietly."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except OSError:
        pass  # stdout is no file of its own
