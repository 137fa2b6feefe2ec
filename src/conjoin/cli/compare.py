"""`conjoin compare`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from conjoin.cli.output import error_console, printable, report_console
from conjoin.errors import ConjoinError, DataError, InputError

__all__ = ["compare"]


def compare(
    ctx: typer.Context,
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODELS", help="Two or more files or folders of weights.", show_default=False
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the run.", show_default=False)
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="SPEC",
            help="Their class, or a function that makes the network: net.py:VGG16 or "
            "package.module:callable. Without it, nothing is run.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="SPEC",
            help="A function without arguments that gives the loaders: data.py:loaders.",
        ),
    ] = None,
    repeat: Annotated[
        list[str] | None,
        typer.Option(
            "--repeat",
            metavar="A,B",
            help="The same models from another seed, in the same order; may be repeated.",
        ),
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference",
            metavar="NAME=FILE",
            help="Another network to compare with: 'all data=c.pth'; may be repeated.",
        ),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            "--base",
            help="What all were fine-tuned from: adds a row for every method of merging.",
        ),
    ] = None,
    statistics: Annotated[
        int,
        typer.Option("--statistics", min=2, help="Training examples for re-estimated statistics."),
    ] = 2_000,
    curve_examples: Annotated[
        int, typer.Option("--curve-examples", min=1, help="Test examples for the curves.")
    ] = 2_000,
    points: Annotated[
        int, typer.Option("--points", min=3, help="Points of the curve between two networks.")
    ] = 11,
    labels: Annotated[
        str,
        typer.Option("--labels", metavar="N,N", help="Labels of an unseen domain to fine-tune on."),
    ] = "0,10,50,100",
    entry: Annotated[
        str | None,
        typer.Option("--entry", help="Which entry of torch files has the weights, say ema."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="Where networks run.")] = "cpu",
    title: Annotated[str | None, typer.Option("--title", help="Of the page.")] = None,
    no_page: Annotated[
        bool, typer.Option("--no-page", help="Write the results only, no figures and no page.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON, the rest to stderr.")
    ] = False,
) -> None:
    """Combine your networks in every way there is, and see what each combination is worth.

    Takes your own class and loaders. Every network alone, their ensemble, their sum, their mean,
    the mean with re-estimated statistics, the networks aligned and repaired, and fits to what each
    does on its data are scored on every task; curves show what lies between the networks, and what
    averaging does to each layer. The page says in words what came out.

    The data function gives {"train": loader, "validation": loader, "test": loader}, or one of
    those for each task by name. Loaders give (inputs, labels). A task with "trained_on": False is
    an unseen domain: does the merged network generalize to it, and learn it from few labels?

    Writes results.json, results.csv, merged checkpoints, figures and report.html into the folder.
    What is finished is kept: the same command goes on where it was interrupted, and measures
    again only what has changed.

    [dim]conjoin compare --model net.py:VGG16 --data data.py:loaders a.pth b.pth -o runs/mine[/dim]

    [dim]conjoin compare a.pth b.pth -o runs/files[/dim]  (distances and merged files only)
    """
    if (model is None) != (data is None):
        missing, given = ("--model", "--data") if model is None else ("--data", "--model")
        raise InputError(
            f"{given} needs {missing} too: networks are run on data. Without both, only what "
            "needs no running is measured"
        )
    from conjoin.comparison import Settings
    from conjoin.comparison import compare as run_comparison
    from conjoin.comparison.randomness import seeded
    from conjoin.comparison.user_code import find_callable
    from conjoin.progress import Bars
    from conjoin.report.table import print_table

    settings = Settings(
        statistics=statistics, curve_examples=curve_examples, points=points, labels=_counts(labels)
    )
    repeats, references = [_repeat(text) for text in repeat or []], _references(reference or [])
    console = report_console(stderr=as_json)
    try:
        # random_split and the like must divide the data alike each time, or nothing could go on.
        with seeded():
            source = None if model is None else find_callable(model)
            loaders = None if data is None else _loaders(data)
        with Bars(console, "") as bars:
            run = run_comparison(
                models,
                loaders,
                out=out,
                model=source,
                repeats=repeats,
                references=references,
                base=base,
                settings=settings,
                entry=entry,
                device=device,
                title=title,
                command=ctx.obj,
                progress=bars.start,
                notice=lambda line: console.print(printable(line), soft_wrap=True),
            )
        print_table(run, console)
        _finish(run, console, page=not no_page)
    except KeyboardInterrupt:
        message = "Interrupted; what is finished is kept. Run the same command again to go on."
        error_console().print(printable(message), soft_wrap=True)
        raise typer.Exit(130) from None
    if as_json:
        sys.stdout.write((out / "results.json").read_text(encoding="utf-8"))


def _loaders(spec: str) -> Any:
    from conjoin.comparison.user_code import find_callable, users_code

    function: Callable[[], Any] = find_callable(spec)
    with users_code(spec):
        loaders = function()
    if loaders is None:
        raise DataError(f"{spec} gave None; it must return the loaders")
    return loaders


def _finish(run: Any, console: Any, *, page: bool) -> None:
    if page:
        from conjoin.report import save_figures, write_report

        try:
            made = write_report([run.folder])
            save_figures(run, run.folder / "figures")
            console.print(f"\nThe page: {made}", soft_wrap=True, markup=False)
        except ConjoinError as error:  # what draws it is not installed; the results are there
            console.print(printable(f"\nNo page: {error}"), soft_wrap=True)
    console.print(f"Results: {run.folder / 'results.json'}", soft_wrap=True, markup=False)


def _repeat(text: str) -> list[Path]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise InputError(f"--repeat takes files, such as --repeat a1.pth,b1.pth, not {text!r}")
    return [Path(part) for part in parts]


def _references(texts: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not name or not path:
            raise InputError(f"--reference takes NAME=FILE, such as 'all data=c.pth', not {text!r}")
        if name in found:
            raise InputError(f"--reference names two files {name!r}; give each its own name")
        found[name] = Path(path)
    return found


def _counts(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isascii() and part.isdigit() for part in parts):
        raise InputError(f"--labels takes numbers, such as --labels 10,50, not {text!r}")
    return tuple(sorted({int(part) for part in parts}))
