"""`conjoin verify`."""

from pathlib import Path
from typing import Annotated

import typer

from conjoin.cli.output import count_noun, output_console, print_json, printable

__all__ = ["verify"]


def verify(
    result: Annotated[
        Path,
        typer.Argument(
            metavar="RESULT",
            help="Folder or file that conjoin merge has written.",
            show_default=False,
        ),
    ],
    samples: Annotated[
        int, typer.Option("--samples", min=1, help="How many tensors to make again.")
    ] = 20,
    every: Annotated[bool, typer.Option("--all", help="Make all tensors again.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the drawing of tensors.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a merged model: make some of its tensors again from its inputs, and compare the bytes.

    The inputs are looked for where the recipe says, seen from the result. Their sizes, headers and
    the digests of what is read are compared with the record (conjoin.json), too.

    Writes nothing. The exit code is 0 if everything fits, and 1 if not.

    [dim]conjoin verify merged[/dim]

    [dim]conjoin verify merged.safetensors --all[/dim]
    """
    from conjoin.recipes import verify as check

    verdict = check(result, samples=None if every else samples, seed=seed)
    if as_json:
        print_json(
            {
                "result": str(result),
                "fits": not verdict.wrong,
                "tensors": list(verdict.tensors),
                "of": verdict.of,
                "wrong": list(verdict.wrong),
                "notes": list(verdict.notes),
            }
        )
    else:
        console = output_console()
        for line in verdict.wrong:
            console.print(printable(line), soft_wrap=True)
        counted = f"{len(verdict.tensors)} of {count_noun(verdict.of, 'tensor')}"
        word = "do not fit" if verdict.wrong else "are what the inputs and the recipe give"
        console.print(printable(f"{result}: {counted} made again; they {word}."), soft_wrap=True)
        for note in verdict.notes:
            console.print(printable(f"Note: {note}"), soft_wrap=True)
    if verdict.wrong:
        raise typer.Exit(1)
