"""`conjoin report`."""

from pathlib import Path
from typing import Annotated

import typer

from conjoin.cli.output import output_console, printable
from conjoin.errors import InputError

__all__ = ["report"]


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Folders of runs; several are put beside each other."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The file. Default: report.html in RUN; of several, report-compared.html in "
            "the first.",
            show_default=False,
        ),
    ] = None,
    figures: Annotated[
        bool,
        typer.Option(
            "--figures", help="Also write every figure into RUN/figures as SVG, PDF and PNG."
        ),
    ] = False,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Make a page of a run: what came out in one sentence, the table, every figure.

    A run is a folder that conjoin compare, conjoin digits or conjoin.continuum has written. Several
    runs are put beside each other: the rows that they share, their differences, their curves.

    Writes one HTML file, in the place of an older one. It needs nothing else: send it, open it on
    a phone, print it. No network is used, by this command or by the page.

    [dim]conjoin report runs/digits-quick --open[/dim]

    [dim]conjoin report runs/before runs/after -o difference.html[/dim]
    """
    if out is not None and out.is_dir():
        raise InputError(f"--out takes a file, and {out} is a folder; name a file in it")
    from conjoin.report import read_run, save_figures, write_report

    console = output_console()
    page = write_report(runs, out)
    console.print(printable(f"wrote {page}"), soft_wrap=True)
    for run in runs if figures else []:
        written = save_figures(read_run(run), run / "figures")
        text = f"wrote {len(written)} files into {run / 'figures'}"
        console.print(printable(text), soft_wrap=True)
    if show:
        typer.launch(page.resolve().as_uri())
