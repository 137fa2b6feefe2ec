"""The program `conjoin` and its commands."""

import contextlib
import io
import shlex
import sys
from collections.abc import Sequence
from inspect import cleandoc
from typing import Annotated

import typer
from typer.core import TyperCommand

from conjoin import __version__
from conjoin.cli.align import align
from conjoin.cli.compare import compare
from conjoin.cli.computing import ComputingCommand
from conjoin.cli.diff import diff
from conjoin.cli.digits import digits
from conjoin.cli.errors import ReportingGroup
from conjoin.cli.inspect import inspect
from conjoin.cli.merge import merge
from conjoin.cli.methods import methods
from conjoin.cli.plan import plan
from conjoin.cli.report import report
from conjoin.cli.schema import schema
from conjoin.cli.symmetries import symmetries
from conjoin.cli.verify import verify

__all__ = ["app", "main"]

app = typer.Typer(
    name="conjoin",
    cls=ReportingGroup,
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"conjoin {__version__}")
        raise typer.Exit


def _conjoin(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", envvar="CONJOIN_DEBUG", help="Show the traceback of an error."),
    ] = False,
) -> None:
    """Combine the weights of trained PyTorch networks, and see whether the combination works.

    Files are safetensors files and files of torch.save; opening one never runs code from it.
    Files that are written appear whole or not at all, and none is replaced unless you say so.

    [dim]conjoin merge a.safetensors b.safetensors -o merged.safetensors[/dim]
    """


def _reflowed(docstring: str | None) -> str:
    """Put each paragraph on one line, for the terminal to break: not every typer does that."""
    paragraphs = cleandoc(docstring or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


app.callback(help=_reflowed(_conjoin.__doc__))(_conjoin)
for command in (
    *(merge, plan, verify, compare, report, inspect, diff),
    *(methods, schema, symmetries, align, digits),
):
    # A merge, or a look at headers, may need no torch, and imports it when it does.
    quick = command in (merge, plan, inspect, methods, schema, report)
    kind = TyperCommand if quick else ComputingCommand
    app.command(cls=kind, help=_reflowed(command.__doc__))(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; it ends with SystemExit, as programs do.

    Args:
        arguments: without the program's name; None takes those of the process.
    """
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is shown escaped instead of ending the program.
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(ValueError):
                stream.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    # A run says by which command it was made.
    app(args=given, prog_name="conjoin", obj=shlex.join(["conjoin", *given]))
